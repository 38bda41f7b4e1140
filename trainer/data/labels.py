"""Values of a label's column as class names, however a file writes them."""

import math
import re
from typing import Any

import numpy as np

_SURROGATE = re.compile("[\ud800-\udfff]")
# How pandas, NumPy, databases and spreadsheets write a value that is not there
MISSING = ("", "nan", "NaN", "NAN", "NaT", "<NA>", "null", "NULL", "\\N", "#N/A", "N/A")


def label_text(value: Any) -> str | None:
    """Returns a label as its class name: 1, 1.0 and "1" are the same class, and so are true and True; None for no usable label.

    >>> label_text(True), label_text("True"), label_text(2.0), label_text(float("nan")), label_text(" spam ")
    ('true', 'true', '2', None, 'spam')
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        value = value.decode("utf8", "backslashreplace")  # a binary column of a parquet file
    if value is None or (isinstance(value, float) and math.isnan(value)) or label_problem(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if text in ("True", "TRUE", "False", "FALSE"):
        return text.lower()
    return None if text in MISSING else text


def label_problem(value: Any) -> str | None:
    """Returns what keeps a value from being a class at all: it is no single value, or no text that can be stored; or None."""
    if isinstance(value, (list, dict, np.ndarray)):
        return "holds a list or an object; a class is one value"
    if isinstance(value, str) and has_half_a_surrogate_pair(value):
        return "holds half of a surrogate pair, which is no character"
    return None


def has_half_a_surrogate_pair(text: str) -> bool:
    """Returns whether a text holds what is no character and cannot be stored as UTF-8."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def class_order(name: str) -> tuple:
    """Returns what sorts class names: numbers in their order, then names in theirs; total, for "1" and "01" are two classes."""
    is_number = re.fullmatch(r"-?[0-9]{1,4000}", name) is not None
    return (0, int(name), name) if is_number else (1, 0, name)
