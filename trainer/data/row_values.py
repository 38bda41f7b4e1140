"""What stands in a row's columns, or why it cannot be used: every message becomes a rejected row's reason."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trainer.data.labels import has_half_a_surrogate_pair
from trainer.data.sources import Rejected, Row, RowError

ASCII_SPACE = " \t\n\r\f\v"  # what an export's graph strips


def value_in(row: Row, column: str) -> Any:
    """Returns a row's value in a column; raises RowError where the row has no such column."""
    if column not in row.values:
        raise RowError(f"no column {column!r}; the row has {', '.join(map(repr, row.values)) or 'nothing'}")
    return row.values[column]


def text_in(row: Row, column: str) -> str:
    """Returns the text in a row's column.

    Raises:
      RowError: the column is missing, or its text is empty or no string.
    """
    text = value_in(row, column)
    if not isinstance(text, str):
        raise RowError(f"column {column!r} holds a {type(text).__name__} where text belongs")
    if has_half_a_surrogate_pair(text):
        raise RowError(f"the text in column {column!r} is not valid Unicode: it holds half of a surrogate pair")
    if not text.strip():
        raise RowError(f"the text in column {column!r} is empty")
    return text


def in_text_column(rows: Iterable[Row | Rejected], columns: Sequence[str]) -> Iterator[Row | Rejected]:
    """Gives the lines of a txt file, whose column is "text", the name that a task of one text reads."""
    for row in rows:
        if isinstance(row, Row) and set(row.values) == {"text"} and len(columns) == 1:
            row = Row({columns[0]: row.values["text"]}, row.path, row.line)
        yield row


def texts_in(row: Row, column: str) -> list[str]:
    """Returns the texts in a row's column, one or a list of them, without empty ones.

    Raises:
      RowError: the column is missing, or holds no text, or something else.
    """
    value = value_in(row, column)
    if not isinstance(value, list):
        return [text_in(row, column)]
    found = [text for one in value if (text := optional_text(one, f"an entry of {column!r}"))]
    if not found:
        raise RowError(f"column {column!r} holds no text")
    return found


def optional_text(value: Any, what: str) -> str:
    """Returns a text that may be missing; "" where it is.

    Args:
      value: a row's.
      what: the value in a message, as "a choice".

    Raises:
      RowError: it is no text.
    """
    if not isinstance(value, str):
        raise RowError(f"{what} is a {type(value).__name__} where text belongs")
    if has_half_a_surrogate_pair(value):
        raise RowError(f"{what} is not valid Unicode: it holds half of a surrogate pair")
    return value if value.strip(ASCII_SPACE) else ""


def number_in(row: Row, column: str) -> float:
    """Returns the number in a row's column.

    Raises:
      RowError: the column is missing, or holds no finite number.
    """
    value = value_in(row, column)
    number = number_of(value)
    if number is None:
        raise RowError(f"column {column!r} holds {str(value)[:40]!r} where a number belongs")
    return number


def number_of(value: Any) -> float | None:
    """Returns a value as a finite number; None where it is none."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
