"""The tf.data pipeline: records in a seeded order → packed batches.

The order of a training stream is a function of the seed, epochs following each other without a gap, and every
step takes exactly `batch_size` examples of it. So the stream's position is one number, and a resumed run continues with
the example that comes next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import tensorflow as tf

from trainer.data.packing import NUMBER, pack
from trainer.data.sampling import Sampling
from trainer.errors import UserError
from trainer.features import FeatureSpec, aligned_sequences, in_sequence, sequences_of

MAX_INTERLEAVED_SHARDS, MOST_OPEN_SHARDS = 64, 256  # read ahead; open at a time (of a corpus: others have few)
WINDOW_BATCHES = 50  # as many as transformers' LengthGroupedSampler sorts together


@dataclasses.dataclass(frozen=True)
class Packing:
    """The shape of packed rows.

    Attributes:
      row_length: tokens in a row.
      max_examples_per_row: examples in a row; 1 is the classic, unpacked layout.
      row_multiple: row counts are multiples of this (the accumulation steps).
      static_rows: the number of rows is this or a multiple of it, so that XLA compiles few shapes; None lets it vary.
      pieces: with static_rows, a batch always has this many times as many rows, the last ones empty: one shape for all batches.
        0: it has as many as it needs, cut into batches of static_rows rows; for inference.
      length_unit: above 0, with one example per row: rows are as long as the batch's longest example, rounded up to this.
      aligned_length: tokens in a row of a sequence that is aligned with another one; 0: row_length.
    """

    row_length: int
    max_examples_per_row: int
    row_multiple: int = 1
    static_rows: int | None = None
    pieces: int = 0
    length_unit: int = 0
    aligned_length: int = 0


@dataclasses.dataclass(frozen=True)
class StreamPosition:
    """Where an input pipeline begins in the endless training stream, and which part of the stream it reads.

    Attributes:
      step: the step that the pipeline begins with.
      skipped_steps: steps that it makes and drops, because it can only begin before the run's step.
      batch_size: examples of a step, over all pipelines.
      index, count: of `count` pipelines this one takes every count-th example, from number `index` on.
      together: so many examples that follow each other stay together, in one batch of one pipeline: groups of them are what is
        shuffled and dealt; batch_size is a multiple.
    """

    step: int = 0
    skipped_steps: int = 0
    batch_size: int = 1
    index: int = 0
    count: int = 1
    together: int = 1

    @classmethod
    def of_step(cls, step: int, batch_size: int, window_steps: int = 1, together: int = 1) -> StreamPosition:
        """Returns the position of a run's step; with windows the pipeline begins at the start of the step's window."""
        begun = step // window_steps * window_steps
        return cls(begun, step - begun, batch_size, together=together)

    def share(self, index: int, count: int) -> StreamPosition:
        """Returns the same position for one of several pipelines."""
        return dataclasses.replace(self, index=index, count=count)

    @property
    def first(self) -> int:
        """The number of the first example, counted over the whole stream."""
        return self.step * self.batch_size

    def numbers(self, batch: tf.Tensor, batch_size: int, size: tf.Tensor) -> tf.Tensor:
        """Returns the numbers in the whole stream of this pipeline's examples: int64 [size], of its batch number `batch`."""
        place = batch * batch_size + tf.range(size)
        group = self.first // (self.count * self.together) + place // self.together
        return (group * self.count + self.index) * self.together + place % self.together


Features = dict[str, tf.RaggedTensor | tf.Tensor]


