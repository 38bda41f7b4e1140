import json

import pytest

from trainer.data.table import UnrecognizedError, listed, quoted, read_table, token_estimate


def table_of(tmp_path, rows):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_table(f"{tmp_path}/x.jsonl")


def test_an_index_column_is_neither_text_nor_label(tmp_path):
    (tmp_path / "x.csv").write_text(",text,label\n" + "".join(f"{i},some text {i},{'ab'[i % 2]}\n" for i in range(40)))
    table = read_table(f"{tmp_path}/x.csv")
    assert (table.text_columns(), table.label_column()) == (("text",), "label")


def test_columns_are_guessed(tmp_path):
    pairs = [{"sentence1": f"some text {i}", "sentence2": "other", "label": i % 2} for i in range(20)]
    assert table_of(tmp_path, pairs).text_columns() == ("sentence1", "sentence2")
    inference = [{"premise": f"p {i}", "hypothesis": f"h {i}", "gold": "ab"[i % 2]} for i in range(20)]
    table = table_of(tmp_path, inference)
    assert table.text_columns(without=["gold"]) == ("premise", "hypothesis") and table.label_column() == "gold"
    longest = [{"a": "x", "story": f"a long story {i}", "intent": "ab"[i % 2]} for i in range(20)]
    assert table_of(tmp_path, longest).text_columns(without=["intent"]) == ("story",)


def test_what_is_missing_is_told(tmp_path):
    table = table_of(tmp_path, [{"a": i, "b": 2 * i} for i in range(20)])
    with pytest.raises(UnrecognizedError, match="no column looks like a label .*: 'a' has 20, 'b' has 20"):
        table.label_column()
    with pytest.raises(UnrecognizedError, match="no column of text besides the label; the columns are 'a', 'b'"):
        table.text_columns()


def test_values_kinds_and_lengths(tmp_path):
    table = table_of(tmp_path, [{"text": "abcd" * 10, "tags": ["A"]}, {"text": "你好"}])
    assert table.columns == ["text", "tags"] and table.values("tags") == [["A"], None]
    assert (
        table.holds("tags", list) and table.holds("text", str) and not table.holds("text", list) and not table.holds("x", str)
    )
    assert table.token_lengths(["text"]) == [4, 12] == [token_estimate("你好"), token_estimate("abcd" * 10)]


def test_strings_are_written_as_yaml():
    assert listed(['a"b', "c"]) == '["a\\"b", "c"]' and quoted("it\x92s") == '"it\\u0092s"' and quoted("你") == '"你"'
