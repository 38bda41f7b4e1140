"""The export: what lies in it, that it is refused when it differs, and that it serves without this project."""

import json
import os
import platform
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

from tests.conftest import run_cli, subprocess_environment
from trainer.errors import UserError
from trainer.models.kernels import native as native_forward
from trainer.models.kernels import native_library as native
from trainer.models.kernels.native_library import NativeLibrary
from trainer.serving import export
from trainer.serving.export import difference, next_version, reload_and_call, requests_for


def requests_of(texts):
    """The requests of strings, without those of token ids."""
    requests = requests_for({"text": texts}, {"input_ids": [[101, 102]]})
    return {signature: request for signature, request in requests.items() if signature != "tokens"}


def test_what_an_export_holds(exported_run, exported):
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert {"saved_model.pb", "assets/labels.txt", "assets.extra/tf_serving_warmup_requests"} <= names
    assert (exported / "assets/labels.txt").read_text() == "negative\npositive\n"
    assert sorted(path.name for path in (exported_run / "exports").iterdir()) == ["1"]
    assert run_cli("export", f"--workdir={exported_run}") == 0
    assert next_version(str(exported_run / "exports")) == 3


def test_a_clean_process_gives_predicts_answers(exported_run, exported, tmp_path, reviews):
    texts = [row["text"] for row in reviews[100:110]]
    (tmp_path / "in.csv").write_text("text\n" + "".join(json.dumps(text).replace('\\"', '""') + "\n" for text in texts))
    assert run_cli("predict", f"--workdir={exported_run}", f"--input={tmp_path}/in.csv", f"--output={tmp_path}/out.jsonl") == 0
    predicted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    replies = reload_and_call(str(exported), requests_of([row["text"] for row in predicted]))
    for signature in ("serving_default", "examples"):
        assert replies[signature]["label"] == [row["label"] for row in predicted]
        assert replies[signature]["probability"] == pytest.approx([row["probability"] for row in predicted], abs=1e-4)


def test_native_kernels_lie_beside_the_graph_and_reply_the_same(
    exported_run, exported, native_inference, reviews, tmp_path, cli
):
    folder = exported_run / f"exports/{next_version(str(exported_run / 'exports'))}"
    library = folder / "assets.extra/operations.so"
    status, out, _ = cli("export", f"--workdir={exported_run}", "--set=export.kernels=native")
    assert status == 0 and out.splitlines()[:2] == [
        f"SavedModel: {folder}",
        f"Operations that a server loads first: {library}",
    ]
    requests = requests_of([row["text"] for row in reviews[:50]])
    ours, theirs = (reload_and_call(str(path), requests) for path in (folder, exported))
    for signature in ("serving_default", "examples"):
        assert ours[signature]["label"] == theirs[signature]["label"]
        assert ours[signature]["probability"] == pytest.approx(theirs[signature]["probability"], abs=1e-5)

    # Here the operations are loaded already: a second library of the same must not be in the way.
    tf.load_op_library(str(shutil.copy(library, tmp_path / "again.so")))
    signatures = tf.saved_model.load(str(folder)).signatures
    texts = [row["text"] for row in reviews[:600]]  # about 13,000 tokens: more than one row
    together = signatures["serving_default"](text=tf.constant(texts))["probabilities"].numpy()
    assert together[:50].max(1) == pytest.approx(theirs["serving_default"]["probability"], abs=1e-5)
    alone = signatures["serving_default"](text=tf.constant([texts[555]]))["probabilities"].numpy()
    assert abs(together[555] - alone[0]).max() < 1e-5
    assert signatures["serving_default"](text=tf.constant([], tf.string))["probabilities"].shape == [0, 2]


def test_native_kernels_that_cannot_be_had_are_told(run_copy, monkeypatch, cli):
    monkeypatch.setattr(native_forward, "library", lambda _: NativeLibrary(None, "no C++ compiler here"))
    status, _, error = cli("export", f"--workdir={run_copy}", "--set=export.kernels=native")
    assert status == 1
    assert (
        "export.kernels=native: native kernels are not available: no C++ compiler here; export.kernels=tensorflow works"
        in error
    )


