import json

import numpy as np
import pytest

ROWS = [{"id": 1, "text": "a cat"}, {"id": 2, "text": " "}, {"id": 3, "text": "a dog"}, {"id": 4}]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_vectors_of_rows_and_what_was_refused(cli, rows, tmp_path, tiny_encoder):
    output = tmp_path / "x.npy"
    status, out, error = cli("embed", f"--encoder={tiny_encoder}", f"--input={rows}", f"--output={output}")
    assert status == 0 and out == f"{output}: 2 vectors of 32 numbers\n"
    vectors = np.load(output)
    assert vectors.shape == (4, 32) and np.isnan(vectors[[1, 3]]).all() and not np.isnan(vectors[[0, 2]]).any()
    assert f"2 row(s) have no vector; {output}.rejected.jsonl lists them" in error
    refused = [json.loads(line) for line in (tmp_path / "x.npy.rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in refused] == [
        (2, "the text in column 'text' is empty"),
        (4, "no column 'text'; the row has 'id'"),
    ]
    rows.write_text(json.dumps({"body": "a cat"}) + "\n")
    assert cli("embed", f"--encoder={tiny_encoder}", f"--input={rows}", f"--output={output}", "--column=body")[0] == 0
    assert not (tmp_path / "x.npy.rejected.jsonl").exists(), "of the run before"
    assert np.allclose(np.load(output)[0], vectors[0], atol=1e-6)


def test_a_runs_vectors_and_a_file_of_lines(cli, finished_run, tmp_path):
    (tmp_path / "lines.txt").write_text("a cat\na dog\n")
    flags = (f"--workdir={finished_run}", f"--input={tmp_path}/lines.txt", f"--output={tmp_path}/x.jsonl")
    status, out, _ = cli("embed", *flags, "--dimensions=4", "--nonormalize", "--pooling=max")
    assert status == 0 and "2 vectors of 4 numbers" in out
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["a cat", "a dog"] and len(lines[0]["embedding"]) == 4


def test_token_vectors(cli, rows, tmp_path, tiny_encoder):
    flags = (f"--encoder={tiny_encoder}", f"--input={rows}", "--tokens")
    assert cli("embed", *flags, f"--output={tmp_path}/x.jsonl", "--layers=-1,1")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["linex_index"] for line in lines] == [0, 2], "the rows' numbers"
    assert [token["token"] for token in lines[0]["features"]] == ["[CLS]", "a", "cat", "[SEP]"]
    assert [layer["index"] for layer in lines[0]["features"][0]["layers"]] == [-1, 1]
    for more, message in (
        ([f"--output={tmp_path}/x.npy"], "with --tokens it ends in .jsonl"),
        ([f"--output={tmp_path}/x.jsonl", "--layers=last"], "--layers=last: numbers with commas between"),
        ([f"--output={tmp_path}/x.jsonl", "--layers=2"], "layer 2: the encoder has layers 1 to 1"),
    ):
        status, _, error = cli("embed", *flags, *more)
        assert status == 1 and message in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name one encoder: --workdir, of a run; or --encoder"),
        (["--encoder=a", "--workdir=b"], "name one encoder"),
        (["--encoder={tiny}", "--output=x.csv"], "x.csv ends in none of"),
        (["--encoder={tiny}", "--input=none.csv"], "--input: no file none.csv"),
    ],
)
def test_calls_that_cannot_be(cli, rows, tmp_path, tiny_encoder, flags, message):
    given = [flag.format(tiny=tiny_encoder) for flag in flags]
    status, _, error = cli("embed", f"--input={rows}", f"--output={tmp_path}/x.npy", *given)
    assert status == 1 and message in error, error


def test_nothing_to_embed(cli, tmp_path, tiny_encoder):
    (tmp_path / "rows.csv").write_text("text\n")
    flags = (f"--encoder={tiny_encoder}", f"--input={tmp_path}/rows.csv", f"--output={tmp_path}/x.npy")
    status, _, error = cli("embed", *flags)
    assert status == 1 and "has no rows" in error
    (tmp_path / "rows.csv").write_text('text\n" "\n')
    status, _, error = cli("embed", *flags)
    assert status == 1 and "1 row(s) have no vector" in error
