"""Class names from the training rows; where they cannot be learned, the reason of the first unreadable row is shown."""

import pytest

from trainer.errors import UserError
from trainer.preparation.learning import learned
from trainer.run import experiment


def load(path, *sets):
    return experiment.load(None, ["encoder.init_from=x", f"data.train={path}", *sets])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cp1252.csv", "text,label\nschön,gut\nübel,schlecht\n".encode("cp1252"),
         r"2 of 2 rows cannot be read; the first, .*cp1252.csv:2: not UTF-8: byte 0xF6 .*data.encoding=cp1252"),
        ("backslash.csv", b'text,label\n"he said \\"hi\\" ok",good\n"she \\"said\\" no",bad\n',
         r'the first, .*backslash.csv:2: not valid csv: .*written twice \(""\), not with a backslash'),
        ("header.csv", b"text,label\n", "class names cannot be learned; the source has no rows"),
        ("empty.csv", b"", "data.train: .*empty.csv is empty"),
        ("unlabelled.csv", b"text,label\na,\nb,NaN\n", "data.train: no row has a label in column 'label'"),
    ],
)  # fmt: skip
def test_the_reason_is_not_hidden(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        learned(load(tmp_path / name))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_a_json_array_is_read(tmp_path, name):
    (tmp_path / name).write_text('[\n  {"text": "a", "label": true},\n  {"text": "b", "label": "False"}\n]\n')
    assert learned(load(tmp_path / name)).task.class_names == ("false", "true")


def test_held_out_rows_do_not_hide_a_class(tmp_path):
    rows = "".join(f"text {i},{'rare' if i == 7 else 'usual'}\n" for i in range(30))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    assert learned(load(tmp_path / "rows.csv", "data.validation=20%")).task.class_names == ("rare", "usual")
