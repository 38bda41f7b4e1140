"""Text files of any usual encoding, packed or not, as lines; a damaged file is named."""

import codecs
import contextlib
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from typing import IO, cast

from trainer import files
from trainer.errors import UserError

MARKS = (
    # Byte-order mark → encoding; UTF-32's begin with UTF-16's, so they come first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
HEAD_BYTES = 4096
OTHER_KINDS = (
    # What files that are no text begin with → what they are, and what to do
    (b"PK\x03\x04", "a zip archive or an Excel file (.xlsx); save the table as csv"),
    (b"\xd0\xcf\x11\xe0", "an Excel file (.xls); save the table as csv"),
    (b"PAR1", "a parquet file; set data.format=parquet"),
    (b"\x1f\x8b", "packed with gzip; let its name end in .gz"),
)
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # Python's "surrogateescape" for a byte that the encoding does not have


def read_lines(path: str, encoding: str = "auto") -> Iterator[str]:
    """Yields a text file's lines with their ends; a byte that the encoding does not have comes as a lone surrogate.

    Args:
      path: of the file; `.gz` is unpacked.
      encoding: a name that Python knows, or auto: UTF-8, or UTF-16 and UTF-32 by their byte-order mark.

    Raises:
      UserError: the file is damaged, or its encoding cannot be recognized.
    """
    name = encoding_of(path, encoding)
    with _damage_explained(path), _unpacked(path) as raw:
        lines = io.TextIOWrapper(raw, encoding=name, errors="surrogateescape", newline="")
        first = next(lines, "").removeprefix("\ufeff")  # a mark is no text, in an encoding that was named neither
        if first:
            yield first
        yield from lines


def read_whole(path: str, encoding: str = "auto") -> str:
    """Returns a text file's content; see `read_lines`."""
    return "".join(read_lines(path, encoding))


def encoding_of(path: str, encoding: str = "auto") -> str:
    """Returns the encoding to read a file with.

    Raises:
      UserError: it is no text; or it looks like UTF-16 and has no byte-order mark; or it is damaged.
    """
    with _damage_explained(path), _unpacked(path) as raw:
        head = raw.read(HEAD_BYTES)
    files.check_no_pointer(path, head)
    for start, kind in OTHER_KINDS:
        if head.startswith(start):
            raise UserError(f"{path}: this is no text but {kind}")
    if encoding != "auto":
        return encoding
    if marked := encoding_by_mark(head):
        return marked
    if head[1::2].count(0) > len(head) // 8 or head[::2].count(0) > len(head) // 8:
        order = "le" if head[1::2].count(0) > head[::2].count(0) else "be"
        raise UserError(
            f"{path}: every second byte is 0, as in UTF-16, and there is no byte-order mark; save the file as UTF-8, or name "
            f"its encoding with data.encoding=utf-16-{order}"
        )
    return "utf-8-sig"


def encoding_by_mark(head: bytes) -> str | None:
    """Returns the encoding that a byte-order mark at the start of a text names, or None."""
    return next((name for mark, name in MARKS if head.startswith(mark)), None)


def bad_byte(text: str) -> str | None:
    """Returns what to say about a text with bytes that its encoding does not have, or None."""
    found = None if text.isascii() else _ESCAPED_BYTE.search(text)
    if found is None:
        return None
    byte = ord(found[0]) - 0xDC00
    return (
        f"not UTF-8: byte 0x{byte:02X} at character {found.start() + 1}; save the file as UTF-8, or name its encoding, as "
        "data.encoding=cp1252"
    )


def shown(text: str) -> str:
    """Returns a line as it can be stored: bytes that its encoding does not have are written as escapes."""
    return text.encode("utf8", "surrogateescape").decode("utf8", "backslashreplace").rstrip("\r\n")


@contextlib.contextmanager
def _unpacked(path: str) -> Iterator[IO[bytes]]:
    with files.open_binary(path) as raw:
        if path.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            yield files.buffered(raw)


@contextlib.contextmanager
def _damage_explained(path: str) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        with files.open_binary(path) as file:
            if file.read(2) != b"\x1f\x8b":
                raise UserError(f"{path}: its name ends in .gz, but it is no gzip file; rename it, or pack it again") from None
        raise UserError(f"{path}: the gzip file is cut short or damaged ({error}); fetch or pack it again") from None
    except UnicodeError as error:
        raise UserError(f"{path}: not valid {getattr(error, 'encoding', 'text')}: {error}") from None
