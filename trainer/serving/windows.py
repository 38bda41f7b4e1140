"""A request in the graph: its strings, the windows made of them, and what the model gives for these."""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf


class RequestWindows(NamedTuple):
    """The windows of a request's rows.

    Attributes:
      features: {"input_ids", "token_type_ids"}: int32 [windows, (tokens)].
      row: int32 [windows], the row of the request that each is of, ascending.
      about: {name: tensor}: what `Task.reply` needs besides, as where a token stands in its text.
    """

    features: Mapping[str, tf.RaggedTensor]
    row: tf.Tensor
    about: Mapping[str, tf.Tensor | tf.RaggedTensor] = {}


def padded(values: tf.Tensor, row: tf.Tensor, rows: tf.Tensor, empty: str | int | float) -> tf.Tensor:
    """Returns values as a table, as wide as the row with the most has them: [rows, most].

    Args:
      values: [n], row by row.
      row: int [n], the row of each, ascending.
      rows: int64 [], how many there are.
      empty: fills the rest.
    """
    ragged = tf.RaggedTensor.from_value_rowids(values, tf.cast(row, tf.int64), nrows=tf.cast(rows, tf.int64), validate=False)
    return ragged.to_tensor(default_value=tf.constant(empty, values.dtype))


def substrings(points: tf.RaggedTensor, row: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """Returns parts of texts: string [n], "" where end is start.

    Args:
      points: int32 [rows, (code points)] of the texts.
      row: int [n], the text of each part.
      start, end: int32 [n], in code points.
    """
    first = tf.gather(tf.cast(points.row_starts(), tf.int32), row)
    places = tf.ragged.range(first + start, first + end)
    return tf.strings.unicode_encode(places.with_flat_values(tf.gather(points.flat_values, places.flat_values)), "UTF-8")


class Request(NamedTuple):
    """What `Task.reply` replies to.

    Attributes:
      texts: string [batch], one for each of `Task.request_names`.
      results: float32, what `Task.results` gives: [batch, ...] each; of a task with windows [windows, ...], and
        [windows, (tokens), ...], ragged, for its token-level ones.
      windows: of a task that has some.
    """

    texts: tuple[tf.Tensor, ...]
    results: Mapping[str, tf.Tensor | tf.RaggedTensor]
    windows: RequestWindows | None = None
