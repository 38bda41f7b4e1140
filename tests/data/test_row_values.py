import pytest

from trainer.data.row_values import number_in, number_of, optional_text, text_in, value_in
from trainer.data.sources import Row, RowError

ROW = Row({"text": "a b", "empty": " \n", "half": "\ud83d", "number": 7, "digits": " 1.5 "}, "f", 1)


def test_texts():
    assert text_in(ROW, "text") == "a b"
    for column, message in [
        ("other", "no column 'other'; the row has 'text', 'empty'"),
        ("empty", "the text in column 'empty' is empty"),
        ("half", "is not valid Unicode: it holds half of a surrogate pair"),
        ("number", "column 'number' holds a int where text belongs"),
    ]:
        with pytest.raises(RowError, match=message):
            text_in(ROW, column)
    with pytest.raises(RowError, match="no column 'text'; the row has nothing"):
        value_in(Row({}, "f", 1), "text")


def test_texts_that_may_be_missing():
    assert optional_text("a", "a choice") == "a" and optional_text(" \t", "a choice") == ""
    assert optional_text("\u3000", "a choice") == "\u3000", "as the graph of an export, which strips ASCII only"
    with pytest.raises(RowError, match="a choice is a int where text belongs"):
        optional_text(7, "a choice")
    with pytest.raises(RowError, match="a choice is not valid Unicode"):
        optional_text("\ud83d", "a choice")


def test_numbers():
    assert number_in(ROW, "number") == 7.0 and number_in(ROW, "digits") == 1.5
    with pytest.raises(RowError, match="column 'text' holds 'a b' where a number belongs"):
        number_in(ROW, "text")
    assert [number_of(value) for value in (True, None, "nan", float("inf"), [1])] == [None] * 5
