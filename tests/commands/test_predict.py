import io
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_every_row_gets_its_line_in_order_errors_too(cli, finished_run, tmp_path):
    (tmp_path / "in.csv").write_text('text,label\ngood,\n" ",\nbad,x\n')
    status, out, error = cli(
        "predict", f"--workdir={finished_run}", f"--input={tmp_path}/in.csv", f"--output={tmp_path}/o.jsonl"
    )
    assert status == 0 and out == f"predictions: {tmp_path}/o.jsonl\n" and "1 row(s) could not be predicted" in error
    found = lines_of((tmp_path / "o.jsonl").read_text())
    assert [line.get("text") for line in found] == ["good", None, "bad"]
    assert found[1] == {"error": "the text in column 'text' is empty", "file": f"{tmp_path}/in.csv", "line": 3}
    assert found[0]["label"] in ("negative", "positive") and sum(found[0]["probabilities"].values()) == pytest.approx(1)


def test_standard_input_takes_texts_and_json(cli, finished_run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO('good\n{"text": "bad"}\n{curly text\n'))
    status, out, _ = cli("predict", f"--workdir={finished_run}", "--input=-")
    assert status == 0 and [line["text"] for line in lines_of(out)] == ["good", "bad", "{curly text"]


def test_order_and_numbers_do_not_depend_on_the_chunk(cli, finished_run, tmp_path, monkeypatch, reviews):
    texts = [row["text"] for row in reviews[:50]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    results = []
    for size in (4096, 7):
        monkeypatch.setattr("trainer.commands.predict.ROWS_AT_A_TIME", size)
        cli("predict", f"--workdir={finished_run}", f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/{size}.jsonl")
        results.append(lines_of((tmp_path / f"{size}.jsonl").read_text()))
    assert [line["text"] for line in results[0]] == texts
    for left, right in zip(*results, strict=True):
        assert left["label"] == right["label"] and left["probability"] == pytest.approx(right["probability"], abs=1e-5)


def test_what_is_not_unicode_is_told_row_by_row(cli, finished_run, tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_text('{"text": "a \\ud83d"}\n{"text": "b"}\n')
    assert cli("predict", f"--workdir={finished_run}", f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/o.jsonl")[0] == 0
    found = lines_of((tmp_path / "o.jsonl").read_text())
    assert found[0]["error"].endswith("is not valid Unicode: it holds half of a surrogate pair") and found[1]["text"] == "b"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"good\n\xff\n")))
    _, out, _ = cli("predict", f"--workdir={finished_run}", "--input=-")
    assert "not valid Unicode" in lines_of(out)[1]["error"]


def test_txt_lines_fill_the_one_text_column():
    from trainer.data.row_values import in_text_column
    from trainer.data.sources import Row

    assert next(in_text_column([Row({"text": "x"}, "f.txt", 1)], ("sentence",))).values == {"sentence": "x"}


def test_default_output_and_missing_input(cli, run_copy, tmp_path):
    (tmp_path / "in.txt").write_text("fine\n")
    status, out, _ = cli("predict", f"--workdir={run_copy}", f"--input={tmp_path}/in.txt")
    assert status == 0 and out == f"predictions: {run_copy}/predictions/in.jsonl\n"
    status, _, error = cli("predict", f"--workdir={run_copy}", "--input=/no/file.csv")
    assert status == 1 and "--input: no file /no/file.csv" in error
    status, _, error = cli("predict", f"--workdir={run_copy}")
    assert status == 1 and "--input is needed" in error


def test_pairs_are_read_from_json(tokenizer):
    from trainer.commands.predict import _typed_rows
    from trainer.data.sources import Rejected
    from trainer.tasks.classification import Config, Task

    task = Task(Config(class_names=("a", "b"), text_columns=("first", "second")), tokenizer, 16)
    rows = list(_typed_rows(['{"first": "x", "second": "y"}\n', "plain\n", "{bad\n"], task))
    assert rows[0].values == {"first": "x", "second": "y"}
    assert [row.reason for row in rows[1:]] == [
        "this task reads 2 texts: write a JSON object with first and second",
        "not valid JSON: Expecting property name enclosed in double quotes at character 2",
    ]
    assert isinstance(rows[2], Rejected)


def test_dots_in_a_name_stay_and_a_folder_may_be_named(cli, run_copy, tmp_path):
    for year in (2024, 2025):
        (tmp_path / f"reviews.{year}.csv").write_text(f"text\nof {year}\n")
        status, out, _ = cli("predict", f"--workdir={run_copy}", f"--input={tmp_path}/reviews.{year}.csv")
        assert status == 0 and out == f"predictions: {run_copy}/predictions/reviews.{year}.jsonl\n"
    first = (run_copy / "predictions/reviews.2024.jsonl").read_text()
    assert json.loads(first)["text"] == "of 2024"
    for folder in (f"{tmp_path}/new/", str(run_copy)):
        status, out, _ = cli("predict", f"--workdir={run_copy}", f"--input={tmp_path}/reviews.2024.csv", f"--output={folder}")
        assert status == 0 and out == f"predictions: {folder.rstrip('/')}/reviews.2024.jsonl\n"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/x.csv.gz", "x"),
        ("x.y.z.parquet", "x.y.z"),
        ("gs://bucket/a*.csv", "a_"),
        ("tfds:glue/sst2:test", "sst2_test"),
        ("v1.2", "v1.2"),
        (".csv", "input"),
        ("folder/", "folder"),
    ],
)
def test_the_name_of_the_predictions(source, name):
    from trainer.commands.predict import file_stem

    assert file_stem(source) == name


