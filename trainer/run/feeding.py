"""From records to what `fit` and evaluation read: the data pipeline, cut to a run's batch, packing and replicas."""

import dataclasses
import functools
import math

import tensorflow as tf

from trainer import files
from trainer.data.augmentation import MOVABLE, Augmentation, augmented
from trainer.data.pipeline import (
    WINDOW_BATCHES,
    BatchWork,
    Packing,
    StreamPosition,
    length_grouped,
    packed_batches,
    read_records,
    training_stream,
)
from trainer.data.records import Manifest, mean_tokens
from trainer.data.synonyms import inner_tokens, read_synonyms, synonym_ids
from trainer.errors import UserError
from trainer.features import aligned_sequences, in_sequence, lead_of, sequences_of
from trainer.run.experiment import Experiment
from trainer.runtime.data_service import check_servers, from_servers
from trainer.runtime.distribution import Placement
from trainer.tasks.base import Task
from trainer.text.masks import MaskableTokens
from trainer.text.tokenizer import Tokenizer

ROW_LENGTH_UNIT = 16  # tokens; vector units and TPU tiles divide it evenly
MARGIN = 1.25  # over the mean tokens of a batch: hardly one has more
EVALUATION_TOKENS = 8192  # of a batch in evaluation and prediction: without gradients more fits than in training


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The shape of a replica's training batches.

    Attributes:
      packing: of its rows.
      batch_size: examples.
      micro_rows: rows of a micro-batch, where XLA compiles the whole step and every batch has one shape. A batch that fills
        more rows takes more micro-batches of the same step. None where the number of rows varies.
    """

    packing: Packing
    batch_size: int
    micro_rows: int | None

    def line(self, tokens_per_example: float) -> str | None:
        """Returns what the log says of the one shape and its padding; None where the shape varies."""
        if self.micro_rows is None or self.packing.static_rows is None:
            return None
        rows, length = self.packing.static_rows, self.packing.row_length
        cells = rows * (length + self.packing.aligned_length)
        useful = min(self.batch_size * tokens_per_example / cells, 1.0)
        return (
            f"one shape for XLA: {rows} rows of {length} tokens per replica and step, about {1 - useful:.0%} of them padding; "
            "a batch that needs more rows accumulates them in the same step (runtime.static_rows changes it)"
        )


def training_shape(experiment: Experiment, manifest: Manifest, placement: Placement, whole: bool) -> BatchShape:
    """Returns the shape of the training batches.

    Args:
      experiment, manifest, placement: the run.
      whole: XLA compiles the whole step, which then gets one shape.

    Raises:
      UserError: a batch size that the replicas cannot share evenly; length buckets where there can be one shape only.
    """
    train, data = experiment.train, experiment.data
    if train.batch_size % placement.replicas:
        nearest = max(round(train.batch_size / placement.replicas), 1) * placement.replicas
        raise UserError(f"train.batch_size={train.batch_size} cannot be shared by {placement.replicas} replicas; use {nearest}")
    batch_size, steps = train.batch_size // placement.replicas, train.gradient_accumulation_steps
    together = experiment.examples_together
    if batch_size % together:
        raise UserError(
            f"train.batch_size={train.batch_size}: the {together} examples of a row are learned from together, by one replica; "
            f"use a multiple of {together * placement.replicas}"
        )
    if together > 1 and data.length_buckets:
        raise UserError(
            f"data.length_buckets: this task learns from the {together} examples of a row together, which it would take apart"
        )
    length = row_length(experiment, manifest, "train")
    aligned = aligned_length(manifest, "train", length)
    static_rows = experiment.runtime.static_rows
    sequences = len(sequences_of(manifest.spec)) - len(aligned_sequences(manifest.spec))
    if sequences > 1 and steps > 1:
        raise UserError(
            f"train.gradient_accumulation_steps={steps}: this task packs {sequences} sequences on their own, which "
            "cannot be cut alike; leave it at 1"
        )
    if static_rows is None and whole and not data.length_buckets:
        static_rows = likely_rows(manifest, "train", batch_size, length, data.max_examples_per_row)
    if data.length_buckets and (static_rows is not None or placement.kind in ("tpu", "pjrt")):
        reason = "a program takes one shape" if placement.kind in ("tpu", "pjrt") else "runtime.static_rows asks for one shape"
        raise UserError(f"data.length_buckets: {reason}; pack the rows instead, with data.max_examples_per_row=16")
    if static_rows is None:
        length_unit = ROW_LENGTH_UNIT if data.length_buckets else 0
        packing = Packing(length, data.max_examples_per_row, steps, length_unit=length_unit, aligned_length=aligned)
        return BatchShape(packing, batch_size, None)
    static_rows = math.ceil(static_rows / steps) * steps
    pieces = math.ceil(batch_size / static_rows)  # each example fits into a row of its own: no batch needs more
    packing = Packing(length, data.max_examples_per_row, steps, static_rows, pieces, aligned_length=aligned)
    # Rows of two sequences cannot be cut alike: all of a batch is one micro-batch then.
    micro_rows = static_rows * pieces if sequences > 1 else static_rows // steps
    return BatchShape(packing, batch_size, micro_rows)


def training_batches(
    experiment: Experiment, manifest: Manifest, placement: Placement, task: Task, shape: BatchShape, first_step: int
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Returns the batches of a run from its step `first_step` on, distributed to the replicas.

    Every step takes the next train.batch_size examples of the seeded stream, whatever the number of replicas.
    """
    train, data = experiment.train, experiment.data
    check_servers(experiment.runtime.data_service)
    local_replicas = placement.replicas // placement.workers
    window_steps = WINDOW_BATCHES if data.length_buckets else 1
    position = StreamPosition.of_step(first_step, train.batch_size, window_steps, experiment.examples_together)
    split = manifest.splits["train"]

    def pipeline(position: StreamPosition) -> tf.data.Dataset:
        servers = experiment.runtime.data_service
        batches = from_servers(functools.partial(made_by, position), servers) if servers else made_by(position, 0, 1)
        return batches.skip(position.skipped_steps * local_replicas)

    def made_by(position: StreamPosition, server: int, servers: int) -> tf.data.Dataset:
        stream = training_stream(
            [files.absolute(path) for path in manifest.paths("train")],  # as servers elsewhere find them, too
            split["examples"],
            train.seed,
            data.shuffle_buffer_examples,
            position,
            task.sampling(split["values"]),
        )
        if data.length_buckets:
            window = position.step // WINDOW_BATCHES
            ids_name = in_sequence(sequences_of(task.features())[0], "input_ids")
            stream = length_grouped(stream, shape.batch_size, local_replicas, train.seed, window, ids_name)
        work = _augmented_work(experiment, task, shape.packing.row_length)
        every = server, servers
        return packed_batches(stream, task.features(), shape.batch_size, shape.packing, work, position, every)

    if placement.devices is not None:
        return pipeline(position.share(placement.worker, placement.workers))
    if placement.replicas == 1:
        return pipeline(position)
    return placement.strategy.distribute_datasets_from_function(
        lambda context: pipeline(position.share(context.input_pipeline_id, context.num_input_pipelines))
    )


