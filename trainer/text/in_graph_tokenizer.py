"""The tokenizer as TensorFlow operations: strings in, the Hugging Face tokenizer's ids and offsets out, exactly.

Two kinds: BERT's WordPiece and RoBERTa's byte-level BPE. What both have in common is here: code points with their places, the
special tokens among them, tables over all code points.

Invalid UTF-8 follows one rule: each invalid sequence becomes U+FFFD, as Python's `decode(errors="replace")` has it.
"""

import abc
from typing import NamedTuple

import tensorflow as tf

from trainer.text.character_tables import PAGE, PagedTable
from trainer.text.graph_limits import is_byte_pairs, special_tokens
from trainer.text.tokenizer import Tokenizer

SPECIAL = 0x110000  # stands for a special token in a row of code points; one number for each, above Unicode


class Characters(NamedTuple):
    """The code points of a batch of texts, one after another.

    Attributes:
      points: int32 [n] code points, or SPECIAL and more.
      texts: int64 [n] the text of each.
      starts, ends: int32 [n] the place of each in the text, as it was before any step, in code points. `__call__` does
        not read them, so TensorFlow removes their computation from its graph.
    """

    points: tf.Tensor
    texts: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor

    def where(self, kept: tf.Tensor) -> "Characters":
        """Returns the characters for which `kept`, bool [n], is true."""
        return Characters(*(tf.boolean_mask(values, kept) for values in self))

    def at(self, indices: tf.Tensor) -> "Characters":
        """Returns the characters at the indices, int32 [m]."""
        return Characters(*(tf.gather(values, indices) for values in self))


class Tokens(NamedTuple):
    """The tokens of a batch of texts, all [tokens]: int32 ids, int64 the text of each, int32 starts and ends."""

    ids: tf.Tensor
    texts: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor


class InGraphTokenizer(tf.Module, abc.ABC):
    """Tokenizes string tensors inside a graph.

    Raises (when built):
      UserError: a tokenizer of another kind, or whose special tokens could overlap in a text.
    """

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(name="in_graph_tokenizer")
        self._special_tokens = special_tokens(tokenizer)

    @abc.abstractmethod
    def _tokens(self, characters: Characters, has_offsets: bool) -> Tokens:
        """Returns the tokens of texts; their places need to be right only where `has_offsets`."""

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Tokenizes texts, without [CLS] and [SEP].

        Args:
          texts: string [batch].

        Returns:
          int32 [batch, (tokens)].
        """
        tokens = self._tokens(self._characters(texts), has_offsets=False)
        return tf.RaggedTensor.from_value_rowids(tokens.ids, tokens.texts, nrows=tf.shape(texts, tf.int64)[0])

    def with_offsets(self, texts: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Tokenizes texts, without [CLS] and [SEP], and finds each token's place in its text.

        Args:
          texts: string [batch].

        Returns:
          int32 [batch, (tokens)] ids, starts and ends. Starts and ends count code points: Python's `text[start:end]`.
        """
        tokens = self._tokens(self._characters(texts), has_offsets=True)
        ids = tf.RaggedTensor.from_value_rowids(tokens.ids, tokens.texts, nrows=tf.shape(texts, tf.int64)[0])
        return ids, ids.with_values(tokens.starts), ids.with_values(tokens.ends)

    def _characters(self, texts: tf.Tensor) -> Characters:
        decoded = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        owners = owners_of(decoded.row_lengths())
        first = tf.cast(tf.gather(decoded.row_starts(), owners), tf.int32)
        starts = tf.range(tf.size(first)) - first
        return self._mark_special_tokens(Characters(decoded.flat_values, owners, starts, starts + 1))

    def _mark_special_tokens(self, characters: Characters) -> Characters:
        """Puts one code above Unicode for each special token written in the text, as "[MASK]"."""
        points, texts, starts, ends = characters
        length = tf.size(points)
        kept = tf.ones([length], tf.bool)
        for number, (token, _) in enumerate(self._special_tokens):
            width = len(token)
            places = tf.maximum(length - width + 1, 0)
            found = texts[:places] == texts[width - 1 :] if width > 1 else tf.ones([places], tf.bool)
            for offset, character in enumerate(token):
                found &= points[offset : offset + places] == ord(character)
            inside = tf.zeros([length], tf.bool)
            for offset in range(1, width):
                inside |= tf.pad(found, [[offset, width - 1 - offset]])[:length]
            first = tf.pad(found, [[0, width - 1]])[:length]
            points = tf.where(first, SPECIAL + number, points)
            ends = tf.where(first, starts + width, ends)
            kept &= ~inside
        return Characters(points, texts, starts, ends).where(kept)


def build_in_graph_tokenizer(tokenizer: Tokenizer) -> InGraphTokenizer:
    """Returns the twin of a tokenizer.

    Raises:
      UserError: see `graph_limits.problem_with`.
    """
    from trainer.text.in_graph_byte_pairs import InGraphBytePairs
    from trainer.text.in_graph_wordpiece import InGraphWordPiece

    return (InGraphBytePairs if is_byte_pairs(tokenizer) else InGraphWordPiece)(tokenizer)


def owners_of(lengths: tf.Tensor) -> tf.Tensor:
    """Returns which entry each of sum(lengths) elements belongs to, integers of the lengths' type.

    As tf.repeat(tf.range(n), lengths) and value_rowids(), whose memory is n times the longest: one very long text among
    thousands would take gigabytes.
    """
    ends = tf.cumsum(lengths)
    total = tf.reduce_sum(lengths)
    return tf.searchsorted(ends, tf.range(total), side="right", out_type=lengths.dtype)


def places_within(lengths: tf.Tensor, owners: tf.Tensor) -> tf.Tensor:
    """Returns each element's place among those of its entry, from `owners_of(lengths)`."""
    return tf.range(tf.size(owners, lengths.dtype)) - tf.gather(tf.cumsum(lengths, exclusive=True), owners)


def utf8_lengths(points: tf.Tensor) -> tf.Tensor:
    """Returns how many bytes each code point has in UTF-8, of the same type."""
    return 1 + tf.add_n([tf.cast(points >= first, points.dtype) for first in (0x80, 0x800, 0x10000)])


def look_up(table: PagedTable, points: tf.Tensor) -> tf.Tensor:
    """Returns int32 [n]: the table's values for code points; a special token counts as "a", which no table changes."""
    points = tf.where(points >= SPECIAL, ord("a"), points)
    page = tf.gather(tf.constant(table.page_of), points // PAGE)
    return tf.gather(tf.reshape(tf.constant(table.pages), [-1]), page * PAGE + points % PAGE)
