import json

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf

from trainer.errors import UserError
from trainer.run.vector_files import token_vectors_line, vector_file

VECTORS = np.arange(12, dtype=np.float32).reshape([4, 3])
ROWS = [{"text": "a", "id": 7}, {"text": "ü", "id": None}, None, {"text": "c", "id": "x"}]


@pytest.fixture
def written(tmp_path):
    def write(name):
        path = str(tmp_path / "folder" / name)
        with vector_file(path, 3) as file:
            file.write(ROWS[:2], VECTORS[:2])
            file.write(ROWS[2:], VECTORS[2:])
        assert [p.name for p in (tmp_path / "folder").iterdir()] == [name]
        return path

    return write


def test_an_array_has_a_row_for_each_of_the_input(written):
    found = np.load(written("x.npy"))
    assert found.dtype == np.float32 and np.array_equal(found[[0, 1, 3]], VECTORS[[0, 1, 3]]) and np.isnan(found[2]).all()


def test_a_table(written):
    table = pyarrow.parquet.read_table(written("x.parquet")).to_pydict()
    assert table["text"] == ["a", "ü", "c"] and table["id"] == ["7", None, "x"]
    assert table["embedding"] == VECTORS[[0, 1, 3]].tolist()


def test_json_lines(written):
    lines = [json.loads(line) for line in open(written("x.jsonl"), encoding="utf8")]
    assert lines[1] == {"text": "ü", "id": None, "embedding": [3.0, 4.0, 5.0]} and len(lines) == 3


def test_records(written):
    examples = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(written("x.tfrecord"))]
    assert [e.features.feature["text"].bytes_list.value[0].decode() for e in examples] == ["a", "ü", "c"]
    assert list(examples[2].features.feature["embedding"].float_list.value) == [9.0, 10.0, 11.0]


def test_files_elsewhere():
    with vector_file("ram://vectors/x.npy", 3) as file:
        file.write(ROWS, VECTORS)
    with tf.io.gfile.GFile("ram://vectors/x.npy", "rb") as file:
        assert file.read(6) == b"\x93NUMPY"


@pytest.mark.parametrize("name", ["x.npy", "x.parquet", "x.jsonl", "x.tfrecord"])
def test_an_interrupted_file_is_not_there(tmp_path, name):
    with pytest.raises(KeyboardInterrupt), vector_file(str(tmp_path / name), 3) as file:
        file.write(ROWS, VECTORS)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_no_rows(tmp_path):
    for name in ("x.npy", "x.parquet"):
        with vector_file(str(tmp_path / name), 3) as file:
            file.write([None], VECTORS[:1])
    assert np.isnan(np.load(tmp_path / "x.npy")).all()


def test_paths_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match=r"x.csv ends in none of .npy, .parquet, .tfrecord, .jsonl; a folder"):
        vector_file("x.csv", 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        vector_file(str(tmp_path / "file/x.npy"), 3)


def test_googles_lines():
    """The format of google-research/bert's extract_features.py."""
    vectors = np.arange(8, dtype=np.float32).reshape([2, 2, 2]) / 3
    line = json.loads(token_vectors_line(3, ["[CLS]", "a"], vectors, [-1, -2]))
    assert line["linex_index"] == 3 and [one["token"] for one in line["features"]] == ["[CLS]", "a"]
    assert line["features"][1]["layers"] == [
        {"index": -1, "values": [1.333333, 1.666667]},
        {"index": -2, "values": [2.0, 2.333333]},
    ]
