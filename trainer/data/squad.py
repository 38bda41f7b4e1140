"""Questions on paragraphs: the nested JSON of SQuAD and CMRC 2018 as rows, and answers as spans of their context.

SQuAD nests data → paragraphs → qas. CMRC 2018 comes nested in the same way, and in a layout of its own: a list of contexts with
`context_text`, `query_text`, `query_id` and answers as plain texts.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from trainer.data.json_records import Record
from trainer.data.sources import RowError

CONTEXTS, QUESTIONS, IDS = ("context", "context_text"), ("question", "query_text"), ("id", "query_id")
STARTS = ("answer_start", "start")
Found = tuple[str, Any]  # where a part of the file stands, as data[0].paragraphs[2]; what it is


def is_squad_json(parsed: Any) -> bool:
    """Whether a JSON value is nested as SQuAD or CMRC 2018.

    >>> is_squad_json({"data": [{"paragraphs": [{"context": "", "qas": []}]}]}), is_squad_json({"data": [{"text": ""}]})
    (True, False)
    """
    return any(_is_paragraph(entry) or any(map(_is_paragraph, _list_in(entry, "paragraphs"))) for _, entry in _entries(parsed))


def _is_paragraph(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("qas"), list)


def _list_in(value: Any, name: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _entries(parsed: Any) -> Iterator[Found]:
    """Yields the articles; or the paragraphs, in a file without articles."""
    if isinstance(parsed, dict) and isinstance(parsed.get("data"), list):
        yield from _items("data", parsed["data"])
    elif isinstance(parsed, list):
        yield from _items("", parsed)
    else:
        yield "the file", parsed


def _items(place: str, values: list[Any]) -> Iterator[Found]:
    for number, value in enumerate(values):
        yield f"{place}[{number}]", value


def squad_records(parsed: Any) -> Iterator[Record]:
    """Yields a record for each question of a JSON value that `is_squad_json` recognizes, in order.

    Returns:
      (line, values or what is wrong, the question as text if something is wrong). The values are {"id", "title", "question",
      "context": str, "answers": see `answers_in`}; "answers" is missing if the file does not say whether there are any. The
      line is the running number of the question, from 1. An article or a paragraph that cannot be read is one record.
    """
    for line, (place, found) in enumerate(_questions(parsed), start=1):
        try:
            if isinstance(found, _NoQuestion):
                raise RowError(found.problem)
            yield line, _values_of(found, place), ""
        except RowError as error:
            yield line, f"{place}: {error}", _shown(found.value)


class _Question(NamedTuple):
    title: Any
    context: Any
    value: Any


class _NoQuestion(NamedTuple):
    problem: str
    value: Any


def _questions(parsed: Any) -> Iterator[tuple[str, _Question | _NoQuestion]]:
    for place, title, paragraph in _paragraphs(parsed):
        if not isinstance(paragraph, dict):
            yield place, _NoQuestion(f"{_kind(paragraph)} where an article or a paragraph belongs", paragraph)
        elif not isinstance(paragraph.get("qas"), list):
            yield place, _NoQuestion(f"no list of questions (qas); it has {_names(paragraph)}", paragraph)
        else:
            context, title = _first(paragraph, CONTEXTS), title or paragraph.get("title")
            for where, value in _items(f"{place}.qas", paragraph["qas"]):
                yield where, _Question(title, context, value)


def _paragraphs(parsed: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yields (where, the article's title, a paragraph, or what stands in its place)."""
    for place, entry in _entries(parsed):
        if isinstance(entry, dict) and isinstance(entry.get("paragraphs"), list):
            for where, paragraph in _items(f"{place}.paragraphs".removeprefix("the file."), entry["paragraphs"]):
                yield where, entry.get("title"), paragraph
        else:
            yield place, None, entry


def _values_of(found: _Question, place: str) -> dict[str, Any]:
    value = found.value
    if not isinstance(value, dict):
        raise RowError(f"{_kind(value)} where a question belongs")
    identity = _first(value, IDS)
    values: dict[str, Any] = {
        # A file of predictions names each question; where the file has no ids, the place is one.
        "id": place if identity is None else str(identity),
        "title": found.title if isinstance(found.title, str) else "",
        "question": _text("question", _first(value, QUESTIONS)),
        "context": _text("context of the paragraph", found.context),
    }
    is_impossible, answers = value.get("is_impossible"), value.get("answers")
    if is_impossible not in (True, False, None):
        raise RowError(f"is_impossible is {_shown(is_impossible)}, neither true nor false")
    if answers is not None or is_impossible:
        values["answers"] = answers_in([] if answers is None else answers)
        if is_impossible and values["answers"]:
            raise RowError(f"is_impossible is true, but there is an answer, {values['answers'][0]['text']!r}")
    return values


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RowError(f"the {name} is {_kind(value)}, not a text" if value is not None else f"there is no {name}")
    if not value.strip():
        raise RowError(f"the {name} is empty")
    return value


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _names(value: dict[str, Any]) -> str:
    return ", ".join(map(repr, value)) or "nothing"


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else kinds.get(type(value), f"a {type(value).__name__}")


