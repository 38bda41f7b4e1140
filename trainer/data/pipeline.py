"""The tf.data pipeline: records in a seeded order → packed batches.

The order of a training stream is a function of the seed alone, epochs following each other without a gap, and every
step takes exactly `batch_size` examples of it. So the stream's position is one number, and a resumed run goes on with
the example that comes next.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import tensorflow as tf

from trainer.data.packing import pack
from trainer.errors import UserError
from trainer.features import FeatureSpec

MAX_INTERLEAVED_SHARDS, MOST_OPEN_SHARDS = 64, 256  # read ahead; open at a time (of a corpus: others have few)
WINDOW_BATCHES = 50  # as many as transformers' LengthGroupedSampler sorts together


@dataclasses.dataclass(frozen=True)
class Packing:
    """The shape of packed rows.

    Attributes:
      row_length: tokens in a row.
      max_examples_per_row: examples in a row; 1 is the classic, unpacked layout.
      row_multiple: row counts are multiples of this (the accumulation steps).
      static_rows: one row count for all batches, as TPUs want it; None lets it vary.
      length_unit: over 0, with one example a row: rows are as long as the batch's longest example, rounded up to this.
    """

    row_length: int
    max_examples_per_row: int
    row_multiple: int = 1
    static_rows: int | None = None
    length_unit: int = 0


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of the stream this input pipeline reads: one of `count`, each the same size."""

    index: int = 0
    count: int = 1


Features = dict[str, tf.RaggedTensor | tf.Tensor]


@dataclasses.dataclass(frozen=True)
class BatchWork:
    """What a task does to batches in the pipeline, beside packing.

    Attributes:
      vary: changes parsed features (int32 [examples, (tokens)], [examples]), given each example's position in the stream
        (int64 [examples]): what is to be different in each epoch.
      spec: the features that `vary` gives.
      finish: completes a packed batch; the second argument is whether its shapes must be the same for every batch.
    """

    vary: Callable[[Features, tf.Tensor], Features]
    spec: FeatureSpec
    finish: Callable[[dict[str, tf.Tensor], bool], dict[str, tf.Tensor]]


def read_records(paths: Sequence[str]) -> tf.data.Dataset:
    """Returns the serialized examples of round-robin shards, in the order in which they were written: string []."""
    shards = tf.data.Dataset.from_tensor_slices(list(paths))
    return shards.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(len(paths), MOST_OPEN_SHARDS),
        block_length=1,
        num_parallel_calls=tf.data.AUTOTUNE if len(paths) <= MAX_INTERLEAVED_SHARDS else None,
        deterministic=True,
    )


