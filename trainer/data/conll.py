"""CoNLL files: a token and its tag on each line, a blank line after each sentence.

CoNLL-2002 and 2003, WNUT, WikiGold, MultiCoNER, CoNLL-U and their like.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from trainer.data.sources import Rejected, Row
from trainer.data.text_lines import bad_byte, read_lines, shown
from trainer.errors import UserError

DOCUMENT_START = "-DOCSTART-"
NO_COLUMN = "_"  # the name of a column that is not read
LINES_TO_LEARN_FROM = 1000  # the first ones show how many columns there are and what separates them
CONLL_U = ("_", "tokens", "lemmas", "tags", "xpos", "features", "_", "_", "_", "_")  # tags: the universal parts of speech
_NO_WORD = re.compile(r"\d+[-.]\d+")  # CoNLL-U: "3-4" of a contraction whose words follow, "8.1" of a word that is not there
_SPACE = " \t\r\n"  # no other space separates: a no-break space may be a token


class _Line(NamedTuple):
    """A line with its number, which counts from 1."""

    number: int
    text: str


class _Layout(NamedTuple):
    """What the lines of a file have in common.

    Attributes:
      names: of the columns.
      tabbed: whether a tab separates them, and not spaces.
    """

    names: tuple[str, ...]
    tabbed: bool


def read_conll(path: str, encoding: str = "auto", column_names: Sequence[str] = ()) -> Iterator[Row | Rejected]:
    """Yields a row for each sentence, its line the sentence's first.

    A row's values are {the name of a column: list of str, "document": int}: "document" is the number of "-DOCSTART-" lines
    before the sentence. Without names, the first column is "tokens" and the last "tags", those between are "column 2" and so
    on; a file with one column has no tags; CoNLL-U, with its ten columns and numbered tokens, has its own names.

    A line's columns are separated by tabs if it has one, otherwise by spaces. A line that begins with "# " before the first
    token of a sentence is a comment, unless its columns are those of the other lines. A sentence with a line that cannot be
    read comes as one `Rejected`, with the number of that line.

    Args:
      path: of the file; `.gz` is unpacked.
      encoding: see `text_lines.read_lines`.
      column_names: a name for each column, "_" for one that is not read.

    Raises:
      UserError: the file has another number of columns than there are names.
    """
    lines = (_Line(number, text.rstrip(_SPACE)) for number, text in enumerate(read_lines(path, encoding), start=1))
    head = list(islice(lines, LINES_TO_LEARN_FROM))
    layout = _layout(path, head, tuple(column_names))
    sentence: list[_Line] = []
    documents = 0
    for line in chain(head, lines, [_Line(0, "")]):
        is_document_start = _is_document_start(line.text)
        if sentence and (is_document_start or not line.text):
            yield _row(path, sentence, layout, documents)
            sentence = []
        documents += is_document_start
        is_comment = not sentence and line.text.startswith("# ") and not _fits(line.text, layout)
        if line.text and not is_document_start and not is_comment:
            sentence.append(line)


def _layout(path: str, head: list[_Line], names: tuple[str, ...]) -> _Layout:
    """Returns the layout that most lines have; those that look like comments count if there are no others."""
    texts = [line.text for line in head if line.text and not _is_document_start(line.text)]
    kinds = Counter((len(_columns(text)), "\t" in text) for text in texts if not text.startswith("# "))
    kinds = kinds or Counter((len(_columns(text)), "\t" in text) for text in texts) or Counter([(1, False)])
    columns, tabbed = kinds.most_common(1)[0][0]
    if names and len(names) != columns:
        raise UserError(
            f"{path}: the lines have {columns} columns, and data.column_names names {len(names)}: {', '.join(names)}; name "
            f"each, '{NO_COLUMN}' for one that is not read"
        )
    return _Layout(names or _usual_names(texts, columns), tabbed)


def _usual_names(texts: list[str], columns: int) -> tuple[str, ...]:
    is_numbered = all(_columns(text)[0][:1].isdigit() for text in texts if not text.startswith("# "))
    if columns == len(CONLL_U) and is_numbered:
        return CONLL_U
    return ("tokens", *(f"column {number}" for number in range(2, columns)), "tags")[:columns]


def _columns(text: str) -> list[str]:
    if "\t" in text:
        return [column.strip(" ") for column in text.split("\t")]
    return [column for column in text.split(" ") if column]


def _is_document_start(text: str) -> bool:
    return text.startswith(DOCUMENT_START) and _columns(text)[0] == DOCUMENT_START


def _fits(text: str, layout: _Layout) -> bool:
    return len(_columns(text)) == len(layout.names) and ("\t" in text) == layout.tabbed


def _row(path: str, sentence: list[_Line], layout: _Layout, document: int) -> Row | Rejected:
    found: dict[str, list[str]] = {name: [] for name in layout.names if name != NO_COLUMN}
    for line in sentence:
        columns = _columns(line.text)
        if problem := bad_byte(line.text) or _problem(columns, layout):
            return Rejected(path, line.number, problem, shown("\n".join(text for _, text in sentence)))
        if len(columns) == len(CONLL_U) and layout.names[0] == NO_COLUMN and _NO_WORD.fullmatch(columns[0]):
            continue
        for name, column in zip(layout.names, columns, strict=True):
            if name != NO_COLUMN:
                found[name].append(column)
    return Row({**found, "document": document}, path, sentence[0].number)


def _problem(columns: list[str], layout: _Layout) -> str | None:
    if len(columns) != len(layout.names):
        return f"{len(columns)} columns where {len(layout.names)} belong"
    empty = [name for name, column in zip(layout.names, columns, strict=True) if not column and name != NO_COLUMN]
    return f"the column {empty[0]!r} is empty" if empty else None
