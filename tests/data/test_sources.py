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

NOT_UTF8 = "not UTF-8: byte 0xFF at character {}; save the file as UTF-8, or name its encoding, as data.encoding=cp1252"


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


def test_text_files_beside_each_other(tmp_path):
    for name, text in (("de", "eins\n\nzwei\n\n"), ("en", "one\ntwo\n\n\n")):
        (tmp_path / f"train.{name}").write_text(text)
    rows = list(read_rows(f"{tmp_path}/train.{{de,en}}", "data.train"))
    assert [(row.values, row.line) for row in rows] == [
        ({"de": "eins", "en": "one"}, 1),
        ({"de": "", "en": "two"}, 2),
        ({"de": "zwei", "en": ""}, 3),
    ]
    (tmp_path / "train.en").write_text("one\n")
    with pytest.raises(UserError, match=r"train.en ends after 1 lines, .*train.de goes on"):
        list(read_rows(f"{tmp_path}/train.{{de,en}}", "data.train"))
    with pytest.raises(UserError, match=r"data.train: no file .*train.fr"):
        list(read_rows(f"{tmp_path}/train.{{de,fr}}", "data.train"))
    for name in ("a.1.en", "a.2.en", "a.1.de", "a.2.de"):
        (tmp_path / name).write_text("one\n")
    with pytest.raises(UserError, match="names in braces stand for one file each, and these are 2"):
        list(read_rows(f"{tmp_path}/a.*.{{en,de}}", "data.train"))


def test_csv_rows_that_parse_wrongly(tmp_path):
    path = write(tmp_path, "a.csv", b'text,label\na,x,z\nb\n"c"d,x\ngood,y\n\xff,x\n')
    rows = read(path)
    rejected = {row.line: row.reason for row in rows if isinstance(row, Rejected)}
    assert rejected == {
        2: "3 columns where 2 belong (['text', 'label'])",
        3: "1 columns where 2 belong (['text', 'label'])",
        4: "not valid csv: ',' expected after '\"'",
        6: NOT_UTF8.format(1),
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


def test_another_delimiter_is_suspected(tmp_path, caplog):
    read(write(tmp_path, "a.csv", "text;label\na;x\n"))
    assert "a.csv: one column only, 'text;label'; if ';' separates columns, set data.delimiter" in caplog.text
    caplog.clear()
    read(write(tmp_path, "b.csv", "text\na;x\n"))
    assert not caplog.text


def test_files_without_header(tmp_path):
    path = write(tmp_path, "sms.tsv", "ham\tGo on\nspam\tWin!\n")
    rows = read(path, column_names=("label", "text"))
    assert [row.values["label"] for row in rows] == ["ham", "spam"] and rows[0].line == 1


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"a,a", "the header has column 'a' twice; if the file has no header"),
        (b"a,b\xff", "not UTF-8: byte 0xFF at character 3; save the file as UTF-8, or name its encoding"),
    ],
)
def test_headers_that_cannot_be_used(tmp_path, header, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, "a.csv", header + b"\nx,y\n"))


def test_jsonl(tmp_path):
    path = write(tmp_path, "a.jsonl", b'{"text": "\\u00fc", "label": 1}\n\n{"text": \n[1]\n{"text": "\xff"}\n')
    rows = read(path)
    assert rows[0].values == {"text": "ü", "label": 1}
    assert [(row.line, row.reason) for row in rows[1:]] == [
        (3, "not valid JSON: Expecting value at character 9"),
        (4, "a JSON array where an object belongs"),
        (5, NOT_UTF8.format(11)),
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


def test_parquet_files_of_hugging_face_hold_the_names_of_their_numbers(tmp_path):
    import pyarrow
    import pyarrow.parquet

    label = {"names": ["no", "yes"], "_type": "ClassLabel"}
    tags = {"feature": {"names": ["O", "B-PER"], "_type": "ClassLabel"}, "_type": "Sequence"}
    features = {"label": label, "tags": tags, "text": {"dtype": "string", "_type": "Value"}}
    table = pyarrow.table({"text": ["a", "b"], "label": [1, -1], "tags": [[0, 1], []]})
    for metadata, expected in (
        ({"info": {"features": features}}, [("yes", ["O", "B-PER"]), ("", [])]),
        ({"info": {"features": ["of another version"]}}, [(1, [0, 1]), (-1, [])]),
    ):
        kept = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
        pyarrow.parquet.write_table(kept, tmp_path / "a.parquet")
        assert [(row.values["label"], row.values["tags"]) for row in read(tmp_path / "a.parquet")] == expected


def test_parquet_values_that_python_cannot_hold(tmp_path):
    """A time in nanoseconds in some other column does not matter; text that is not UTF-8 costs its own row."""
    import pyarrow
    import pyarrow.parquet

    broken = pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"a\xff")]
    )
    times = pyarrow.array([1, 2], pyarrow.timestamp("ns"))
    pyarrow.parquet.write_table(pyarrow.table({"text": broken, "time": times}), tmp_path / "a.parquet")
    first, second = read(tmp_path / "a.parquet")
    assert first.values["text"] == "a" and isinstance(second, Rejected)
    assert second.line == 2 and second.reason.startswith("column 'text': not UTF-8")
    twice = pyarrow.Table.from_arrays([times, times], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a.parquet: the table has column 'text' twice"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.json"])
