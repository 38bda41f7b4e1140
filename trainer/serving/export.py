"""Writes an export and holds it to the model: saved aside, reloaded in a clean process, compared, then named."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer import files
from trainer.errors import UserError
from trainer.serving import reload
from trainer.serving.signatures import TEXT_INPUTS, ServingModule
from trainer.serving.warmup import write_warmup

log = logging.getLogger(__name__)
LABELS_FILE = "labels.txt"
RELOAD_SECONDS = 600
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}  # on probabilities: other batch shapes round otherwise


def next_version(exports: str) -> int:
    """Returns the number after the highest version in a run's exports folder; servers take the highest."""
    return max([int(name) for name in files.list_dir(exports) if name.isdigit()], default=0) + 1


def write_export(
    exports: str,
    version: int,
    module: ServingModule,
    labels: Sequence[str] | None,
    texts: Sequence[Sequence[str]],
    expected: Mapping[str, list],
    precision: str,
    library: Path | None = None,
) -> str:
    """Saves a module as exports/<version>, once a clean process has shown that it equals the model.

    Args:
      exports: the run's exports folder.
      version: a number that is not there yet.
      module: what to save.
      labels: lines of the labels asset, or None.
      texts: real texts, for each input as many: the warm-up and the comparison use them.
      expected: the model's own reply for these texts, through the Hugging Face tokenizer.
      precision: sets how far numbers may differ.
      library: compiled operations that the module needs, kept beside it as reload.OPERATIONS_FILE.

    Returns:
      The export's folder.

    Raises:
      UserError: the reloaded export differs, or cannot be loaded; nothing is left under exports/<version>.
    """
    target, partial = files.join(exports, str(version)), files.join(exports, f"partial-{version}")
    files.remove_tree(partial)
    try:
        with files.explain_full_disk(partial):
            _save(module, partial, labels)
            if library is not None:
                kept = files.join(partial, reload.OPERATIONS_FILE)
                files.make_dirs(kept.rpartition("/")[0])
                files.copy(str(library), kept)
            write_warmup(partial, "bert", texts, TEXT_INPUTS[: len(texts)])
        for signature, reply in reload_and_call(partial, requests_for(texts)).items():
            problem = difference(reply, expected, TOLERANCE[precision])
            if problem:
                raise UserError(
                    f"the export is refused: signature {signature}, reloaded in a clean process, differs from the model: "
                    f"{problem}"
                )
        _publish(partial, target)
    finally:
        files.remove_tree(partial)
    return target


def _save(module: ServingModule, folder: str, labels: Sequence[str] | None) -> None:
    with tempfile.TemporaryDirectory() as local:
        if labels is not None:
            path = Path(local, LABELS_FILE)
            path.write_text("".join(f"{label}\n" for label in labels), encoding="utf8")
            module.labels = tf.saved_model.Asset(str(path))
        tf.saved_model.save(module, folder, signatures=module.signatures())


def _publish(partial: str, target: str) -> None:
    if not files.is_remote(target):
        files.rename(partial, target)
        return
    # Object stores cannot rename a folder at once; servers look for saved_model.pb, which comes last.
    names = [path for path in _walk(partial) if not path.endswith("saved_model.pb")]
    for path in [*names, files.join(partial, "saved_model.pb")]:
        goal = target + path.removeprefix(partial)
        files.make_dirs(goal.rpartition("/")[0])
        files.copy(path, goal)


def _walk(folder: str) -> list[str]:
    found = []
    for name in files.list_dir(folder):
        path = files.join(folder, name)
        found += _walk(path) if files.is_dir(path) else [path]
    return found


def requests_for(texts: Sequence[Sequence[str]]) -> dict[str, dict]:
    """Returns the requests of the comparison, as `reload.py` reads them."""
    names = TEXT_INPUTS[: len(texts)]
    strings = {n: {"dtype": "string", "values": list(column)} for n, column in zip(names, texts, strict=True)}
    examples = []
    for row in zip(*texts, strict=True):
        feature = {
            name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
            for name, text in zip(names, row, strict=True)
        }
        examples.append(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString().hex())
    return {"serving_default": strings, "examples": {"examples": {"dtype": "bytes", "values": examples}}}


def reload_and_call(export: str, requests: Mapping[str, dict]) -> dict[str, dict]:
    """Calls an export's signatures in a process that has only tensorflow and tensorflow-text.

    Raises:
      UserError: the process fails; its last line says why.
    """
    with tempfile.TemporaryDirectory() as local:
        inputs, outputs = Path(local, "inputs.json"), Path(local, "outputs.json")
        inputs.write_text(json.dumps(requests), encoding="utf8")
        command = [sys.executable, "-I", reload.__file__, export, str(inputs), str(outputs)]
        environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=RELOAD_SECONDS, env=environment)
        except subprocess.TimeoutExpired:
            raise UserError(f"the export {export} did not answer within {RELOAD_SECONDS} s in a clean process") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"the export {export} cannot be loaded in a clean process: {last}")
        return json.loads(outputs.read_text(encoding="utf8"))


def difference(reply: Mapping[str, list], expected: Mapping[str, list], tolerance: float) -> str | None:
    """Returns how a reply differs from what the model says, or None. Text must be equal where its number is not near a tie."""
    for name, values in expected.items():
        if name not in reply:
            return f"it has no output {name!r}"
        if np.asarray(values).dtype.kind == "U":
            continue  # a name follows from the numbers, which are compared; at a tie it may go either way
        gap = float(np.max(np.abs(np.asarray(reply[name]) - np.asarray(values))))
        if not gap <= tolerance:
            return f"{name} by up to {gap:.3g}, over {tolerance:g}"
    return None
