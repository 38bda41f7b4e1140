"""`words` in the graph: which tokens begin a word, and where they are."""

import tensorflow as tf

from trainer.text.character_tables import PUNCTUATION, SPACE, kind_table
from trainer.text.in_graph_tokenizer import look_up
from trainer.text.words import IDEOGRAPHS


def graph_without_spaces(
    points: tf.RaggedTensor, starts: tf.RaggedTensor, ends: tf.RaggedTensor
) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Returns what `words.without_spaces` says of each row's tokens: their starts and ends.

    Args:
      points: int32 [rows, (code points)] of the texts.
      starts, ends: int32 [rows, (tokens)].
    """
    row = tf.gather(tf.cast(points.row_starts(), tf.int32), tf.cast(starts.value_rowids(), tf.int32))
    stays = tf.cast(look_up(kind_table(), points.flat_values) != SPACE, tf.int32)
    before = tf.concat([[0], tf.cumsum(stays)], 0)  # of each place: what is no white space in the texts up to it
    places = tf.concat([tf.cast(tf.where(stays > 0)[:, 0], tf.int32), [0]], 0)
    first, last = (tf.gather(before, row + values.flat_values) for values in (starts, ends))
    is_empty = first == last
    new_starts = tf.where(is_empty, ends.flat_values, tf.gather(places, first) - row)
    new_ends = tf.where(is_empty, ends.flat_values, tf.gather(places, tf.maximum(last - 1, 0)) + 1 - row)
    return starts.with_flat_values(new_starts), ends.with_flat_values(new_ends)


def graph_continues_word(points: tf.RaggedTensor, starts: tf.RaggedTensor, ends: tf.RaggedTensor) -> tf.RaggedTensor:
    """Returns what `words.continues_word` says of each row's tokens: bool [rows, (tokens)]."""
    row = tf.cast(starts.value_rowids(), tf.int32)
    first = tf.gather(tf.cast(points.row_starts(), tf.int32), row) + starts.flat_values
    cuts = (look_up(kind_table(), points.flat_values) == PUNCTUATION) | is_ideograph(points.flat_values)
    cut = tf.gather(cuts, first) | tf.gather(cuts, tf.maximum(first - 1, 0))
    gap = starts.flat_values - left_neighbour(ends.flat_values)
    return starts.with_flat_values(~begins_row(row) & ((gap < 0) | ((gap == 0) & ~cut)))


def graph_word_starts(
    points: tf.RaggedTensor, starts: tf.RaggedTensor, ends: tf.RaggedTensor, continues: tf.RaggedTensor, rule: str
) -> tf.RaggedTensor:
    """Returns what `words.word_starts` says of each row's tokens: bool [rows, (tokens)].

    Args:
      points: int32 [rows, (code points)] of the texts.
      starts, ends: int32 [rows, (tokens)], where each token is in them.
      continues: bool [rows, (tokens)], whether it is a later piece of a word to the tokenizer.
      rule: one of words.RULES.
    """
    row = tf.cast(starts.value_rowids(), tf.int32)
    is_first = begins_row(row)
    basic = ~continues.flat_values | is_first
    if rule == "punctuation":
        return starts.with_flat_values(basic)
    first = tf.gather(points.flat_values, tf.gather(tf.cast(points.row_starts(), tf.int32), row) + starts.flat_values)
    alone = is_ideograph(first)
    after_gap = is_first | (starts.flat_values > left_neighbour(ends.flat_values))
    opens = after_gap | alone | left_neighbour(alone)
    if rule == "whitespace":
        return starts.with_flat_values(basic & opens)
    plain = tf.cast(~basic | (look_up(kind_table(), first) != PUNCTUATION), tf.int32)
    chunk = tf.cumsum(tf.cast(opens, tf.int32)) - 1
    before = tf.cumsum(plain)
    outside = tf.gather(tf.boolean_mask(before - plain, opens), chunk)  # plain tokens before the chunk
    total = tf.gather(tf.math.segment_sum(plain, chunk), chunk)
    inner = (before - outside > 0) & (total - (before - plain - outside) > 0)
    return starts.with_flat_values(basic & (opens | ~inner | ~left_neighbour(inner)))


def is_ideograph(points: tf.Tensor) -> tf.Tensor:
    """Returns which code points are a word each: bool, of the same shape."""
    return tf.reduce_any(tf.stack([(points >= low) & (points <= high) for low, high in IDEOGRAPHS]), axis=0)


def begins_row(row: tf.Tensor) -> tf.Tensor:
    """Returns which entries are the first of their row: bool [n], of int [n], the row of each, ascending."""
    return tf.concat([tf.ones([tf.minimum(tf.size(row), 1)], tf.bool), row[1:] != row[:-1]], 0)


def left_neighbour(values: tf.Tensor) -> tf.Tensor:
    """Returns each token's left neighbour's value; of the first one none: 0, false."""
    return tf.concat([tf.zeros_like(values[:1]), values[:-1]], 0)