@pytest.mark.slow
def test_a_library_for_another_processor_says_so(native_inference, tmp_path):
    """Compiled as if for one with AVX512-ER, which none has had since Knights Mill."""
    if platform.machine() != "x86_64":
        pytest.skip("the names are of x86-64's")
    compiler = native._compiler(os.environ)
    flags, link = tf.sysconfig.get_compile_flags(), tf.sysconfig.get_link_flags()
    source, library = str(native.SOURCES / "inference.cc"), str(tmp_path / "operations.so")
    command = [compiler, *flags, "-O0", "-w", "-shared", "-fPIC", "-D__AVX512ER__", source, "-o", library, *link]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this compiler does not know such a processor any more")
    script = "import sys, tensorflow as tf; tf.load_op_library(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", script, library], capture_output=True, text=True)
    assert "were compiled for a processor with avx512er, which this one lacks: export on this one" in done.stderr


def test_a_different_export_is_refused_and_leaves_nothing(run_copy, monkeypatch, cli):
    monkeypatch.setattr(
        export, "reload_and_call", lambda *_: {"serving_default": {"label": ["x"] * 32, "probability": [0.0] * 32}}
    )
    status, _, error = cli("export", f"--workdir={run_copy}")
    assert status == 1
    assert "the export is refused: signature serving_default, reloaded in a clean process, differs from the model: " in error
    assert list((run_copy / "exports").iterdir()) == []


def test_an_export_that_does_not_load_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded in a clean process: .*SavedModel file does not exist"):
        reload_and_call(str(tmp_path), {})


def test_an_export_that_hangs_is_told(tmp_path, monkeypatch):
    def hang(*_, **__):
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(UserError, match="did not answer within 600 s in a clean process"):
        reload_and_call(str(tmp_path), {})


def test_difference():
    def compare(reply, expected, is_tie=False):
        return difference(reply, expected, 1e-4, lambda name, row, tolerance: is_tie)

    assert compare({"p": [0.5], "label": ["a"]}, {"p": [0.50001], "label": ["a"]}) is None
    assert compare({"p": [0.5]}, {"p": [0.6]}) == "p of row 0 by up to 0.1, over 0.0001"
    assert compare({"p": [float("nan")]}, {"p": [0.6]}) == "p of row 0 by up to nan, over 0.0001"
    assert compare({"p": [250000.01]}, {"p": [250000.0]}) is None, "of a large number the same share"
    assert compare({}, {"p": [0.6]}) == "it has the outputs , the model p"
    assert compare({"p": [0.6], "q": [1.0]}, {"p": [0.6]}) == "it has the outputs p, q, the model p"
    assert compare({"p": [0.6, 0.6]}, {"p": [0.6]}) == "p has shape [2], not [1]"
    strings = {"p": [0.5, 0.5], "label": ["a", "b"]}, {"p": [0.5, 0.5], "label": ["a", "c"]}
    assert compare(*strings) == "label of row 1 is 'b', not 'c'"
    assert compare(*strings, is_tie=True) is None


def test_a_label_with_a_line_break_is_one_line():
    lines = [export.one_line(label) for label in ("plain", "two\nlines", "\u2028", "Ünï\r")]
    assert lines == ["plain", "two\\nlines", "\\u2028", "Ünï\\r"]
    assert "".join(f"{line}\n" for line in lines).splitlines() == lines


def test_the_clean_process_has_no_other_package(tmp_path):
    script = (
        "import runpy, sys; sys.argv = ['reload']; m = runpy.run_path({!r}); sys.meta_path.insert(0, m['NotHere']()); import {}"
    )
    for name in ("transformers", "trainer"):
        command = [sys.executable, "-c", script.format(export.reload.__file__, name)]
        done = subprocess.run(command, capture_output=True, text=True, env=subprocess_environment())
        assert f"{name} is not on a server" in done.stderr