def test_a_git_lfs_pointer_is_named(tmp_path, name):
    path = write(tmp_path, name, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=f"{name}: this is a git-lfs pointer, not the file itself; run `git lfs pull`"):
        read(path)


def test_blank_lines_before_a_header(tmp_path):
    assert read(write(tmp_path, "a.tsv", "\n \ntext\tlabel\na\tx\n"))[0].values == {"text": "a", "label": "x"}
    assert read(write(tmp_path, "a.csv", "\n  \ntext,label\na,x\n"))[0].line == 4


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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt"])
def test_every_text_format_in_every_encoding_with_a_mark(tmp_path, encoding, name):
    texts = {
        "a.csv": "text,label\r\nGrüße,x\r\n",
        "a.tsv": "text\tlabel\nGrüße\tx\n",
        "a.jsonl": '{"text": "Grüße", "label": "x"}\n',
        "a.json": '[{"text": "Grüße", "label": "x"}]',
        "a.txt": "Grüße\n",
    }
    path = write(tmp_path, name, texts[name].encode(encoding))
    assert read(path)[0].values == {"text": "Grüße"} | ({} if name == "a.txt" else {"label": "x"})


def test_a_named_encoding(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\nGrüße,x\n".encode("cp1252"))
    assert "data.encoding=cp1252" in read(path)[0].reason
    assert read(path, encoding="cp1252")[0].values["text"] == "Grüße"


def test_columns_without_a_name_and_excels_first_line(tmp_path):
    rows = read(write(tmp_path, "pandas.csv", ",text,label,\n0,a,x,\n1,b,y,\n"))
    assert rows[1].values == {"unnamed 1": "1", "text": "b", "label": "y", "unnamed 4": ""}
    rows = read(write(tmp_path, "excel.csv", "sep=;\ntext;label\na;x\n"))
    assert (rows[0].values, rows[0].line) == ({"text": "a", "label": "x"}, 3)


def test_a_backslash_before_a_quote_is_explained(tmp_path):
    rows = read(write(tmp_path, "a.csv", 'text,label\n"he said \\"no\\" twice",x\n'))
    assert rows[0].reason.endswith('a double quote inside a field is written twice (""), not with a backslash')


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.txt"])
def test_an_empty_file_says_so(tmp_path, name):
    with pytest.raises(UserError, match=f"data.train: .*{name} is empty"):
        read(write(tmp_path, name, ""))


def test_a_damaged_parquet_file_names_itself(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 1000}), tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    for damaged in (content[: len(content) // 2], b"text,label\n", content[:20] + b"\0" * 40 + content[60:]):
        path = write(tmp_path, "a.parquet", damaged)
        with pytest.raises(UserError, match="a.parquet: no parquet file, or one that is cut short or damaged: "):
            read(path)


def test_a_small_source_is_read_once_for_two_readers(tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,x\nb,y,z\n")
    opened = []
    read_lines = sources.read_lines
    monkeypatch.setattr(sources, "read_lines", lambda *arguments: opened.append(1) or read_lines(*arguments))
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
