"""The tokenizer as TensorFlow operations: strings in, the Hugging Face tokenizer's ids out, exactly.

Invalid UTF-8 follows one rule: each invalid sequence becomes U+FFFD, as Python's `decode(errors="replace")` has it;
BERT's clean-up then drops U+FFFD.
"""

import tensorflow as tf
import tensorflow_text as tf_text

from trainer.text.character_tables import PAGE, SPACE, WORD, PagedTable, read_tables
from trainer.text.graph_limits import MAX_CHARACTERS_PER_WORD, pieces, special_tokens
from trainer.text.tokenizer import Tokenizer

_SPECIAL = 0x110000  # stands for a special token in a row of code points; one number for each, above Unicode


class InGraphTokenizer(tf.Module):
    """Tokenizes string tensors inside a graph.

    Raises (when built):
      UserError: a tokenizer whose model is not WordPiece, or whose special tokens could overlap in a text.
    """

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(name="in_graph_tokenizer")
        self._special_tokens = special_tokens(tokenizer)
        self._unk_id = tokenizer.unk_id
        self._wordpiece = _fast_wordpiece(tokenizer)
        self._tables = read_tables(tokenizer)

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Tokenizes texts, without [CLS] and [SEP].

        Args:
          texts: string [batch].

        Returns:
          int32 [batch, (tokens)].
        """
        decoded = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        row_count = tf.shape(texts, tf.int64)[0]
        points, rows = self._mark_special_tokens(decoded.flat_values, _owners(decoded.row_lengths()))
        points, rows = self._normalize(points, rows)
        ids, rows = self._split_into_ids(points, rows)
        return tf.RaggedTensor.from_value_rowids(ids, rows, nrows=row_count)

    def _mark_special_tokens(self, points: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Puts one code above Unicode for each special token written in the text, as "[MASK]"."""
        length = tf.size(points)
        kept = tf.ones([length], tf.bool)
        for number, (token, _) in enumerate(self._special_tokens):
            width = len(token)
            starts = tf.maximum(length - width + 1, 0)
            found = rows[:starts] == rows[width - 1 :] if width > 1 else tf.ones([starts], tf.bool)
            for offset, character in enumerate(token):
                found &= points[offset : offset + starts] == ord(character)
            inside = tf.zeros([length], tf.bool)
            for offset in range(1, width):
                inside |= tf.pad(found, [[offset, width - 1 - offset]])[:length]
            first = tf.pad(found, [[0, width - 1]])[:length]
            points = tf.where(first, _SPECIAL + number, points)
            kept &= ~inside
        return tf.boolean_mask(points, kept), tf.boolean_mask(rows, kept)

    def _normalize(self, points: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Replaces every code point by what the tokenizer makes of it, marks in canonical order.

        Args:
          points, rows: int32 [n] code points and int64 [n] the text of each.

        Returns:
          The same for what comes out.
        """
        is_special = points >= _SPECIAL
        entry = tf.where(is_special, 0, _look_up(self._tables.replacement, tf.where(is_special, 0, points)))
        starts = tf.constant(self._tables.replacement_starts)
        row_of_entry = tf.maximum(entry - 1, 0)
        begins = tf.gather(starts, row_of_entry)
        lengths = tf.where(entry == 0, 1, tf.gather(starts, row_of_entry + 1) - begins)
        source = _owners(lengths)
        within = tf.range(tf.size(source)) - tf.gather(tf.cumsum(lengths, exclusive=True), source)
        values = tf.constant(self._tables.replacement_values)
        replaced = tf.gather(values, tf.minimum(tf.gather(begins, source) + within, tf.size(values) - 1))
        out = tf.where(tf.gather(entry, source) == 0, tf.gather(points, source), replaced)
        out_rows = tf.gather(rows, source)
        if self._tables.starters is None or self._tables.mark_order is None:
            return out, out_rows
        opened = tf.where(is_special, 1, _look_up(self._tables.starters, tf.where(is_special, 0, points)))
        return self._reorder_marks(self._tables.mark_order, out, tf.gather(tf.cumsum(opened), source), out_rows), out_rows

    def _reorder_marks(self, mark_order: PagedTable, points: tf.Tensor, runs: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Sorts each run of marks by combining class, stably; hardly any text needs it, so it is looked for first."""
        rank = _look_up(mark_order, tf.where(points >= _SPECIAL, 0, points))
        # A mark at the start of a text must not go back into the text before it: texts part runs, too.
        key = (rows * 2**31 + tf.cast(runs, tf.int64)) * 2**8 + tf.cast(rank, tf.int64)
        in_order = tf.reduce_all(key[1:] >= key[:-1])
        return tf.cond(in_order, lambda: points, lambda: tf.gather(points, tf.argsort(key, stable=True)))

    def _split_into_ids(self, points: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Splits code points into words, each punctuation mark a word of its own, and words into pieces.

        Returns:
          (int32 [tokens] ids, int64 [tokens] the text of each).
        """
        is_special = points >= _SPECIAL
        kind = _look_up(self._tables.kind, tf.where(is_special, 0, points))
        is_word = ~is_special & (kind == WORD)
        goes_on = is_word[1:] & is_word[:-1] & (rows[1:] == rows[:-1])
        opens = ~tf.concat([tf.zeros([tf.minimum(tf.size(points), 1)], tf.bool), goes_on], 0)
        stays = is_special | (kind != SPACE)
        word_of = tf.cumsum(tf.cast(opens & stays, tf.int64))  # from 1; only code points that stay are looked at
        points, rows, word_of = (tf.boolean_mask(t, stays) for t in (points, rows, word_of))
        words = tf.RaggedTensor.from_value_rowids(points, word_of - 1)
        first = words.row_starts()
        return self._words_to_ids(words, tf.gather(points, first), tf.gather(rows, first))

    def _words_to_ids(self, words: tf.RaggedTensor, first: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        is_special = first >= _SPECIAL
        is_long = words.row_lengths() > MAX_CHARACTERS_PER_WORD
        plain = words.with_values(tf.where(words.flat_values >= _SPECIAL, ord("a"), words.flat_values))
        pieces = self._wordpiece.tokenize(tf.strings.unicode_encode(plain, "UTF-8"))
        pieces = tf.cast(pieces, tf.int32)
        special_ids = tf.constant([number for _, number in self._special_tokens])
        single = tf.where(is_special, tf.gather(special_ids, tf.maximum(first - _SPECIAL, 0)), self._unk_id)
        alone = is_special | is_long
        lengths = tf.where(alone, tf.constant(1, tf.int64), pieces.row_lengths())
        word = _owners(lengths)
        within = tf.range(tf.size(word, tf.int64)) - tf.gather(tf.cumsum(lengths, exclusive=True), word)
        ids = tf.gather(pieces.flat_values, tf.gather(pieces.row_starts(), word) + within)
        return tf.where(tf.gather(alone, word), tf.gather(single, word), ids), tf.gather(rows, word)


def _owners(lengths: tf.Tensor) -> tf.Tensor:
    """Returns which entry each of sum(lengths) elements belongs to, integers of the lengths' type.

    As tf.repeat(tf.range(n), lengths) and value_rowids(), whose memory is n times the longest: one very long text among
    thousands would take gigabytes.
    """
    ends = tf.cumsum(lengths)
    total = tf.reduce_sum(lengths)
    return tf.searchsorted(ends, tf.range(total), side="right", out_type=lengths.dtype)


def _look_up(table: PagedTable, points: tf.Tensor) -> tf.Tensor:
    page = tf.gather(tf.constant(table.page_of), points // PAGE)
    return tf.gather(tf.reshape(tf.constant(table.pages), [-1]), page * PAGE + points % PAGE)


def _fast_wordpiece(tokenizer: Tokenizer) -> tf_text.FastWordpieceTokenizer:
    return tf_text.FastWordpieceTokenizer(
        vocab=pieces(tokenizer),
        suffix_indicator=tokenizer.backend.model.continuing_subword_prefix,
        max_bytes_per_word=4 * MAX_CHARACTERS_PER_WORD,
        token_out_type=tf.int32,
        unknown_token=tokenizer.special_tokens["unk"],
        no_pretokenization=True,
    )
