"""Strings to the encoder's inputs inside a graph."""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import tensorflow as tf

from trainer.data.packing import Layout, pack_evenly
from trainer.features import ROW_ID, TOKENS, Feature
from trainer.models.encoder import PACKED_INPUTS
from trainer.serving.windows import RequestWindows
from trainer.text.in_graph_tokenizer import InGraphTokenizer, build_in_graph_tokenizer
from trainer.text.tokenizer import Tokenizer

INPUTS = (*PACKED_INPUTS, "cls_positions")
ROW_WIDTH = 64  # tokens of a packed row, about; longer where a text is
PIECE_TOKENS = 8192  # of a request, computed at a time
_PACKED = {**TOKENS, **ROW_ID}


class TextInputs(Protocol):
    """Tokenizes, cuts and packs texts; constructed with the run's tokenizer and max_seq_length."""

    def __init__(self, tokenizer: Tokenizer, max_seq_length: int): ...

    def __call__(self, *texts: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns packed inputs and each text's place in them, see `GraphInputs`."""


class GraphInputs(tf.Module):
    """Tokenizes, cuts and packs texts by TensorFlow's operations, which every server has.

    Args:
      tokenizer: the run's.
      max_seq_length: longer inputs are cut to this, as in training.
      row_width: tokens of a packed row, about; 1 for a text a row.

    Call:
      texts: string [batch], or two of them for pairs.

    Returns:
      ({name: int32 [rows, length] for each of PACKED_INPUTS, "cls_positions": int32 [rows, K]}, int32 [batch], where each
      text's slot is, counted over rows · K).
    """

    def __init__(self, tokenizer: Tokenizer, max_seq_length: int, row_width: int = ROW_WIDTH):
        super().__init__(name="text_inputs")
        self._row_width = row_width
        self._tokenize = build_in_graph_tokenizer(tokenizer)
        self._sequences = functools.partial(graph_sequences, tokenizer=tokenizer, max_seq_length=max_seq_length)

    def __call__(self, *texts: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        sequences = self._sequences([self._tokenize(text) for text in texts])
        features = {**sequences, "row_id": tf.range(tf.size(texts[0]))}
        packed, layout = pack_evenly(features, _PACKED, self._row_width)
        return {name: packed[name] for name in INPUTS}, layout.places


class WindowInputs(tf.Module):
    """Tokenizes texts, cuts them into a task's windows and packs these, by TensorFlow's operations.

    Args:
      tokenize: by the run's tokenizer.
      windows_of: the task's `request_windows`, or another one like it.
      features: the token-level features that it gives besides ids.
      row_width: as of `GraphInputs`.

    Call:
      texts: string [batch] each.

    Returns:
      (packed inputs as `GraphInputs` gives them, where the windows lie in them, the windows).
    """

    def __init__(
        self,
        tokenize: InGraphTokenizer,
        windows_of: Callable[[Sequence[tf.Tensor], InGraphTokenizer], RequestWindows],
        features: Sequence[str],
        row_width: int = ROW_WIDTH,
    ):
        super().__init__(name="window_inputs")
        self._row_width = row_width
        self._tokenize, self._windows_of = tokenize, windows_of
        self._spec = {**_PACKED, **{name: Feature("int32", "token") for name in features}}
        self._inputs = (*INPUTS, *features)

    def __call__(self, *texts: tf.Tensor) -> tuple[dict[str, tf.Tensor], Layout, RequestWindows]:
        windows = self._windows_of(texts, self._tokenize)
        ids = windows.features["input_ids"]
        features = {"token_type_ids": tf.zeros_like(ids), **windows.features, "row_id": tf.range(tf.size(windows.row))}
        packed, layout = pack_evenly(features, self._spec, self._row_width)
        return {name: packed[name] for name in self._inputs}, layout, windows


def graph_sequences(parts: Sequence[tf.RaggedTensor], tokenizer: Tokenizer, max_seq_length: int) -> dict[str, tf.RaggedTensor]:
    """Returns what `text.sequences` makes of a text or of two, {"input_ids", "token_type_ids": int32 [batch, (tokens)]}.

    Args:
      parts: int32 [batch, (tokens)] of each text.
      tokenizer: has the tokens at the ends and between.
      max_seq_length: what is longer is cut.
    """
    rows = parts[0].nrows(out_type=tf.int32)
    between = tokenizer.separators
    if len(parts) == 1:
        cut = [parts[0][:, : max_seq_length - 2]]
    else:
        cut = cut_pairs(parts[0], parts[1], max_seq_length - 2 - len(between))
    cls_ids, sep_ids, between_ids = (tf.tile([ids], [rows, 1]) for ids in ([tokenizer.cls_id], [tokenizer.sep_id], between))
    ids = [cls_ids, cut[0], sep_ids] if len(cut) == 1 else [cls_ids, cut[0], between_ids, cut[1], sep_ids]
    types = [tf.ones_like(part) if place > 2 else tf.zeros_like(part) for place, part in enumerate(ids)]
    return {"input_ids": tf.concat(ids, axis=1), "token_type_ids": tf.concat(types, axis=1)}


def cut_pairs(first: tf.RaggedTensor, second: tf.RaggedTensor, budget: int) -> list[tf.RaggedTensor]:
    """Cuts pairs of token rows to `budget` together, as `text.sequences.pair_lengths` does: int32 [batch, (tokens)] each."""
    lengths = [tf.cast(part.row_lengths(), tf.int32) for part in (first, second)]
    short = tf.minimum(*lengths)
    long = tf.maximum(short, budget - short)
    is_both = short + long > budget
    short = tf.where(is_both, budget // 2, short)
    long = tf.where(is_both, budget // 2 + budget % 2, long)
    first_is_longer = lengths[0] > lengths[1]
    kept = [tf.where(first_is_longer, long, short), tf.where(first_is_longer, short, long)]
    fits = lengths[0] + lengths[1] <= budget
    return [
        _keep(part[:, :budget], tf.where(fits, length, keep))
        for part, length, keep in zip((first, second), lengths, kept, strict=True)
    ]


def _keep(rows: tf.RaggedTensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """Keeps the first tokens of each row."""
    position = tf.ragged.range(tf.cast(rows.row_lengths(), tf.int32))
    limit = tf.gather(lengths, position.value_rowids())
    return tf.ragged.boolean_mask(rows, position.with_values(position.flat_values < limit))
