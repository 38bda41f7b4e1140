"""Text files of every encoding, and damaged ones, which name themselves."""

import gzip

import pytest

from trainer.data.text_lines import bad_byte, encoding_of, read_lines, read_whole, shown
from trainer.errors import UserError

TEXT = "text,label\nGrüße,好\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding, packed):
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    content = TEXT.encode(encoding)
    path.write_bytes(gzip.compress(content) if packed else content)
    assert list(read_lines(str(path))) == ["text,label\n", "Grüße,好\n"]
    assert read_whole(str(path)) == TEXT


def test_a_named_encoding_is_used(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("Grüße €".encode("cp1252"))
    assert list(read_lines(str(path), "cp1252")) == ["Grüße €"]
    assert bad_byte(next(read_lines(str(path)))).startswith("not UTF-8: byte 0xFC at character 3; save the file as UTF-8, or")
    assert shown(next(read_lines(str(path)))) == "Gr\\xfc\\xdfe \\x80"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_a_mark_is_dropped_where_the_encoding_is_named(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes(("\ufeff" + TEXT).encode(encoding))
    assert list(read_lines(str(tmp_path / "a.csv"), encoding)) == ["text,label\n", "Grüße,好\n"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_recognized(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes(("text,label\n" * 9).encode(encoding))
    with pytest.raises(UserError, match=f"every second byte is 0, as in UTF-16, .*with data.encoding={encoding}"):
        encoding_of(str(path))
    assert next(read_lines(str(path), encoding)) == "text,label\n"


def test_damaged_files_name_themselves(tmp_path):
    whole = gzip.compress(b"one\n" * 20_000)
    cut, none, broken = tmp_path / "cut.gz", tmp_path / "none.gz", tmp_path / "broken.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    none.write_bytes(b"text,label\n")
    broken.write_bytes(whole[:12] + b"\xff" * 20 + whole[32:])
    longer, sum_off = tmp_path / "longer.gz", tmp_path / "sum.gz"
    longer.write_bytes(whole + b"rest")
    sum_off.write_bytes(whole[:-8] + b"\0" * 8)
    damaged = [(path, "cut short or damaged") for path in (cut, broken, longer, sum_off)]
    for path, message in (*damaged, (none, "it is no gzip file")):
        with pytest.raises(UserError, match=f"{path}: .*{message}"):
            list(read_lines(str(path)))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"PK\x03\x04", "no text but a zip archive or an Excel file"),
        (b"\xd0\xcf\x11\xe0", "an Excel file"),
        (b"PAR1", "set data.format=parquet"),
        (b"\x1f\x8b", "let its name end in .gz"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, start, message):
    (tmp_path / "a.csv").write_bytes(start + b"rest")
    with pytest.raises(UserError, match=f"a.csv: this is .*{message}"):
        read_whole(str(tmp_path / "a.csv"))
