"""Google's pre-training records: read as written by their script's function, written as it would."""

import gzip

import pytest
import tensorflow as tf

from trainer.data import google_records
from trainer.data.google_records import example_of, read_google_records, record_of
from trainer.data.records import encode_example
from trainer.data.shards import framed
from trainer.data.sources import Row, RowError, read_rows
from trainer.errors import UserError

# As write_instance_to_example_files makes it of tokens [CLS] a [MASK] [SEP] c [SEP], max_seq_length 8, 3 predictions.
RECORD = {
    "input_ids": [101, 7, 103, 102, 9, 102, 0, 0],
    "input_mask": [1, 1, 1, 1, 1, 1, 0, 0],
    "segment_ids": [0, 0, 0, 0, 1, 1, 0, 0],
    "masked_lm_positions": [2, 4, 0],
    "masked_lm_ids": [8, 9, 0],
    "masked_lm_weights": [1.0, 1.0, 0.0],
    "next_sentence_labels": [1],
}
EXAMPLE = {
    "input_ids": [101, 7, 103, 102, 9, 102],
    "token_type_ids": [0, 0, 0, 0, 1, 1],
    "masked_lm_targets": [0, 0, 9, 0, 10, 0],
    "sentence_label": 1,
}


def write(path, *records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            features = {
                name: tf.train.Feature(float_list=tf.train.FloatList(value=values))
                if name == "masked_lm_weights"
                else tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                for name, values in record.items()
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


@pytest.mark.parametrize("version", [1, 2])
def test_reading(tmp_path, version):
    names = {old: new for new, old in google_records.V2_NAMES.items()} if version == 2 else {}
    write(tmp_path / "tf_examples.tfrecord", {names.get(name, name): values for name, values in RECORD.items()})
    (row,) = read_rows(f"{tmp_path}/tf_examples.tfrecord", "data.train")
    assert google_records.is_record(row) and not google_records.is_record(Row({"text": "x"}, "f", 1))
    assert example_of(row, 8, vocabulary_size=200) == EXAMPLE and row.line == 1
    packed = tmp_path / "tf_examples.tfrecord.gz"
    packed.write_bytes(gzip.compress((tmp_path / "tf_examples.tfrecord").read_bytes()))
    assert next(iter(read_rows(str(packed), "data.train"))).values == row.values


def test_a_damaged_file_names_itself(tmp_path):
    path = tmp_path / "x.tfrecord"
    write(path, RECORD, RECORD)
    whole = path.read_bytes()
    for content in (whole[:-9], whole[:20] + b"\0" + whole[21:], framed(b"no example")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path}: no TFRecord file of examples, or a damaged one: "):
            list(read_rows(str(path), "data.train"))


def test_writing_is_the_inverse(tmp_path):
    assert record_of(EXAMPLE, 8, 3) == RECORD
    path = tmp_path / "x.tfrecord"
    path.write_bytes(framed(encode_example(record_of(EXAMPLE, 8, 3), google_records.SPEC)))
    (row,) = read_google_records(str(path))
    assert row.values == RECORD
    with pytest.raises(UserError, match="a record has 2 masked tokens, over 1; set task.max_predictions to more"):
        record_of(EXAMPLE, 8, 1)
    alone = record_of({"input_ids": [101, 103, 102], "masked_lm_targets": [0, 6, 0]}, 4, 1)
    assert alone["segment_ids"] == [0] * 4 and alone["next_sentence_labels"] == [0] and alone["masked_lm_ids"] == [5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_mask": [1] * 8 + [1]}, "the record has 9 tokens; allowed are 1 to data.max_seq_length=8"),
        ({"masked_lm_positions": [2, 7, 0]}, "the record masks token 7 of 6"),
        ({"masked_lm_ids": [8, 500, 0]}, "the record has token id 500; the vocabulary has 200: it is another one's"),
        ({"segment_ids": None}, "the record has no feature 'segment_ids'; it has 'input_ids', 'input_mask',"),
    ],
)
def test_records_that_do_not_fit(change, message):
    values = {name: values for name, values in {**RECORD, **change}.items() if values is not None}
    with pytest.raises(RowError, match=message):
        example_of(Row(values, "f", 1), 8, vocabulary_size=200)
