"""JSON files of every layout, as rows of a source."""

import gzip
import json

import pytest

from tests.data.test_sources import read, write
from trainer.data.json_records import parsed_json
from trainer.data.sources import Rejected
from trainer.errors import UserError

RECORDS = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_a_json_array_is_rows(tmp_path, name, indent, packed):
    content = json.dumps(RECORDS, indent=indent).encode()
    path = write(tmp_path, f"{name}.gz" if packed else name, gzip.compress(content) if packed else content)
    assert [(row.values, row.line) for row in read(path)] == [(RECORDS[0], 1), (RECORDS[1], 2)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "value",
    [
        {"data": RECORDS},
        {"version": "1.0", "data": RECORDS},
        {"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}},
        {"columns": ["text", "label"], "index": [0, 1], "data": [["a", 1], ["b", 0]]},
        {"text": ["a", "b"], "label": [1, 0]},
        {"0": {"text": "a", "label": 1}, "1": {"text": "b", "label": 0}},
    ],
)
def test_a_json_file_of_other_layouts(tmp_path, value, indent):
    assert [row.values for row in read(write(tmp_path, "a.json", json.dumps(value, indent=indent)))] == RECORDS


def test_a_json_file_of_lines(tmp_path):
    rows = read(write(tmp_path, "a.json", '{"text": "a"}\n{"text": \n{bad}\n{"text": "b"}\n'))
    assert [getattr(row, "values", None) for row in rows] == [{"text": "a"}, None, None, {"text": "b"}]
    assert [row.line for row in rows] == [1, 2, 3, 4]
    for one in ({"text": "a"}, {"text": "a", "tokens": ["q", "r"]}, {"columns": ["text"], "data": [1, 2]}):
        assert [row.values for row in read(write(tmp_path, "one.json", json.dumps(one)))] == [one]
    rows = read(write(tmp_path, "cut.json", '{"text": "a", "la\n{"text": "b"}\n{"text": "c"}\n'))
    assert [row.line for row in rows] == [1, 2, 3] and isinstance(rows[0], Rejected)


def test_odd_json_names_what_is_wrong(tmp_path):
    rows = read(write(tmp_path, "a.json", '[{"text": "a"}, 3, [1]]'))
    assert [row.reason for row in rows[1:]] == [
        "a JSON number where an object belongs",
        "a JSON array where an object belongs",
    ]
    with pytest.raises(UserError, match="cut.json: not valid JSON: Expecting ',' delimiter at character 16"):
        read(write(tmp_path, "cut.json", '[{"text": "a"}\n'))
    rows = read(
        write(tmp_path, "deep.jsonl", '{"text": "a"}\n{"text": ' + "[" * 100_000 + "\n" + '{"n": ' + "9" * 5000 + "}\n")
    )
    assert rows[1].reason == "not usable JSON: it is nested too deeply"
    assert rows[2].reason.startswith("not usable JSON: Exceeds the limit")


def test_a_text_is_a_value_or_a_reason():
    assert parsed_json('{"a": 1}') == ({"a": 1}, None)
    assert parsed_json("{") == (None, "not valid JSON: Expecting property name enclosed in double quotes at character 2")
