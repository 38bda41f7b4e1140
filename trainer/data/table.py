"""The first rows of a file, for tasks to look at: `init` asks each whether it recognizes them, and what it makes of them."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any

from trainer import files
from trainer.data.labels import label_text
from trainer.data.sources import Rejected, Row, SourceFormat, format_of, read_rows
from trainer.data.text_lines import read_lines
from trainer.errors import UserError

ROWS_LOOKED_AT = 50_000
LABEL_NAMES = ("label", "labels", "class", "category", "intent", "target", "sentiment", "y", "topic", "polarity")
TEXT_NAMES = ("text", "sentence", "review", "content", "comment", "message", "title", "body", "question", "tweet")
MAX_LABEL_SHARE = 0.2  # a column with more distinct values than this share of the rows holds no classes
CHARACTERS_PER_TOKEN = {"cjk": 1.0, "other": 4.0}  # rough: enough to choose a length that cuts hardly any text
MAX_UNREADABLE = 0.1  # of the rows: with more, classes would be missed


class UnrecognizedError(ValueError):
    """Why a table is not of a task's kind."""


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What a task makes of a table.

    Attributes:
      certainty: 3: only this task has rows of this shape; 2: its label's values say so; 1: it can read them.
      summary: what it saw, a line each.
      task: {key: YAML of its value}, of the `task` section.
      token_lengths: estimated tokens of each row, sorted.
      data, train: {key: YAML of its value}, of the other sections, where they are not the usual ones.
      max_seq_length: where the task has windows and a usual length; 0: by the rows.
      validation: the share of the rows to hold out.
    """

    certainty: int
    summary: Sequence[str]
    task: dict[str, str]
    token_lengths: list[int]
    data: dict[str, str] = dataclasses.field(default_factory=dict)
    train: dict[str, str] = dataclasses.field(default_factory=dict)
    max_seq_length: int = 0
    validation: str = "10%"


@dataclasses.dataclass(frozen=True)
class Table:
    """The first rows of a source.

    Attributes:
      source: its path.
      rows: {column: value} of those that could be read.
      rejected: those that could not.
      delimiter: between columns, where it is not the format's usual one; else "".
      encoding, format: of the file, where they were named; else "auto".
    """

    source: str
    rows: list[dict[str, Any]]
    rejected: list[Rejected]
    delimiter: str = ""
    encoding: str = "auto"
    format: str = "auto"

    @functools.cached_property
    def columns(self) -> list[str]:
        """All columns, in the order in which they appear."""
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def values(self, column: str) -> list[Any]:
        """Returns what stands in a column; None where it is missing."""
        return [row.get(column) for row in self.rows]

    def holds(self, column: str, kind: type | tuple[type, ...]) -> bool:
        """Returns whether a column has values, nearly all of a kind."""
        found = [value for value in self.values(column) if value is not None]
        return bool(found) and sum(isinstance(value, kind) for value in found) > 0.95 * len(found)

    def label_column(self) -> str:
        """Returns the column with a label's name, else the one with the fewest values that repeat.

        Raises:
          UnrecognizedError: no column looks like one.
        """
        few = self._columns_of_classes
        named = [column for column in few if column.lower() in LABEL_NAMES]
        if named or few:
            return (named or sorted(few, key=self._distinct_labels.__getitem__))[0]
        counts = ", ".join(f"{column!r} has {count}" for column, count in self._distinct_labels.items())
        raise UnrecognizedError(
            f"no column looks like a label (2 to {self._most_classes:.0f} different values in {len(self.rows)} rows): {counts}"
            ". If the file has no header line, add one"
        )

    def has_named_label(self, without: Sequence[str] = ()) -> bool:
        """Returns whether a column with a label's name holds classes; `without`: columns that are something else."""
        return any(column.lower() in LABEL_NAMES and column not in without for column in self._columns_of_classes)

    @property
    def _most_classes(self) -> float:
        return max(MAX_LABEL_SHARE * len(self.rows), 2)

    @functools.cached_property
    def _distinct_labels(self) -> dict[str, int]:
        """How many different labels each column would have."""
        return {column: len({label_text(value) for value in self.values(column)} - {None}) for column in self.columns}

    @property
    def _columns_of_classes(self) -> list[str]:
        return [column for column, count in self._distinct_labels.items() if 2 <= count <= self._most_classes]

    def text_columns(self, without: Sequence[str] = ()) -> tuple[str, ...]:
        """Returns the column with a text's name, two that end in 1 and 2 (or a and b), else the longest.

        Args:
          without: columns that are something else.

        Raises:
          UnrecognizedError: no column looks like one.
        """
        columns = [column for column in self.columns if column not in without]
        textual = [c for c in columns if all(isinstance(value, str | None) for value in self.values(c)[:100])]
        textual = [column for column in textual if any(self.values(column))]
        if not textual:
            raise UnrecognizedError(f"no column of text besides the label; the columns are {', '.join(map(repr, columns))}")
        for first, second in itertools.permutations(textual, 2):
            if first[:-1] == second[:-1] and (first[-1:], second[-1:]) in (("1", "2"), ("a", "b"), ("A", "B")):
                return first, second
        pairs = (("premise", "hypothesis"), ("question", "sentence"), ("question", "answer"))
        for pair in pairs:
            if set(pair) <= set(textual):
                return pair
        named = [column for column in textual if column.lower() in TEXT_NAMES]
        longest = max(textual, key=lambda column: sum(len(value or "") for value in self.values(column)[:1000]))
        return (named[0] if named else longest,)

    def token_lengths(self, columns: Sequence[str]) -> list[int]:
        """Returns the estimated tokens of each row in text columns, sorted."""
        return sorted(sum(token_estimate(str(row.get(column) or "")) for column in columns) for row in self.rows)