def training_stream(
    paths: Sequence[str],
    examples: int,
    seed: int,
    shuffle_buffer: int,
    first: int = 0,
    share: Share = Share(),
    copies: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> tf.data.Dataset:
    """Returns the endless training stream of serialized examples, from its example number `first` on.

    Args:
      paths: the shards.
      examples: how many examples they hold.
      seed: gives the order of every epoch.
      shuffle_buffer: examples held for shuffling; 0 keeps the order.
      first: the position to begin at, counted over the whole stream.
      share: with several pipelines, each takes every count-th example.
      copies: for balanced sampling, how often (int64 []) to take an example (string [], int64 [2] seed).
    """
    if examples == 0:
        raise UserError("there are no training examples: every row was rejected or the source is empty")

    def epoch(number):
        dataset = read_records(paths)
        if copies is not None:
            seeds = tf.data.Dataset.random(seed=seed + number)
            seeded = tf.data.Dataset.zip(dataset, seeds)
            dataset = seeded.flat_map(
                lambda record, draw: tf.data.Dataset.from_tensors(record).repeat(copies(record, tf.stack([draw, number])))
            )
        if shuffle_buffer:
            dataset = dataset.shuffle(shuffle_buffer, seed=seed + number, reshuffle_each_iteration=False)
        return dataset

    # With sampled copies an epoch's size is not known beforehand: the stream is then counted off from its start.
    start, skipped = (0, first) if copies else divmod(first, examples)
    begun = tf.cast(start, tf.int64)
    endless = tf.data.Dataset.range(begun, tf.int64.max).flat_map(epoch).skip(skipped)
    return endless.shard(share.count, share.index)


def length_grouped(
    records: tf.data.Dataset, batch_size: int, batches_of_a_step: int, seed: int, window: int
) -> tf.data.Dataset:
    """Reorders a stream so that a batch holds examples of like length: sorted within windows of WINDOW_BATCHES steps.

    The steps of a window then follow each other in an order that the seed gives, so that length does not rise and fall
    with the steps. It is the field's "group by length" (transformers' LengthGroupedSampler).

    Args:
      records: serialized examples, beginning with a whole window; string [].
      batch_size: examples of a batch.
      batches_of_a_step: as many replicas take theirs from this stream; a step's examples are dealt to them in turn.
      seed: gives the order of the steps.
      window: the number of the first window.
    """
    step_size = batch_size * batches_of_a_step

    def grouped(number, serialized):
        ids = tf.io.parse_example(serialized, {"input_ids": tf.io.RaggedFeature(tf.int64)})["input_ids"]
        by_length = tf.gather(serialized, tf.argsort(ids.row_lengths(), stable=True))
        steps = tf.transpose(tf.reshape(by_length, [-1, batch_size, batches_of_a_step]), [0, 2, 1])
        order = tf.random.experimental.stateless_shuffle(tf.range(WINDOW_BATCHES), [seed, tf.cast(number, tf.int32)])
        return tf.data.Dataset.from_tensor_slices(tf.reshape(tf.gather(steps, order), [-1]))

    return records.batch(WINDOW_BATCHES * step_size, drop_remainder=True).enumerate(start=window).flat_map(grouped)


def packed_batches(
    records: tf.data.Dataset,
    spec: FeatureSpec,
    batch_size: int,
    packing: Packing,
    drop_remainder: bool = False,
    work: BatchWork | None = None,
    first: int = 0,
    share: Share = Share(),
) -> tf.data.Dataset:
    """Returns batches of `batch_size` examples each, parsed and packed (see `packing.pack` for their tensors).

    Args:
      records: serialized examples, string [].
      spec: their features.
      batch_size: examples of a batch.
      packing: the shape of the rows.
      drop_remainder: leaves out a last batch that is smaller.
      work: what the task does beside.
      first, share: where in the whole stream `records` begins, and which part of it this is; `work` is told.
    """
    packed_spec = work.spec if work else spec

    def parse_and_pack(number, serialized):
        features = _parse(serialized, spec)
        if work:
            place = number * batch_size + tf.range(tf.size(serialized, tf.int64))
            features = work.vary(features, (first + place) * share.count + share.index)
        row_length: int | tf.Tensor = packing.row_length
        if packing.length_unit:
            longest = tf.cast(tf.reduce_max(features["input_ids"].row_lengths()), tf.int32)
            row_length = tf.minimum(-(-longest // packing.length_unit) * packing.length_unit, packing.row_length)
        rows = packing.max_examples_per_row, packing.row_multiple, packing.static_rows
        batch = pack(features, packed_spec, row_length, *rows)
        return work.finish(batch, packing.static_rows is not None) if work else batch

    batches = records.batch(batch_size, drop_remainder=drop_remainder).enumerate()
    batches = batches.map(parse_and_pack, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if packing.static_rows:
        batches = batches.flat_map(lambda batch: _in_pieces(batch, packing.static_rows))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _parse(serialized: tf.Tensor, spec: FeatureSpec) -> dict[str, tf.RaggedTensor | tf.Tensor]:
    stored = {"int32": tf.int64, "float32": tf.float32}
    wanted = {
        name: tf.io.RaggedFeature(stored[feature.dtype])
        if feature.per == "token"
        else tf.io.FixedLenFeature([], stored[feature.dtype])
        for name, feature in spec.items()
    }
    parsed = tf.io.parse_example(serialized, wanted)
    return {name: tf.cast(value, spec[name].dtype) for name, value in parsed.items()}


def _in_pieces(batch: dict[str, tf.Tensor], rows: int) -> tf.data.Dataset:
    """Cuts a batch that overflowed its static row count into steps of that many rows."""
    cut = {name: tf.reshape(value, [-1, rows, value.shape[-1]]) for name, value in batch.items()}
    return tf.data.Dataset.from_tensor_slices(cut)


def serialized_examples(encoded: Callable[[], Iterable[bytes]] | Iterator[bytes]) -> tf.data.Dataset:
    """Returns a dataset of examples that Python yields, as `predict` streams them: string []."""
    source = encoded if callable(encoded) else lambda: encoded
    return tf.data.Dataset.from_generator(source, output_signature=tf.TensorSpec([], tf.string))
