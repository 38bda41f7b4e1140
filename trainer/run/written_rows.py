"""Rows that a command writes for the runs that it starts, as JSON lines, whatever the rows came from."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from trainer import files
from trainer.data.sources import Rejected, Row

AS_WRITTEN = (  # config keys that read such files
    *("data.format=jsonl", "data.column_names=[]", "data.delimiter=null", "data.quoting=auto", "data.encoding=auto"),
    *("data.test=null", "data.holdout_column=null", "data.records_dir=null"),
)


def line_of(values: dict[str, Any]) -> str:
    """Returns a row's values as a line."""
    return json.dumps(values, ensure_ascii=False, default=str) + "\n"


def read_lines(path: str) -> Iterator[dict[str, Any]]:
    """Yields what the lines of a file hold: rows, or predictions; no text in them ends a line, not even by U+2028."""
    return (json.loads(line) for line in files.read_text(path).split("\n") if line)


def write_rows(path: str, rows: Iterable[Row | Rejected]) -> tuple[int, int]:
    """Writes the rows of a split, without those that cannot be read; returns how many of each."""
    lines, refused = [], 0
    for row in rows:
        if isinstance(row, Row):
            lines.append(line_of(row.values))
        else:
            refused += 1
    files.write_text(path, "".join(lines))
    return len(lines), refused