def _shown(value: Any) -> str:
    # A JSON text may hold half of a surrogate pair, which no file can store.
    return json.dumps(value, ensure_ascii=False, default=repr)[:200].encode("utf8", "backslashreplace").decode("utf8")


# Answers


def answers_in(value: Any) -> list[dict[str, Any]]:
    """Returns the answers of a question in one shape, repeated ones included.

    Args:
      value: SQuAD's list of {"text", "answer_start"}; Hugging Face's {"text": [...], "answer_start": [...]}; a list of texts,
        as in CMRC 2018's own layout; or what this function returns.

    Returns:
      A list of {"text": str, "start": int, in code points, or None if it is not stated}. A negative start means not stated.

    Raises:
      RowError: it is in none of these shapes.

    >>> answers_in({"text": ["Denver"], "answer_start": [177]}) == answers_in([{"text": "Denver", "answer_start": 177}])
    True
    """
    value = _plain(value)
    if isinstance(value, dict):
        value = _records_of_columns(value)
    if not isinstance(value, list):
        raise RowError(f"answers is {_kind(value)}, not a list of answers")
    return [_answer(answer, f"answers[{number}]") for number, answer in enumerate(value)]


def _records_of_columns(value: dict[str, Any]) -> list[Any]:
    texts, starts = _plain(value.get("text")), _plain(_first(value, STARTS))
    if not isinstance(texts, list):
        return [value]  # one answer, without a list around it
    if starts is None:
        return texts
    if not isinstance(starts, list) or len(starts) != len(texts):
        count = len(starts) if isinstance(starts, list) else _kind(starts)
        raise RowError(f"answers has {len(texts)} texts, but {count} in answer_start")
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]


def _answer(value: Any, place: str) -> dict[str, Any]:
    value = _plain(value)
    text, start = (_plain(value.get("text")), _first(value, STARTS)) if isinstance(value, dict) else (value, None)
    if not isinstance(text, str):
        raise RowError(f"{place} has no text" if text is None else f"{place} is {_kind(text)} where a text belongs")
    if not text.strip():
        raise RowError(f"{place} is empty; a question without an answer has an empty list of answers")
    return {"text": text, "start": _start(start, place)}


def _start(value: Any, place: str) -> int | None:
    value = _plain(value)
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())  # pandas writes 5.0
    if value is not None and (not is_whole or isinstance(value, bool)):
        raise RowError(f"{place} has the answer_start {_shown(value)}, which is not a whole number")
    return int(value) if value is not None and value >= 0 else None


def _plain(value: Any) -> Any:
    """Returns what a NumPy value of a tfds source holds: a list, a number, a text."""
    if isinstance(value, bytes):
        return value.decode("utf8", "surrogateescape")
    return value.tolist() if hasattr(value, "tolist") else value


class Placed(NamedTuple):
    """Where an answer stands in its context.

    Attributes:
      start, end: context[start:end] is the answer without white space at its ends; in code points.
      is_moved: whether the stated start was wrong.
    """

    start: int
    end: int
    is_moved: bool


def placed_answer(context: str, answer: dict[str, Any]) -> Placed:
    """Returns where an answer stands: at its stated start, or else where its text occurs nearest to it.

    Args:
      context: the paragraph.
      answer: {"text", "start"}, as `answers_in` returns; without a start, the first occurrence counts.

    Raises:
      RowError: the text does not occur in the context.

    >>> placed_answer("the cat, the dog", {"text": "the ", "start": 8})
    Placed(start=9, end=12, is_moved=True)
    """
    text = answer["text"].strip()
    if not text:
        raise RowError("the answer is empty")
    stated = answer["start"]
    if stated is None:
        start = context.find(text)
    else:
        stated += len(answer["text"]) - len(answer["text"].lstrip())
        start = _nearest(context, text, stated)
    if start < 0:
        raise RowError(f"the answer {_shown(text)} does not occur in its context")
    return Placed(start, start + len(text), stated is not None and start != stated)


def _nearest(context: str, text: str, stated: int) -> int:
    """Returns the start of the occurrence nearest to a position, the earlier of two equally near; -1 without any."""
    before, after = context.rfind(text, 0, stated + len(text)), context.find(text, stated)
    if before < 0 or after < 0:
        return max(before, after)
    return before if stated - before <= after - stated else after
