"""From records to what `fit` and evaluation eat: the data pipeline, cut to a run's batch, packing and replicas."""

import math

import tensorflow as tf

from trainer.data.pipeline import (
    WINDOW_BATCHES,
    Packing,
    Share,
    length_grouped,
    packed_batches,
    read_records,
    training_stream,
)
from trainer.data.records import Manifest, mean_tokens
from trainer.errors import UserError
from trainer.experiment import Experiment
from trainer.runtime.distribution import Placement
from trainer.tasks.base import Task

ROW_LENGTH_UNIT = 16  # tokens; what vector units and TPU tiles divide evenly
EVALUATION_TOKENS = 8192  # of a batch in evaluation and prediction: no gradients, so more fits than in training


def training_batches(
    experiment: Experiment, manifest: Manifest, placement: Placement, task: Task, first_step: int
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Returns the batches of a run from its step `first_step` on, distributed to the replicas.

    Every step takes the next train.batch_size examples of the seeded stream, whatever the number of replicas.

    Raises:
      UserError: a batch size that the replicas cannot share evenly; length buckets where there can be one shape only.
    """
    train, data = experiment.train, experiment.data
    if train.batch_size % placement.replicas:
        nearest = max(round(train.batch_size / placement.replicas), 1) * placement.replicas
        raise UserError(f"train.batch_size={train.batch_size} cannot be shared by {placement.replicas} replicas; use {nearest}")
    replica_batch = train.batch_size // placement.replicas
    packing = _packing(experiment, manifest, placement, replica_batch)
    local_replicas = placement.replicas // placement.workers
    # One static row count may take a batch in several steps: then the stream is counted in batches, from its start. Buckets
    # are made of whole windows: then from the start of a window.
    begun = 0 if packing.static_rows is not None else first_step
    if data.length_buckets:
        begun = begun // WINDOW_BATCHES * WINDOW_BATCHES

    def pipeline(share: Share) -> tf.data.Dataset:
        stream = training_stream(
            manifest.paths("train"),
            manifest.splits["train"]["examples"],
            train.seed,
            data.shuffle_buffer_examples,
            first=begun * train.batch_size,
            share=share,
            copies=task.copies(manifest.splits["train"]["values"]),
        )
        if data.length_buckets:
            stream = length_grouped(stream, replica_batch, local_replicas, train.seed, begun // WINDOW_BATCHES)
        first, work = begun * train.batch_size // share.count, task.batch_work()
        batches = packed_batches(stream, task.features(), replica_batch, packing, work=work, first=first, share=share)
        return batches.skip((first_step - begun) * local_replicas)

    if placement.replicas == 1:
        return pipeline(Share())
    return placement.strategy.distribute_datasets_from_function(
        lambda context: pipeline(Share(context.input_pipeline_id, context.num_input_pipelines))
    )


def row_length(experiment: Experiment, manifest: Manifest, split: str) -> int:
    """Returns the tokens of a split's packed rows: its longest example, rounded up, for attention costs their square."""
    return rounded_length(manifest.splits[split]["longest"], experiment.data.max_seq_length)


def rounded_length(longest: int, most: int) -> int:
    """Returns a row length that holds an example of `longest` tokens: a multiple of ROW_LENGTH_UNIT, or `most`."""
    return min(max(math.ceil(longest / ROW_LENGTH_UNIT), 1) * ROW_LENGTH_UNIT, most)


def _packing(experiment: Experiment, manifest: Manifest, placement: Placement, replica_batch: int) -> Packing:
    data, steps = experiment.data, experiment.train.accumulation_steps
    length = row_length(experiment, manifest, "train")
    static_rows = experiment.runtime.static_rows
    if static_rows is None and placement.kind == "tpu":
        static_rows = likely_rows(manifest.splits["train"], replica_batch, length, data.max_examples_per_row)
    if static_rows is not None:
        static_rows = math.ceil(static_rows / steps) * steps
    if data.length_buckets and static_rows is not None:
        reason = "a TPU takes one shape" if placement.kind == "tpu" else "runtime.static_rows asks for one shape"
        raise UserError(f"data.length_buckets: {reason}; pack the rows instead, with data.max_examples_per_row=16")
    length_unit = ROW_LENGTH_UNIT if data.length_buckets else 0
    return Packing(length, data.max_examples_per_row, steps, static_rows, length_unit)


def likely_rows(split: dict, batch: int, row_length: int, max_examples_per_row: int) -> int:
    """Returns a row count that hardly any batch overflows: its mean tokens, a quarter more, and one row."""
    rows = max(batch * mean_tokens(split) * 1.25 / row_length, batch / max_examples_per_row)
    return min(math.ceil(rows) + 1, batch)


def evaluation_batches(experiment: Experiment, manifest: Manifest, split: str, task: Task) -> tf.data.Dataset:
    """Returns a split's examples in order, packed, each once."""
    length = row_length(experiment, manifest, split)
    return _packed_for_inference(read_records(manifest.paths(split)), experiment, task, length, task.batch_work())


def prediction_batches(records: tf.data.Dataset, experiment: Experiment, task: Task, longest: int) -> tf.data.Dataset:
    """Returns serialized examples, the longest of `longest` tokens, packed for prediction."""
    length = rounded_length(longest, experiment.data.max_seq_length)
    return _packed_for_inference(records, experiment, task, length, task.prediction_work())


def _packed_for_inference(records, experiment, task, length, work):
    """Packs serialized examples into batches of about EVALUATION_TOKENS tokens, in rows of `length`."""
    data = experiment.data
    batch = max(EVALUATION_TOKENS // length, 1) * min(data.max_examples_per_row, 4)
    packing = Packing(length, data.max_examples_per_row, static_rows=experiment.runtime.static_rows)
    return packed_batches(records, task.features(), batch, packing, work=work)
