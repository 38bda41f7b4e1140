"""BERT's WordPiece as TensorFlow operations.

Offsets follow Hugging Face's alignments. All that a code point becomes keeps the place of that code point. A token begins at
the place of its first code point and ends with the place of its last one. So a token includes what is dropped between its
code points, and excludes what is dropped before and after them. Marks that move are the exception: see `_decompose`.
BERT's clean-up drops U+FFFD, so that invalid UTF-8 leaves nothing.
"""

import tensorflow as tf
import tensorflow_text as tf_text

from trainer.text.character_tables import SPACE, WORD, MarkTables, ReplacementTable, read_tables
from trainer.text.graph_limits import MAX_CHARACTERS_PER_WORD, pieces
from trainer.text.in_graph_tokenizer import (
    SPECIAL,
    Characters,
    InGraphTokenizer,
    Tokens,
    look_up,
    owners_of,
    places_within,
    utf8_lengths,
)
from trainer.text.tokenizer import Tokenizer


class InGraphWordPiece(InGraphTokenizer):
    """Tokenizes by WordPiece."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(tokenizer)
        self._unk_id = tokenizer.unk_id
        self._wordpiece = _fast_wordpiece(tokenizer)
        self._tables = read_tables(tokenizer)

    def _tokens(self, characters: Characters, has_offsets: bool) -> Tokens:
        return self._split_into_tokens(self._normalize(self._decompose(characters) if has_offsets else characters))

    def _decompose(self, characters: Characters) -> Characters:
        """Applies NFD as a step of its own, where the tokenizer applies it, so that offsets equal Hugging Face's.

        Hugging Face aligns NFD's output after marks are reordered, and by count: the k-th code point that is the first of
        a decomposition takes the place of the k-th character; a further one takes the place of the code point before it.
        So a mark that moves takes the place of another mark, even of one that the tokenizer drops later.
        """
        marks = self._tables.marks
        if marks is None:
            return characters
        points, owners, within = _replaced(marks.decomposition, characters.points)
        is_first = within == 0
        aligned = characters.at(tf.boolean_mask(owners, is_first))
        points, is_first = _in_canonical_order(marks, _runs(marks, characters, owners), points, is_first)
        return aligned.at(tf.cumsum(tf.cast(is_first, tf.int32)) - 1)._replace(points=points)

    def _normalize(self, characters: Characters) -> Characters:
        """Replaces every code point by what the tokenizer makes of it, marks in canonical order."""
        points, owners, _ = _replaced(self._tables.replacement, characters.points)
        normalized = characters.at(owners)
        marks = self._tables.marks
        if marks is not None:  # after `_decompose` they are in order, so that starts and ends need no reordering
            (points,) = _in_canonical_order(marks, _runs(marks, characters, owners), points)
        return normalized._replace(points=points)

    def _split_into_tokens(self, characters: Characters) -> Tokens:
        """Splits code points into words, each punctuation mark a word of its own, and words into pieces."""
        points, texts = characters.points, characters.texts
        is_special = points >= SPECIAL
        kind = look_up(self._tables.kind, points)
        is_word = ~is_special & (kind == WORD)
        goes_on = is_word[1:] & is_word[:-1] & (texts[1:] == texts[:-1])
        opens = ~tf.concat([tf.zeros([tf.minimum(tf.size(points), 1)], tf.bool), goes_on], 0)
        stays = is_special | (kind != SPACE)
        word_of = tf.cumsum(tf.cast(opens & stays, tf.int64))  # from 1; only code points that stay are looked at
        characters, word_of = characters.where(stays), tf.boolean_mask(word_of, stays)
        return self._words_to_tokens(tf.RaggedTensor.from_value_rowids(characters.points, word_of - 1), characters)

    def _words_to_tokens(self, words: tf.RaggedTensor, characters: Characters) -> Tokens:
        first = tf.gather(words.flat_values, words.row_starts())
        is_special = first >= SPECIAL
        is_long = words.row_lengths() > MAX_CHARACTERS_PER_WORD
        plain = words.with_values(tf.where(words.flat_values >= SPECIAL, ord("a"), words.flat_values))
        pieces, begin_bytes, end_bytes = self._wordpiece.tokenize_with_offsets(tf.strings.unicode_encode(plain, "UTF-8"))
        special_ids = tf.constant([number for _, number in self._special_tokens])
        single = tf.where(is_special, tf.gather(special_ids, tf.maximum(first - SPECIAL, 0)), self._unk_id)
        alone = is_special | is_long
        lengths = tf.where(alone, tf.constant(1, tf.int64), pieces.row_lengths())
        word = owners_of(lengths)
        piece = tf.gather(pieces.row_starts(), word) + places_within(lengths, word)
        is_alone = tf.gather(alone, word)
        ids = tf.where(is_alone, tf.gather(single, word), tf.gather(pieces.flat_values, piece))
        texts = tf.gather(tf.gather(characters.texts, words.row_starts()), word)
        begins = _indices_of(tf.gather(begin_bytes.flat_values, piece), word, plain)
        lasts = _indices_of(tf.gather(end_bytes.flat_values, piece) - 1, word, plain)
        lasts = tf.where(is_alone, tf.gather(words.row_limits(), word) - 1, lasts)
        return Tokens(ids, texts, tf.gather(characters.starts, begins), tf.gather(characters.ends, lasts))


def _replaced(table: ReplacementTable, points: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Replaces code points by what a table says, and special tokens by themselves.

    Args:
      table: the table.
      points: int32 [n].

    Returns:
      int32 [m] each: the new code points; the index of the point that each replaces; its index among those that do.
    """
    entry = look_up(table.entry, points)
    starts = tf.constant(table.starts)
    row_of_entry = tf.maximum(entry - 1, 0)
    begins = tf.gather(starts, row_of_entry)
    lengths = tf.where(entry == 0, 1, tf.gather(starts, row_of_entry + 1) - begins)
    owners = owners_of(lengths)
    within = places_within(lengths, owners)
    values = tf.constant(table.values)
    replaced = tf.gather(values, tf.minimum(tf.gather(begins, owners) + within, tf.size(values) - 1))
    return tf.where(tf.gather(entry, owners) == 0, tf.gather(points, owners), replaced), owners, within


