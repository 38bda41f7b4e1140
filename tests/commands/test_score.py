"""Against the package bert-score 0.3.12 on PyTorch with the same encoder, whose figures are in tests/metrics/bert_score.json."""

import json

import numpy as np
import pytest

from tests.conftest import ROOT

GOLDEN = json.loads((ROOT / "tests/metrics/bert_score.json").read_text(encoding="utf8"))


@pytest.fixture
def pairs(tmp_path):
    rows = zip(GOLDEN["candidates"], GOLDEN["references"], strict=True)
    lines = [json.dumps({"candidate": candidate, "reference": reference}) for candidate, reference in rows]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join([*lines[:3], json.dumps({"candidate": "", "reference": "x"}), *lines[3:]]) + "\n")
    return path


@pytest.mark.parametrize(("kind", "flags"), [("plain", []), ("idf", ["--idf"])])
def test_scores_are_bert_scores(cli, pairs, tmp_path, minilm, kind, flags):
    output = tmp_path / "scores.jsonl"
    status, out, error = cli("score", f"--encoder={minilm}", f"--input={pairs}", f"--output={output}", "--layer=5", *flags)
    assert status == 0 and "1 row(s) were left out; the first, " in error
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert lines.pop(3)["error"] == "the text in column 'candidate' is empty"
    for place, name in enumerate(("precision", "recall", "f1")):
        assert np.allclose([line[name] for line in lines], GOLDEN[kind][place], atol=2e-5), name
    assert f"f1: {np.mean(GOLDEN[kind][2]):.4f}" in out and "rows: 6" in out and "layer 5" in out


def test_rescaled_by_unrelated_pairs(cli, pairs, tiny_encoder):
    flags = ("score", f"--encoder={tiny_encoder}", f"--input={pairs}")
    _, out, error = cli(*flags, "--baseline=auto")
    assert "baseline: precision" in error and "unweighted, rescaled" in out
    plain, half = (cli(*flags, *more)[1] for more in ([], ["--baseline=0.5,0.5,0.5"]))
    before, after = (float(text.split("f1: ")[1].split()[0]) for text in (plain, half))
    assert after == pytest.approx(2 * before - 1, abs=2e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--columns=candidate"], "--columns=candidate: two columns with a comma between"),
        (["--columns=a,b"], "has no pair in a and b; the first, "),
        (["--baseline=low"], "--baseline=low: auto, or three numbers"),
        (["--layer=7"], "layer 7: the encoder has layers 1 to 1"),
    ],
)
def test_calls_that_cannot_be(cli, pairs, tiny_encoder, flags, message):
    status, _, error = cli("score", f"--encoder={tiny_encoder}", f"--input={pairs}", *flags)
    assert status == 1 and message in error, error


def test_one_pair_has_no_unrelated_text(cli, tmp_path, tiny_encoder):
    (tmp_path / "one.jsonl").write_text('{"candidate": "a", "reference": "b"}\n')
    flags = (f"--encoder={tiny_encoder}", f"--input={tmp_path}/one.jsonl", "--baseline=auto")
    status, _, error = cli("score", *flags)
    assert status == 1 and "one pair alone has no unrelated text" in error
