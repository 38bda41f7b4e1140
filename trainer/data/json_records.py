"""Records of JSON files: an object per line, an array, or one of the layouts that pandas and Hugging Face's datasets write."""

import json
from collections.abc import Iterator
from typing import Any, TypeGuard

from trainer.data.text_lines import bad_byte, read_lines, read_whole
from trainer.errors import UserError

Record = tuple[int, dict[str, Any] | str, str]  # its line (or number), its values or what is wrong with it, then its text


def read_json(path: str, encoding: str) -> Iterator[Record]:
    """Yields the records of a file that is one JSON value, or has one object per line, which often ends in .json as well."""
    lines = (text for text in read_lines(path, encoding) if text.strip())
    first, second = next(lines, ""), next(lines, "")
    is_one_value = not second or first.lstrip().startswith("[") or not (_ends_an_object(first) or _ends_an_object(second))
    yield from (_read_value if is_one_value else read_json_lines)(path, encoding)


def _read_value(path: str, encoding: str) -> Iterator[Record]:
    text = read_whole(path, encoding)
    value, problem = parsed_json(text)
    if problem or bad_byte(text):
        raise UserError(f"{path}: {problem or bad_byte(text)}")
    from trainer.data import squad  # here, because it takes RowError from sources, which reads with this module

    if squad.is_squad_json(value):
        yield from squad.squad_records(value)
        return
    for number, values in enumerate(_records_of(value), start=1):
        if isinstance(values, dict):
            yield number, values, ""
        else:
            yield number, f"a JSON {_name_of(values)} where an object belongs", json.dumps(values)[:200]


def _records_of(value: Any) -> list[Any]:
    """Returns the records of a JSON value, in any of the layouts that pandas' to_json and Hugging Face's datasets write.

    >>> _records_of({"text": {"0": "x", "1": "y"}}) == _records_of({"columns": ["text"], "data": [["x"], ["y"]]})
    True
    """
    if not isinstance(value, dict):
        return value if isinstance(value, list) else [value]
    columns, data = value.get("columns"), value.get("data")
    if _all_are(columns, str) and _all_are(data, list):
        return [dict(zip(columns, row, strict=False)) for row in data]
    parts = list(value.values())
    if parts and all(isinstance(part, dict) and part.keys() == parts[0].keys() for part in parts):
        if all(name.isdecimal() for name in value) and not all(name.isdecimal() for name in parts[0]):
            return parts  # orient="index"
        return [{name: column[number] for name, column in value.items()} for number in parts[0]]
    lists = [part for part in parts if isinstance(part, list)]
    if len(lists) == len(parts) > 1 and len({len(column) for column in lists}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]
    return lists[0] if len(lists) == 1 and _all_are(lists[0], dict) else [value]


def _all_are(values: Any, kind: type) -> TypeGuard[list]:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _ends_an_object(line: str) -> bool:
    return isinstance(parsed_json(line)[0], dict) or line.rstrip().endswith("}")


def parsed_json(text: str) -> tuple[Any, str | None]:
    """Returns (the value of a JSON text, None), or (None, what is wrong with it)."""
    try:
        return json.loads(text), None
    except json.JSONDecodeError as error:
        return None, f"not valid JSON: {error.msg} at character {error.pos + 1}"
    except RecursionError:
        return None, "not usable JSON: it is nested too deeply"
    except ValueError as error:  # a number of thousands of digits
        return None, f"not usable JSON: {error}"


def _name_of(value: Any) -> str:
    return {list: "array", str: "string", type(None): "null", bool: "boolean"}.get(type(value), "number")


def read_json_lines(path: str, encoding: str) -> Iterator[Record]:
    """Yields the records of a file with one object per line; a file that begins as one JSON value is read as that."""
    is_first = True
    for number, text in enumerate(read_lines(path, encoding), start=1):
        if not text.strip():
            continue
        if is_first and (text.lstrip().startswith("[") or text.strip() == "{"):
            yield from _read_value(path, encoding)
            return
        is_first = False
        problem = bad_byte(text)
        values, problem = (None, problem) if problem else parsed_json(text.rstrip())
        if isinstance(values, dict):
            yield number, values, text
        else:
            yield number, problem or f"a JSON {_name_of(values)} where an object belongs", text