def token_estimate(text: str) -> int:
    """Returns about how many tokens a text has, [CLS] and [SEP] included."""
    cjk = sum("\u2e80" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7af" for character in text)
    others = len(text) - cjk
    return round(cjk / CHARACTERS_PER_TOKEN["cjk"] + others / CHARACTERS_PER_TOKEN["other"]) + 2


def quoted(value: str) -> str:
    """Returns a string as YAML: as JSON has it; what cannot be printed is written as an escape."""
    return json.dumps(value, ensure_ascii=not value.isprintable())


def listed(values: Sequence[str]) -> str:
    """Returns strings as a YAML list on one line.

    >>> listed(["yes", "no"])
    '["yes", "no"]'
    """
    return f"[{', '.join(map(quoted, values))}]"


def read_table(source: str, encoding: str = "auto", file_format: str = "auto") -> Table:
    """Reads the first rows of a source.

    Args:
      source: a file, a glob or a TensorFlow dataset.
      encoding: of text files, where it is not UTF-8.
      file_format: where the ending does not tell it.

    Raises:
      UserError: no rows, or too many that cannot be read.
    """
    delimiter = _delimiter(source, encoding) if file_format in ("auto", "csv") else ""
    source_format = SourceFormat(file_format, delimiter=delimiter, encoding=encoding)
    found = list(itertools.islice(read_rows(source, "--from", source_format), ROWS_LOOKED_AT))
    rows = [row.values for row in found if isinstance(row, Row)]
    rejected = [row for row in found if isinstance(row, Rejected)]
    if not rows:
        why = f": {rejected[0].reason} (line {rejected[0].line})" if rejected else ""
        raise UserError(f"--from: {source} has no rows that can be read{why}")
    if len(rejected) > MAX_UNREADABLE * len(found):
        raise UserError(
            f"--from: {len(rejected)} of the first {len(found)} rows of {source} cannot be read; line {rejected[0].line}: "
            f"{rejected[0].reason}".replace("data.encoding=", "--encoding=")
        )
    return Table(source, rows, rejected, delimiter, encoding, file_format)


def _delimiter(source: str, encoding: str) -> str:
    """Returns ";" for a csv file whose header has semicolons and no comma, as spreadsheets write it in many countries."""
    if source.startswith("tfds:") or format_of(source) != "csv":
        return ""
    header = next(read_lines(files.expand(source, "--from")[0], encoding), "")
    if header.lower().lstrip('"').startswith("sep="):
        return ""  # Excel's line, which the reader follows
    return ";" if ";" in header and "," not in header else ""
