import json

from trainer.data.sources import Rejected, Row, SourceFormat, read_rows
from trainer.run.written_rows import read_lines, write_rows


def test_rows_are_read_as_they_were_written(tmp_path):
    path = str(tmp_path / "rows.jsonl")
    rows = [
        Row({"text": 'é "x"\u2028', "spans": [[0, 1, "a"]]}, "f", 1),
        Rejected("f", 2, "no JSON", "{"),
        Row({"text": None}, "f", 3),
    ]
    assert write_rows(path, rows) == (2, 1)
    found = list(read_rows(path, "data.train", SourceFormat("jsonl")))
    assert [row.values for row in found] == [rows[0].values, rows[2].values]
    assert list(read_lines(path)) == [rows[0].values, rows[2].values]
    assert json.loads((tmp_path / "rows.jsonl").read_text().split("\n")[0]) == rows[0].values
