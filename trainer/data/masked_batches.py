"""Batches for masked language modelling: which tokens are to be predicted, and where they lie in packed rows."""

from collections.abc import Callable

import tensorflow as tf

from trainer.data.masking import Masker
from trainer.data.pipeline import BatchWork, Features
from trainer.features import Feature, FeatureSpec

TARGETS = {"original_ids": Feature("int32", "token"), "is_masked": Feature("int32", "token")}
ONLY_FOR_MASKS = ("continues_word", "masked_lm_targets")  # features that no model reads
POSITIONS_ROUNDED_TO = 4  # so that batches have few shapes
Vary = Callable[[Features, tf.Tensor], Features]
MostMasks = Callable[[int, int], int]  # (cells of a row, examples of a row) → masks of a row


def masked_work(vary: Vary, spec: FeatureSpec, most_of: MostMasks) -> BatchWork:
    """Returns the work that marks what is to be predicted, and then tells where it lies in packed rows.

    Args:
      vary: marks: adds "original_ids" and "is_masked", int32 [examples, (tokens)]; one of the functions below.
      spec: of the records.
      most_of: gives the most masks that a row may have, for batches that must all have the same shape.
    """

    def finish(batch: dict[str, tf.Tensor], is_static: bool) -> dict[str, tf.Tensor]:
        cells, examples = batch["input_ids"].shape[1], batch["row_id"].shape[1]
        return with_masked_positions(batch, most_of(cells, examples) if is_static else None)

    return BatchWork(vary, {**spec, **TARGETS}, finish)


def drawn_masks(masker: Masker) -> Vary:
    """Returns what draws masks, others in each epoch."""

    def vary(features, positions):
        masked, is_masked = masker(features["input_ids"], positions, features.get("continues_word"))
        return {**features, "input_ids": masked, "original_ids": features["input_ids"], "is_masked": is_masked}

    return vary


def stored_masks(features: Features, _: tf.Tensor) -> Features:
    """Marks what the records do: masked_lm_targets, a token's id plus one where it is to be predicted, else 0."""
    masked, targets = features["input_ids"], features["masked_lm_targets"].flat_values
    ids = tf.where(targets > 0, targets - 1, masked.flat_values)
    is_masked = masked.with_flat_values(tf.cast(targets > 0, tf.int32))
    return {**features, "original_ids": masked.with_flat_values(ids), "is_masked": is_masked}


def with_masked_positions(batch: dict[str, tf.Tensor], most: int | None = None) -> dict[str, tf.Tensor]:
    """Replaces, in place, the marks by masked_positions, masked_lm_ids (int32) and masked_lm_weights (float32), [rows, P] each.

    Args:
      batch: packed: "original_ids", "is_masked", int32 [rows, length]; features that only serve to draw masks are removed, too.
      most: P, where it must be the same for all batches; None: what the batch needs.
    """
    for name in ONLY_FOR_MASKS:
        batch.pop(name, None)
    is_masked, length = batch.pop("is_masked") > 0, tf.shape(batch["input_ids"])[1]
    if most is None:
        needed = tf.reduce_max(tf.math.count_nonzero(is_masked, axis=1, dtype=tf.int32))
        most = tf.clip_by_value(-(-needed // POSITIONS_ROUNDED_TO) * POSITIONS_ROUNDED_TO, 1, length)
    found = tf.sort(tf.where(is_masked, tf.range(length), length))[:, :most]
    batch["masked_lm_weights"] = tf.cast(found < length, tf.float32)
    batch["masked_positions"] = tf.minimum(found, length - 1)
    batch["masked_lm_ids"] = tf.gather(batch.pop("original_ids"), batch["masked_positions"], batch_dims=1)
    return batch