def check_augmentation(experiment: Experiment, tokenizer: Tokenizer) -> None:
    """Raises UserError where training examples cannot be changed as the config says: known before they are prepared."""
    if experiment.data.augments:
        _augmented_work(experiment, experiment.build_task(tokenizer), experiment.data.max_seq_length)


def _augmented_work(experiment: Experiment, task: Task, most_tokens: int) -> BatchWork | None:
    """Returns what is done to training batches: the task's work, after the examples were changed where the config says so.

    Raises:
      UserError: the task's tokens have labels or places; the table of synonyms cannot be used.
    """
    data, spec = experiment.data, task.features()
    probs = data.augmentation()
    if not data.augments:
        return task.batch_work()
    problem = fixed_tokens(task)
    if problem:
        key = next((f"data.augment_{name}" for name, prob in probs.items() if prob), "data.augment_synonyms")
        raise UserError(f"{key}: {problem}; augmentation is for tasks on whole texts")
    tokens = MaskableTokens(task.tokenizer)
    synonyms = {} if data.augment_synonyms is None else synonym_ids(read_synonyms(data.augment_synonyms), task.tokenizer)
    augmentation = Augmentation(
        **probs,
        seed=experiment.train.seed,
        mask_id=tokens.mask_id,
        special_ids=sorted(tokens.special),
        usable_ids=tokens.usable,
        most_tokens=most_tokens,
        synonym_prob=data.augment_synonym_prob,
        synonyms=synonyms,
        is_inner=inner_tokens(task.tokenizer),
    )
    return augmented(task.batch_work(), augmentation, spec)