def _runs(marks: MarkTables, characters: Characters, owners: tf.Tensor) -> tf.Tensor:
    """Returns int64 [m]: the run, for canonical reordering, of each code point that `_replaced` made of the characters."""
    runs = tf.gather(tf.cumsum(look_up(marks.starters, characters.points)), owners)
    # A mark at the start of a text must not go back into the text before it: texts part runs, too.
    return tf.gather(characters.texts, owners) * 2**31 + tf.cast(runs, tf.int64)


def _in_canonical_order(marks: MarkTables, runs: tf.Tensor, points: tf.Tensor, *others: tf.Tensor) -> list[tf.Tensor]:
    """Sorts each run of marks by combining class, stably; hardly any text needs it, so it is looked for first.

    Args:
      marks: the tables.
      runs: int64 [m], see `_runs`.
      points: int32 [m].
      others: [m] each.

    Returns:
      The points and the others, in the points' new order.
    """
    key = runs * 2**8 + tf.cast(look_up(marks.order, points), tf.int64)
    is_sorted = tf.reduce_all(key[1:] >= key[:-1])
    values = [points, *others]

    def in_order() -> list[tf.Tensor]:
        order = tf.argsort(key, stable=True)
        return [tf.gather(value, order) for value in values]

    return tf.cond(is_sorted, lambda: values, in_order)


def _indices_of(byte: tf.Tensor, word: tf.Tensor, words: tf.RaggedTensor) -> tf.Tensor:
    """Returns int64 [tokens]: the index, in the words' flat values, of the code point that holds a byte of a word's UTF-8.

    Args:
      byte: int64 [tokens], counted from the first byte of the word.
      word: int64 [tokens].
      words: int32 [words, (code points)].
    """
    lengths = tf.cast(utf8_lengths(words.flat_values), tf.int64)
    ends = tf.cumsum(lengths)
    first_byte = tf.gather(ends - lengths, tf.gather(words.row_starts(), word))
    return tf.searchsorted(ends, first_byte + byte, side="right", out_type=tf.int64)


def _fast_wordpiece(tokenizer: Tokenizer) -> tf_text.FastWordpieceTokenizer:
    return tf_text.FastWordpieceTokenizer(
        vocab=pieces(tokenizer),
        suffix_indicator=tokenizer.piece_prefix,
        max_bytes_per_word=4 * MAX_CHARACTERS_PER_WORD,
        token_out_type=tf.int32,
        unknown_token=tokenizer.special_tokens["unk"],
        no_pretokenization=True,
    )
