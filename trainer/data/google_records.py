"""google-research/bert's pre-training records: their TFRecord schema read and written.

Source: `create_pretraining_data.py`, `write_instance_to_example_files`: padded to max_seq_length, with at most
max_predictions_per_seq masked tokens; Model Garden's `use_v2_feature_names` calls two of the features otherwise.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from trainer import files
from trainer.data.sources import Row, RowError
from trainer.errors import UserError
from trainer.features import Feature

NAMES = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
LABEL = "next_sentence_labels"
V2_NAMES = {"input_word_ids": "input_ids", "input_type_ids": "segment_ids"}
SPEC = {name: Feature("float32" if name == "masked_lm_weights" else "int32", "token") for name in (*NAMES, LABEL)}


def read_google_records(path: str) -> Iterator[Row]:
    """Yields a row for each record: {feature: list of numbers}, with the names of the first version."""
    import tensorflow as tf

    records = tf.data.TFRecordDataset(path, compression_type="GZIP" if path.endswith(".gz") else "")
    from google.protobuf.message import DecodeError

    numbered = enumerate(records.as_numpy_iterator(), start=1)
    while True:
        try:
            number, record = next(numbered)
            features = tf.train.Example.FromString(record).features.feature
        except StopIteration:
            return
        except (tf.errors.OpError, DecodeError) as error:
            reason = (str(error).strip().splitlines() or ["a record is no tf.train.Example"])[0]
            raise UserError(f"{path}: no TFRecord file of examples, or a damaged one: {reason}") from None
        values = {
            V2_NAMES.get(name, name): list((feature.int64_list if feature.HasField("int64_list") else feature.float_list).value)
            for name, feature in features.items()
        }
        yield Row(values, path, number)


def is_record(row: Row) -> bool:
    """Whether a row is such a record, and no text."""
    return "masked_lm_positions" in row.values


def example_of(row: Row, max_seq_length: int, vocabulary_size: int) -> dict[str, Any]:
    """Returns a record as an example with static masks.

    Raises:
      RowError: a feature is missing, a length does not fit, or an id is not in the vocabulary.
    """
    missing = [name for name in (*NAMES, LABEL) if name not in row.values]
    if missing:
        raise RowError(f"the record has no feature {missing[0]!r}; it has {', '.join(map(repr, sorted(row.values)))}")
    length = sum(row.values["input_mask"])
    if not 0 < length <= max_seq_length:
        raise RowError(f"the record has {length} tokens; allowed are 1 to data.max_seq_length={max_seq_length}")
    ids, types = row.values["input_ids"][:length], row.values["segment_ids"][:length]
    targets = [0] * length
    for place, number, weight in zip(*(row.values[name] for name in NAMES[3:]), strict=True):
        if weight:
            if place >= length:
                raise RowError(f"the record masks token {place} of {length}")
            targets[place] = number + 1
    highest = max(*ids, *(target - 1 for target in targets))
    if highest >= vocabulary_size:
        raise RowError(f"the record has token id {highest}; the vocabulary has {vocabulary_size}: it is another one's")
    label = row.values[LABEL][0]
    return {"input_ids": ids, "token_type_ids": types, "masked_lm_targets": targets, "sentence_label": label}


def record_of(example: Mapping[str, Any], max_seq_length: int, max_predictions: int) -> dict[str, list]:
    """Returns an example with static masks as a record's features: the inverse of `example_of`.

    Args:
      example: input_ids, masked_lm_targets, and token_type_ids and sentence_label where it is a pair.
      max_seq_length, max_predictions: what the record is padded to.

    Raises:
      UserError: more tokens are masked.
    """
    ids, targets = list(example["input_ids"]), example["masked_lm_targets"]
    masked = [(place, target - 1) for place, target in enumerate(targets) if target > 0]
    if len(masked) > max_predictions:
        raise UserError(f"a record has {len(masked)} masked tokens, over {max_predictions}; set task.max_predictions to more")
    types = list(example.get("token_type_ids", [0] * len(ids)))
    padding, rest = [0] * (max_seq_length - len(ids)), max_predictions - len(masked)
    return {
        "input_ids": ids + padding,
        "input_mask": [1] * len(ids) + padding,
        "segment_ids": types + padding,
        "masked_lm_positions": [place for place, _ in masked] + [0] * rest,
        "masked_lm_ids": [number for _, number in masked] + [0] * rest,
        "masked_lm_weights": [1.0] * len(masked) + [0.0] * rest,
        LABEL: [int(example.get("sentence_label", 0))],
    }


def write_google_records(paths: list[str], folder: str, max_seq_length: int, max_predictions: int) -> list[str]:
    """Writes shards of ours, prepared with static masks, as Google's, under the same names.

    Returns:
      The paths of the files.
    """
    from trainer.data.records import encode_example
    from trainer.data.shards import framed

    files.make_dirs(folder)
    written = []
    for path in paths:
        target = files.join(folder, path.rpartition("/")[2])
        with files.open_binary(f"{target}.partial", "wb") as file:
            for row in read_google_records(path):
                example = {**row.values, "sentence_label": row.values.get("sentence_label", [0])[0]}
                file.write(framed(encode_example(record_of(example, max_seq_length, max_predictions), SPEC)))
        files.rename(f"{target}.partial", target)
        written.append(target)
    return written
