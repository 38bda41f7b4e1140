"""Sources: every format and every way a row can be wrong, with its line."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import files
from trainer.data import sources
from trainer.data.sources import Rejected, Row, SourceFormat, read_rows
from trainer.errors import UserError


def read(path, **options):
    return list(read_rows(str(path), "data.train", SourceFormat(**options)))


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_quotes_newlines_and_line_numbers(tmp_path):
    path = write(tmp_path, "a.csv", '\ufefftext,label\r\n"a, ""b""\nc",x\r\n\r\nd,y\r\n')
    rows = read(path)
    assert [(row.values, row.line) for row in rows] == [
        ({"text": 'a, "b"\nc', "label": "x"}, 2),
        ({"text": "d", "label": "y"}, 5),
    ]


def test_csv_rows_that_parse_wrongly(tmp_path):
    path = write(tmp_path, "a.csv", b'text,label\na,x,z\nb\n"c"d,x\ngood,y\n\xff,x\n')
    rows = read(path)
    rejected = {row.line: row.reason for row in rows if isinstance(row, Rejected)}
    assert rejected == {
        2: "3 columns where 2 belong (['text', 'label'])",
        3: "1 columns where 2 belong (['text', 'label'])",
        4: "not valid csv: ',' expected after '\"'",
        6: "not UTF-8: byte 0xFF at character 1; save the file as UTF-8",
    }
    assert [row.values["text"] for row in rows if isinstance(row, Row)] == ["good"]


def test_an_open_quote_costs_its_own_line_only(tmp_path):
    lines = ["text,label", '"never closed,x', *[f"row {i},y" for i in range(1500)]]
    rows = read(write(tmp_path, "a.csv", "\n".join(lines) + "\n"))
    assert rows[0] == Rejected(str(tmp_path / "a.csv"), 2, "a double quote opens here and never closes", '"never closed,x')
    assert [row.line for row in rows[1:]] == list(range(3, 1503))


def test_tsv_takes_quotes_as_text(tmp_path):
    path = write(tmp_path, "a.tsv", 'text\tlabel\n" he said\t1\n')
    assert read(path)[0].values == {"text": '" he said', "label": "1"}
    assert read(path, quoting="standard")[0].reason == "a double quote opens here and never closes"


def test_other_delimiters(tmp_path):
    path = write(tmp_path, "a.csv", 'text;label\n"a; b";x\n')
    assert read(path, delimiter=";")[0].values == {"text": "a; b", "label": "x"}


def test_files_without_header(tmp_path):
    path = write(tmp_path, "sms.tsv", "ham\tGo on\nspam\tWin!\n")
    rows = read(path, column_names=("label", "text"))
    assert [row.values["label"] for row in rows] == ["ham", "spam"] and rows[0].line == 1


@pytest.mark.parametrize(
    ("header", "message"),
    [("a,a", "the header has column 'a' twice; if the file has no header"), ("a,", "the header has an empty column name")],
)
def test_headers_that_cannot_be_used(tmp_path, header, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, "a.csv", f"{header}\nx,y\n"))


def test_jsonl(tmp_path):
    path = write(tmp_path, "a.jsonl", b'{"text": "\\u00fc", "label": 1}\n\n{"text": \n[1]\n{"text": "\xff"}\n')
    rows = read(path)
    assert rows[0].values == {"text": "ü", "label": 1}
    assert [(row.line, row.reason) for row in rows[1:]] == [
        (3, "not valid JSON: Expecting value at character 9"),
        (4, "a JSON list where an object belongs"),
        (5, "not UTF-8: byte 0xFF at character 11; save the file as UTF-8"),
    ]


def test_txt_and_gzip(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"one\n\ntwo\n\xfe\n"))
    rows = read(path)
    assert [getattr(row, "values", None) for row in rows] == [{"text": "one"}, {"text": "two"}, None]
    assert rows[2].reason.startswith("not UTF-8: byte 0xFE")


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": ["a", "b"], "label": [0, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [(row.values, row.line) for row in read(tmp_path / "a.parquet")] == [
        ({"text": "a", "label": 0}, 1),
        ({"text": "b", "label": 1}, 2),
    ]
    remote = f"ram://sources/{tmp_path.name}.parquet"
    files.copy(str(tmp_path / "a.parquet"), remote)
    assert len(read(remote)) == 2


def test_remote_files_and_globs(tmp_path):
    folder = f"ram://sources/{tmp_path.name}"
    files.write_text(f"{folder}/b.csv", "text,label\nsecond,1\n")
    files.write_text(f"{folder}/a.csv", "text,label\nfirst,0\n")
    rows = list(read_rows(f"{folder}/*.csv", "data.train"))
    assert [row.values["text"] for row in rows] == ["first", "second"]
    assert rows[1].path.endswith("b.csv") and rows[1].line == 2


def test_unknown_endings(tmp_path):
    path = write(tmp_path, "a.cvs", "text,label\nx,y\n")
    with pytest.raises(
        UserError, match=r"cannot tell the format of .*a.cvs by its ending; set data.format .*did you mean 'csv'"
    ):
        read(path)
    assert read(path, format="csv")[0].values == {"text": "x", "label": "y"}


def test_tfds_reads_what_prepare_wrote_and_names_what_is_missing(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    with pytest.raises(UserError, match="needs a split: tfds:name/config:split"):
        list(read_rows("tfds:glue", "data.train"))
    with pytest.raises(UserError, match="data.train: tfds:no_such_set:train could not be loaded: "):
        list(read_rows("tfds:no_such_set:train", "data.train"))

    def load(name, split, with_info):
        features = tfds.features.FeaturesDict(
            {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["no", "yes"])}
        )
        info = type("Info", (), {"features": features})
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices({"text": ["a", "b"], "label": [1, -1]})
        return data, info

    monkeypatch.setattr(tfds, "load", load)
    rows = list(read_rows("tfds:glue/sst2:train[:2]", "data.train"))
    assert [row.values for row in rows] == [{"text": "a", "label": "yes"}, {"text": "b", "label": ""}]


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=8))
def test_any_text_survives_csv_and_jsonl(tmp_path_factory, texts):
    import csv

    folder = tmp_path_factory.mktemp("any")
    with open(folder / "a.csv", "w", encoding="utf8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["text", "label"], *[[text, "x"] for text in texts]])
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert [row.values["text"] for row in read(folder / "a.csv")] == texts
    assert [row.values["text"] for row in read(folder / "a.jsonl")] == texts


def test_a_small_source_is_read_once_for_two_readers(tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,x\nb,y,z\n")
    opened = []
    read_lines = sources.read_lines
    monkeypatch.setattr(sources, "read_lines", lambda path: opened.append(path) or read_lines(path))
    first, second, third = (list(sources.read_rows(str(path), "data.train")) for _ in range(3))
    assert first == second == third and len(first) == 2 and len(opened) == 2, "kept until they are read once more"
    path.write_text("text,label\na,x\nb,y\nc,z\n")
    assert len(list(sources.read_rows(str(path), "data.train"))) == 3, "an altered file is another one"
    next(sources.read_rows(str(path), "data.train"))  # takes what was kept
    next(sources.read_rows(str(path), "data.train"))  # and stops early: these are not all rows
    assert len(list(sources.read_rows(str(path), "data.train"))) == 3
    monkeypatch.setattr(sources, "MAX_BYTES_KEPT", 3)
    before = len(opened)
    for _ in range(2):
        list(sources.read_rows(str(path), "data.train"))
    assert len(opened) == before + 2, "a large one is never kept"