@dataclasses.dataclass(frozen=True)
class BatchWork:
    """What a task does to batches in the pipeline, besides packing.

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
    position: StreamPosition = StreamPosition(),
    sampling: Sampling | None = None,
) -> tf.data.Dataset:
    """Returns the endless training stream of serialized examples.

    Args:
      paths: the shards.
      examples: how many examples they hold.
      seed: gives the order of every epoch.
      shuffle_buffer: examples held for shuffling; 0 keeps the order.
      position: where to begin, and which part to read.
      sampling: how often an epoch takes which example; None: each once.
    """
    if examples == 0:
        raise UserError("there are no training examples: every row was rejected or the source is empty")

    def epoch(number):
        dataset = read_records(paths)
        if sampling is not None:
            dataset = sampling.sampled(dataset, seed, number)
        if position.together > 1:
            dataset = dataset.batch(position.together, drop_remainder=True)
        if shuffle_buffer:
            buffer = max(shuffle_buffer // position.together, 1)
            dataset = dataset.shuffle(buffer, seed=seed + number, reshuffle_each_iteration=False)
        return dataset

    begun, skipped = sampling.place(seed, position.first) if sampling else divmod(position.first, examples)
    endless = tf.data.Dataset.range(tf.cast(begun, tf.int64), tf.int64.max).flat_map(epoch)
    dealt = endless.skip(skipped // position.together).shard(position.count, position.index)
    return dealt.unbatch() if position.together > 1 else dealt


def length_grouped(
    records: tf.data.Dataset, batch_size: int, batches_of_a_step: int, seed: int, window: int, ids_name: str = "input_ids"
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
      ids_name: the feature whose length counts.
    """
    step_size = batch_size * batches_of_a_step

    def grouped(number, serialized):
        ids = tf.io.parse_example(serialized, {ids_name: tf.io.RaggedFeature(tf.int64)})[ids_name]
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
    work: BatchWork | None = None,
    position: StreamPosition = StreamPosition(),
    every: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Returns batches of `batch_size` examples each, parsed and packed (see `packing.pack` for their tensors).

    Args:
      records: serialized examples, string [].
      spec: their features.
      batch_size: examples of a batch.
      packing: the shape of the rows.
      work: what the task adds to a batch.
      position: of `records` in the training stream; `work` gets the examples' numbers.
      every: (w, W): only every W-th batch from number w on.

    Returns:
      The batches, with each example's number in the stream as "example_number" (counted in int32: where training goes round
      it, nobody reads it).
    """
    packed_spec = {**(work.spec if work else spec), **NUMBER}
    aligned = aligned_sequences(spec)
    alone = [sequence for sequence in sequences_of(spec) if sequence not in aligned]
    if len(alone) > 1 and packing.static_rows and not packing.pieces:  # the rows of two sequences cannot be cut alike
        packing = dataclasses.replace(packing, pieces=-(-batch_size // packing.static_rows))

    def parse_and_pack(number, serialized):
        features = _parse(serialized, spec)
        numbers = position.numbers(number, batch_size, tf.size(serialized, tf.int64))
        if work:
            features = work.vary(features, numbers)
        row_length: int | tf.Tensor = packing.row_length
        aligned_length: int | tf.Tensor = packing.aligned_length or packing.row_length
        if packing.length_unit:
            row_length = _batch_length(features, alone, packing.length_unit, row_length)
            aligned_length = _batch_length(features, aligned, packing.length_unit, aligned_length) if aligned else row_length
        rows = packing.max_examples_per_row, packing.row_multiple, packing.static_rows, packing.pieces
        features = {**features, "example_number": tf.cast(numbers, tf.int32)}
        batch = pack(features, packed_spec, row_length, *rows, aligned_length)
        return work.finish(batch, packing.static_rows is not None) if work else batch

    batches = records.batch(batch_size).enumerate().shard(every[1], every[0])
    batches = batches.map(parse_and_pack, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if packing.static_rows and not packing.pieces:
        batches = batches.flat_map(lambda batch: _in_pieces(batch, packing.static_rows))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _batch_length(features: Features, sequences: Iterable[str], unit: int, most: int | tf.Tensor) -> tf.Tensor:
    """Returns the tokens of the longest example in some sequences, rounded up to a unit."""
    lengths = [features[in_sequence(sequence, "input_ids")].row_lengths() for sequence in sequences]
    longest = tf.cast(tf.reduce_max(tf.stack(lengths)), tf.int32)
    return tf.minimum(-(-longest // unit) * unit, most)


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
    """Cuts a batch for inference that overflowed its static row count into batches of that many rows."""
    cut = {name: tf.reshape(value, [-1, rows, value.shape[-1]]) for name, value in batch.items()}
    return tf.data.Dataset.from_tensor_slices(cut)


def serialized_examples(encoded: Callable[[], Iterable[bytes]]) -> tf.data.Dataset:
    """Returns a dataset of the examples that a Python function yields, as `predict` streams them: string []."""
    return tf.data.Dataset.from_generator(encoded, output_signature=tf.TensorSpec([], tf.string))
