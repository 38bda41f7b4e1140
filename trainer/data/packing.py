"""Packing: several examples in one batch row, each with its own segment and positions from zero.

All of it is graph operations, so that it runs on any host of a TPU pod and in parallel to the training step, without Python.
Source of the idea: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination" (arXiv:2107.02027).
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from trainer.features import Feature, FeatureSpec, aligned_sequences, in_sequence, sequences_of

ABSENT = -1  # the row_id of an empty slot
NUMBER = {"example_number": Feature("int32", "example")}  # an example's place in its stream, which packing does not keep
ABSENT_IN_EMPTY_SLOTS = ("row_id", *NUMBER)


def assign_rows(
    lengths: Sequence[tf.Tensor], row_lengths: Sequence[int | tf.Tensor], max_examples_per_row: int
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor], tf.Tensor]:
    """Places examples in rows: first-fit, longest first.

    Args:
      lengths: int32 [examples], each from 1 to the row length; of several sequences that share rows one each.
      row_lengths: tokens that a row of each sequence holds.
      max_examples_per_row: examples a row holds.

    Returns:
      (row, slot, starts, rows used): int32 [examples] the row of each, its place among the row's examples and, of each
      sequence, its first token; int32 [] the number of rows.
    """
    count, empty = tf.size(lengths[0]), tf.zeros_like(lengths[0])
    if max_examples_per_row == 1:
        return tf.range(count), empty, [empty] * len(lengths), count
    longest = lengths[0]
    if len(lengths) > 1:  # the sequence that takes most of its row decides what comes first
        shares = [tf.cast(one, tf.float64) / tf.cast(most, tf.float64) for one, most in zip(lengths, row_lengths, strict=True)]
        longest = tf.reduce_max(tf.stack(shares), axis=0)
    order = tf.argsort(longest, direction="DESCENDING", stable=True)
    ordered = [tf.gather(one, order) for one in lengths]

    def place(i, used, filled, rows, slots, starts):
        fits = filled < max_examples_per_row
        for one, taken, most in zip(ordered, used, row_lengths, strict=True):
            fits &= taken + one[i] <= most
        row = tf.argmax(fits, output_type=tf.int32)
        index, at = [[row]], tf.reshape(order[i], [1, 1])
        rows = tf.tensor_scatter_nd_update(rows, at, [row])
        slots = tf.tensor_scatter_nd_update(slots, at, [filled[row]])
        starts = [tf.tensor_scatter_nd_update(at_of, at, [taken[row]]) for at_of, taken in zip(starts, used, strict=True)]
        used = [tf.tensor_scatter_nd_add(taken, index, [one[i]]) for taken, one in zip(used, ordered, strict=True)]
        return i + 1, used, tf.tensor_scatter_nd_add(filled, index, [1]), rows, slots, starts

    each = [empty] * len(lengths)
    _, _, filled, rows, slots, starts = tf.while_loop(
        lambda i, *_: i < count, place, (0, each, empty, empty, empty, each), parallel_iterations=1
    )
    return rows, slots, starts, tf.math.count_nonzero(filled, dtype=tf.int32)


def rounded_rows(rows: tf.Tensor, multiple: int) -> tf.Tensor:
    """Rounds a row count up to one of few: all to 64, then 32 steps for each doubling, times `multiple`.

    Few shapes mean few compilations under XLA; above 64 rows at most one in 32 is empty.
    """
    units = tf.maximum(-(-rows // multiple), 1)
    log2 = tf.cast(tf.math.ceil(tf.math.log(tf.cast(units, tf.float64)) / tf.math.log(2.0 * tf.ones([], tf.float64))), tf.int32)
    step = tf.maximum(2 ** tf.maximum(log2 - 6, 0), 1)
    return -(-units // step) * step * multiple


def pack(
    features: dict[str, tf.RaggedTensor | tf.Tensor],
    spec: FeatureSpec,
    row_length: int | tf.Tensor,
    max_examples_per_row: int,
    row_multiple: int = 1,
    static_rows: int | None = None,
    pieces: int = 0,
    aligned_length: int | tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Packs the examples of one step into rows.

    Args:
      features: by the spec, int32 or float32 [examples, (tokens)] ragged for each-token features, [examples] for others.
      spec: the task's features.
      row_length: tokens in a row, L.
      max_examples_per_row: K; 1 gives the classic layout, one example a row.
      row_multiple: the number of rows is a multiple of this.
      static_rows: the number of rows is the least multiple of this that holds the examples.
      pieces: with static_rows, the number of rows is always this many times static_rows.
      aligned_length: tokens in a row of a sequence that is aligned with another one; None: row_length.

    Returns:
      {name: [rows, L] for each-token features and position_ids, segment_ids (from 1; 0 is padding); [rows, K] for
      others and cls_positions, example_weights (float32, 0 in empty slots); row_id is -1 in empty slots}. Of several
      sequences each has rows of its own, and what belongs to it begins with its name. An example's own values are in the
      slots of the first; `<sequence>_places`, [rows, K], tells where the example is in another one's rows · K, but for one
      that is aligned with the first.
    """
    packed: dict[str, tf.Tensor] = {}
    own = None
    aligned = aligned_sequences(spec)
    for sequence in sequences_of(spec):
        if sequence in aligned:
            continue
        together = [sequence, *(other for other, lead in aligned.items() if lead == sequence)]
        lengths = [tf.cast(features[in_sequence(one, "input_ids")].row_lengths(), tf.int32) for one in together]
        row_lengths = [row_length, *[row_length if aligned_length is None else aligned_length] * (len(together) - 1)]
        row, slot, starts, used = assign_rows(lengths, row_lengths, max_examples_per_row)
        if static_rows and pieces:
            rows = static_rows * pieces
        elif static_rows:
            rows = tf.maximum(-(-used // static_rows), 1) * static_rows
        else:
            rows = rounded_rows(used, row_multiple)
        layouts = [
            Layout(row, slot, start, rows, length, max_examples_per_row)
            for start, length in zip(starts, row_lengths, strict=True)
        ]
        for one, of_one in zip(together, layouts, strict=True):
            packed |= _packed_sequence(features, spec, one, of_one)
        layout = layouts[0]
        if own is None:
            own = layout
            packed |= _packed_examples(features, spec, own)
        else:
            packed[f"{sequence}_places"] = own.spread(layout.places)
    return packed


def deal_rows(lengths: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Deals examples to rows as cards, longest first and back and forth, so that the rows come out about equally long.

    For inference, where any shape will do: the number of rows is chosen so that they are about `width` tokens long, or as
    long as the longest example. Unlike first-fit it needs no loop over the examples.

    Args:
      lengths: int32 [examples], each 1 or more.
      width: tokens of a row, about; 1: an example a row.

    Returns:
      (row, slot, start, shape): int32 [examples] as `assign_rows` has them; int32 [3], rows, their length, and slots.
    """
    count, longest = tf.size(lengths), tf.reduce_max(tf.pad(lengths, [[0, 1]], constant_values=width))
    rows = tf.maximum(count if width == 1 else -(-tf.reduce_sum(lengths) // longest), 1)
    order = tf.argsort(lengths, direction="DESCENDING", stable=True)
    turn, place = tf.range(count) // rows, tf.range(count) % rows
    place = tf.where(turn % 2 == 0, place, rows - 1 - place)
    slots = tf.maximum(-(-count // rows), 1)
    cells = tf.stack([turn, place], axis=1)
    dealt = tf.scatter_nd(cells, tf.gather(lengths, order), [slots, rows])
    start = tf.gather_nd(tf.cumsum(dealt, exclusive=True), cells)
    back = tf.math.invert_permutation(order)
    row, slot, start = (tf.gather(values, back) for values in (place, turn, start))
    row_length = tf.maximum(tf.reduce_max(tf.reduce_sum(dealt, axis=0)), 1)  # 1: without examples there is one empty row
    return row, slot, start, tf.stack([rows, row_length, slots])


def pack_evenly(
    features: dict[str, tf.RaggedTensor | tf.Tensor], spec: FeatureSpec, width: int
) -> tuple[dict[str, tf.Tensor], "Layout"]:
    """Packs examples of one sequence for inference into rows of about `width` tokens (see `deal_rows`).

    Returns:
      The tensors of `pack`, and where each example and its outputs are.
    """
    row, slot, start, shape = deal_rows(tf.cast(features["input_ids"].row_lengths(), tf.int32), width)
    layout = Layout(row, slot, start, *tf.unstack(shape))
    return _packed_sequence(features, spec, "", layout) | _packed_examples(features, spec, layout), layout


class Layout(NamedTuple):
    """Where examples lie in packed rows.

    Attributes:
      row, slot, start: int32 [examples], as `assign_rows` has them.
      rows, row_length, slots: the number of rows, the tokens of one, the examples of one.
    """

    row: tf.Tensor
    slot: tf.Tensor
    start: tf.Tensor
    rows: int | tf.Tensor
    row_length: int | tf.Tensor
    slots: int | tf.Tensor

    @property
    def places(self) -> tf.Tensor:
        """Where each example is, counted over rows · slots: int32 [examples]."""
        return self.row * self.slots + self.slot

    def cells(self, tokens: tf.RaggedTensor) -> tf.Tensor:
        """Where each of the examples' tokens, [examples, (tokens)], is, counted over rows · row_length: int32 [all tokens]."""
        lengths = tf.cast(tokens.row_lengths(), tf.int32)
        example_of_token = tf.cast(tokens.value_rowids(), tf.int32)
        position = tf.range(tf.size(example_of_token)) - tf.gather(tf.cumsum(lengths, exclusive=True), example_of_token)
        return tf.gather(self.row * self.row_length + self.start, example_of_token) + position

    def spread(self, values: tf.Tensor, empty: int = 0) -> tf.Tensor:
        """Writes each example's value into its slot: [examples] → [rows, slots], `empty` where there is no example."""
        cells = tf.fill([self.rows * self.slots], tf.cast(empty, values.dtype))
        cells = tf.tensor_scatter_nd_update(cells, self.places[:, None], values)
        return tf.reshape(cells, [self.rows, self.slots])


def _packed_sequence(features, spec, sequence, layout):
    """Returns a sequence's tokens in rows, and where its examples lie in them."""
    tokens = features[in_sequence(sequence, "input_ids")]
    cell = layout.cells(tokens)
    example_of_token = tf.cast(tokens.value_rowids(), tf.int32)
    position = cell - tf.gather(layout.row * layout.row_length + layout.start, example_of_token)
    shape = [layout.rows, layout.row_length]

    def spread(values):
        return tf.reshape(tf.scatter_nd(cell[:, None], values, [layout.rows * layout.row_length]), shape)

    of_tokens = {name for name, feature in spec.items() if feature.per == "token" and feature.sequence == sequence}
    packed = {name: spread(features[name].flat_values) for name in spec if name in of_tokens}
    packed[in_sequence(sequence, "position_ids")] = spread(position)
    packed[in_sequence(sequence, "segment_ids")] = spread(tf.gather(layout.slot + 1, example_of_token))
    packed[in_sequence(sequence, "cls_positions")] = layout.spread(layout.start)
    packed.setdefault(in_sequence(sequence, "token_type_ids"), tf.zeros_like(packed[in_sequence(sequence, "input_ids")]))
    return packed


def _packed_examples(features, spec, layout):
    """Returns the examples' own values in the slots of their rows."""
    of_examples = [name for name, feature in spec.items() if feature.per == "example"]
    packed = {name: layout.spread(features[name], ABSENT if name in ABSENT_IN_EMPTY_SLOTS else 0) for name in of_examples}
    return packed | {"example_weights": layout.spread(tf.ones_like(layout.start, tf.float32))}