def fixed_tokens(task: Task) -> str | None:
    """Returns why a task's tokens must stay as they are: they have labels or places. None where they need not."""
    spec = task.features()
    fixed = [name for name, feature in spec.items() if feature.per == "token" and not name.endswith(MOVABLE)]
    fixed += [name for name in ("answer_start", "answer_end") if name in spec]
    if fixed:
        return f"{fixed[0]} says something of single tokens"
    return "pre-training masks tokens itself" if task.is_corpus else None


def row_length(experiment: Experiment, manifest: Manifest, split: str) -> int:
    """Returns the tokens of a split's packed rows: its longest example, rounded up, for attention costs their square."""
    summary, lead = manifest.splits[split], lead_of(manifest.spec)
    longest = summary["longest"] if lead is None else summary["sequences"][lead]["longest"]
    return rounded_length(longest, experiment.data.max_seq_length)


def aligned_length(manifest: Manifest, split: str, length: int) -> int:
    """Returns the length of the rows of aligned sequences, in tokens; 0 for a task without any.

    Such a row holds the longest example, and as many usual ones as the row of the leading sequence, which has `length` tokens.
    """
    lead, summary, found = lead_of(manifest.spec), manifest.splits[split], 0
    for sequence in aligned_sequences(manifest.spec):
        usual = MARGIN * length * mean_tokens(summary, sequence) / max(mean_tokens(summary, lead), 1)
        longest = max(summary["sequences"][sequence]["longest"], usual)
        found = max(found, math.ceil(longest / ROW_LENGTH_UNIT) * ROW_LENGTH_UNIT)
    return found


def rounded_length(longest: int, most: int) -> int:
    """Returns a row length that holds an example of `longest` tokens: a multiple of ROW_LENGTH_UNIT, or `most`."""
    return min(max(math.ceil(longest / ROW_LENGTH_UNIT), 1) * ROW_LENGTH_UNIT, most)


def likely_rows(manifest: Manifest, split: str, batch: int, row_length: int, max_examples_per_row: int) -> int:
    """Returns a row count that hardly any batch overflows: its mean tokens, a quarter more, and one row."""
    tokens = mean_tokens(manifest.splits[split], lead_of(manifest.spec))
    rows = max(batch * tokens * MARGIN / row_length, batch / max_examples_per_row)
    return min(math.ceil(rows) + 1, batch)


def evaluation_batches(
    experiment: Experiment, manifest: Manifest, split: str, task: Task, one_shape: bool = False, most: int = -1
) -> tf.data.Dataset:
    """Returns a split's examples in order, packed, each once.

    Args:
      experiment, manifest, split, task: the run, and which of its examples.
      one_shape: all batches have the same shape, for XLA.
      most: examples; -1: all.
    """
    length = row_length(experiment, manifest, split)
    records = read_records(manifest.paths(split)).take(most)
    rows = None
    if one_shape:
        size, most = _inference_batch_size(experiment, length), experiment.data.max_examples_per_row
        rows = likely_rows(manifest, split, size, length, most)
    aligned = aligned_length(manifest, split, length)
    return _packed_for_inference(records, experiment, task, length, task.batch_work(), rows, aligned)


def prediction_batches(
    records: tf.data.Dataset, experiment: Experiment, task: Task, longest: int, one_shape: bool = False
) -> tf.data.Dataset:
    """Returns serialized examples, the longest of `longest` tokens, packed for prediction.

    Args:
      records, experiment, task, longest: the examples and their run.
      one_shape: all batches have the same shape, whatever the examples, for XLA.
    """
    if one_shape:
        length = experiment.data.max_seq_length
        return _packed_for_inference(records, experiment, task, length, rows=max(EVALUATION_TOKENS // length, 1))
    length = rounded_length(longest, experiment.data.max_seq_length)
    return _packed_for_inference(records, experiment, task, length)


def _inference_batch_size(experiment: Experiment, length: int) -> int:
    """Returns examples that make about EVALUATION_TOKENS tokens, in rows of `length`."""
    return max(EVALUATION_TOKENS // length, 1) * min(experiment.data.max_examples_per_row, 4)


def _packed_for_inference(records, experiment, task, length, work=None, rows=None, aligned=0):
    """Packs serialized examples into batches of about EVALUATION_TOKENS tokens, in rows of `length`, `rows` where given."""
    static_rows = experiment.runtime.static_rows or rows
    packing = Packing(length, experiment.data.max_examples_per_row, static_rows=static_rows, aligned_length=aligned)
    return packed_batches(records, task.features(), _inference_batch_size(experiment, length), packing, work=work)