def test_a_byte_order_mark_on_standard_input_is_no_text(cli, finished_run, monkeypatch):
    for encoding in ("utf8", "utf-16"):
        typed = ("" if encoding == "utf-16" else "\ufeff") + '{"text": "good"}\nbad\n  {"text": "fine"}\n'
        typed += '{"text": "x", "id": ' + "9" * 5000 + "}\n" + '{"a":' * 100_000 + "\n"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(typed.encode(encoding)))))
        status, out, _ = cli("predict", f"--workdir={finished_run}", "--input=-")
        found = [line["text"] for line in lines_of(out)]
        assert status == 0 and found[:3] == ["good", "bad", "fine"] and len(found) == 5, "what is no JSON is a text"


def test_the_exit_status_says_when_every_row_was_refused(cli, finished_run, tmp_path):
    (tmp_path / "in.csv").write_text("text\n \n\t\n")
    status, _, log = cli("predict", f"--workdir={finished_run}", f"--input={tmp_path}/in.csv", f"--output={tmp_path}/o.jsonl")
    assert status == 1 and "2 row(s) could not be predicted" in log
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 2


def test_an_output_that_cannot_be_written_is_told_before_the_work(cli, finished_run, tmp_path):
    (tmp_path / "in.csv").write_text("text\nx\n")
    (tmp_path / "file").write_text("")
    status, _, error = cli(
        "predict", f"--workdir={finished_run}", f"--input={tmp_path}/in.csv", f"--output={tmp_path}/file/o.jsonl"
    )
    assert status == 1 and "cannot be written: " in error and "choose another place with --output" in error


def test_no_file_of_the_users_is_replaced(cli, finished_run, tmp_path):
    (tmp_path / "x.csv").write_text("text\ngood\n")
    (tmp_path / "x.jsonl").write_text('{"text": "mine"}\n')
    status, out, _ = cli("predict", f"--workdir={finished_run}", f"--input={tmp_path}/x.csv", f"--output={tmp_path}/")
    assert status == 0 and out == f"predictions: {tmp_path}/x-2.jsonl\n" and "mine" in (tmp_path / "x.jsonl").read_text()
    command = ("predict", f"--workdir={finished_run}", f"--input={tmp_path}/x.jsonl")
    assert cli(*command, f"--output={tmp_path}")[1] == f"predictions: {tmp_path}/x-3.jsonl\n"
    status, _, error = cli(*command, f"--output={tmp_path}/x.jsonl")
    assert status == 1 and f"--output: {tmp_path}/x.jsonl is the input itself" in error
    assert "mine" in (tmp_path / "x.jsonl").read_text()


def test_a_pipe_is_written_to(cli, finished_run, tmp_path):
    (tmp_path / "x.csv").write_text("text\ngood\n")
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        found = pool.submit((tmp_path / "pipe").read_text)
        status, _, _ = cli("predict", f"--workdir={finished_run}", f"--input={tmp_path}/x.csv", f"--output={tmp_path}/pipe")
        assert status == 0 and lines_of(found.result())[0]["text"] == "good"
    assert (tmp_path / "pipe").is_fifo()


def test_a_column_called_error_is_no_error(cli, run_copy, tmp_path):
    config = run_copy / "config.yaml"
    config.write_text(config.read_text().replace("text_columns:\n  - text\n", "text_columns: [error]\n"))
    (tmp_path / "x.csv").write_text("error\nno such file\n")
    status, out, log = cli("predict", f"--workdir={run_copy}", f"--input={tmp_path}/x.csv", "--output=-")
    assert status == 0 and lines_of(out)[0]["error"] == "no such file" and "could not be predicted" not in log


def test_two_sources_of_one_name_have_a_file_each(cli, run_copy, tmp_path):
    outs = []
    for name in ("a/x.csv", "b/x.csv", "a/x.tsv", "a/x.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text\nof {name}\n")
        status, out, _ = cli("predict", f"--workdir={run_copy}", f"--input={tmp_path}/{name}")
        assert status == 0
        outs.append(out.strip().rpartition("/")[2])
    assert outs == ["x.jsonl", "x-2.jsonl", "x-3.jsonl", "x.jsonl"]
    assert json.loads((run_copy / "predictions/x-2.jsonl").read_text())["text"] == "of b/x.csv"
