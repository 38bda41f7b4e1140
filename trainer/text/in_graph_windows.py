"""`windows` in the graph: the windows over ragged rows of tokens."""

from typing import NamedTuple

import tensorflow as tf

from trainer.text.in_graph_tokenizer import owners_of


class GraphWindows(NamedTuple):
    """The windows over rows of tokens, row by row, in order; int32 [windows] each.

    Attributes:
      row: the row of each.
      start, end, own_start, own_end: as `windows.TokenWindow` has them.
    """

    row: tf.Tensor
    start: tf.Tensor
    end: tf.Tensor
    own_start: tf.Tensor
    own_end: tf.Tensor

    def cut(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        """Returns each window's part of its row: [rows, (tokens)] → [windows, (tokens)]."""
        first = tf.gather(tf.cast(tokens.row_starts(), tf.int32), self.row)
        places = tf.ragged.range(first + self.start, first + self.end)
        return places.with_flat_values(tf.gather(tokens.flat_values, places.flat_values))

    def positions(self) -> tf.RaggedTensor:
        """Returns where the windows' tokens are in their rows: int32 [windows, (tokens)]."""
        return tf.ragged.range(self.start, self.end)

    def is_own(self) -> tf.RaggedTensor:
        """Returns which of the windows' tokens count there: bool [windows, (tokens)]."""
        positions = self.positions()
        owner = positions.value_rowids()
        place = positions.flat_values
        own = (place >= tf.gather(self.own_start, owner)) & (place < tf.gather(self.own_end, owner))
        return positions.with_flat_values(own)


def graph_windows(lengths: tf.Tensor, sizes: tf.Tensor, strides: tf.Tensor) -> GraphWindows:
    """Returns the windows that `windows.token_windows` gives each row.

    Args:
      lengths, sizes, strides: int32 [rows]: the tokens of each row, and how its windows are to be.
    """
    counts = 1 + tf.maximum(-(-(lengths - sizes) // strides), 0)
    row = owners_of(counts)
    number = tf.range(tf.size(row)) - tf.gather(tf.cumsum(counts, exclusive=True), row)
    length, size, stride, count = (tf.gather(values, row) for values in (lengths, sizes, strides, counts))
    start, half = number * stride, (size - stride) // 2
    own_start = tf.where(number == 0, 0, start + half)
    own_end = tf.where(number == count - 1, length, start + stride + half)
    return GraphWindows(row, start, tf.minimum(start + size, length), own_start, own_end)
