r"""RoBERTa's byte-level BPE as TensorFlow operations (Radford et al. 2019, section 2.2; Sennrich et al. 2016).

A text is cut by GPT-2's pattern, `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, and the bytes
of each word are merged, the pair of lowest rank first. No regular expression of TensorFlow looks ahead, and none is needed:
the classes of a character and of its neighbours say where a word begins.
"""

import tensorflow as tf

from trainer.text.byte_pair_tables import SPACE, read_byte_pairs, split_table
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

CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
NO_RANK = 2**31 - 1


class InGraphBytePairs(InGraphTokenizer):
    """Tokenizes by byte-level BPE. Every byte has a token, so that nothing is unknown and nothing is dropped."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(tokenizer)
        self._tables = read_byte_pairs(tokenizer)
        self._kinds = split_table()
        added = tokenizer.backend.get_added_tokens_decoder()
        self._takes_spaces = [added[number].lstrip for _, number in self._special_tokens]

    def _tokens(self, characters: Characters, has_offsets: bool) -> Tokens:
        kinds = look_up(self._kinds, characters.points)
        characters = self._without_spaces_before_masks(characters, kinds)
        begins = self._begins_word(characters, look_up(self._kinds, characters.points))
        ids, words, owners = self._bytes(characters, tf.cumsum(tf.cast(begins, tf.int32)) - 1)
        ids, words, first_bytes = self._merged(ids, words)
        first = tf.gather(owners, first_bytes)
        last = tf.gather(owners, tf.concat([first_bytes[1:], tf.reshape(tf.size(owners), [1])], 0)[: tf.size(ids)] - 1)
        starts, ends = tf.gather(characters.starts, first), tf.gather(characters.ends, last)
        before, behind = (tf.gather(counts, ids) for counts in (self._tables.spaces_before, self._tables.spaces_behind))
        starts = tf.minimum(starts + before, ends)
        return Tokens(ids, tf.gather(characters.texts, first), starts, tf.maximum(ends - behind, starts))

    def _without_spaces_before_masks(self, characters: Characters, kinds: tf.Tensor) -> Characters:
        """Drops the white space that a special token takes; where offsets are not trimmed, the token begins where it began."""
        if not any(self._takes_spaces):
            return characters
        points, texts = characters.points, characters.texts
        takes = tf.reduce_any([points == SPECIAL + n for n, takes in enumerate(self._takes_spaces) if takes], axis=0)
        is_space = (kinds == SPACE) & (points < SPECIAL)
        goes_on = tf.concat([tf.zeros_like(is_space[:1]), texts[1:] == texts[:-1]], 0)
        run = tf.cumsum(tf.cast(~(goes_on & is_space & _shifted(is_space)), tf.int32)) - 1
        before = is_space & _following(takes & goes_on)
        goes = tf.gather(tf.math.segment_max(tf.cast(before, tf.int32), run), run) > 0
        if self._tables.trims_offsets:
            return characters.where(~goes)
        begin = tf.gather(tf.math.segment_min(characters.starts, run), run)  # of the run that a character is in
        moved = tf.where(_shifted(before), _shifted(begin), characters.starts)
        return characters._replace(starts=moved).where(~goes)

    def _begins_word(self, characters: Characters, kinds: tf.Tensor) -> tf.Tensor:
        """Returns bool [n], from the code points and their classes."""
        points, texts = characters.points, characters.texts
        is_special = points >= SPECIAL
        cut = is_special[1:] | is_special[:-1] | (texts[1:] != texts[:-1])
        parts = tf.concat([tf.ones_like(is_special[:1]), cut], 0)  # texts, and what is between special tokens, by themselves
        is_space = kinds == SPACE
        # Of white space before a word, the last is by itself, or the word's own where it is U+0020.
        last_space = is_space & _following(~is_space & ~parts)
        after = tf.concat([tf.zeros_like(kinds[:1]) - 1, kinds[:-1]], 0)
        after_own_space = _shifted(last_space & (points == ord(" ")))
        begins = parts | last_space | ((kinds != after) & ~after_own_space)
        # An apostrophe begins a contraction where it begins a word.
        for contraction in CONTRACTIONS:
            found = begins & (points == ord("'")) & ~after_own_space
            for place, letter in enumerate(contraction[1:], start=1):
                found &= _following((points == ord(letter)) & ~parts, place)
            for place in range(1, len(contraction)):
                begins &= ~_shifted(found, place)
            begins |= _shifted(found, len(contraction))
        return begins

    def _bytes(self, characters: Characters, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns int32 [bytes]: the id of each byte, its word, its character. A special token counts as a byte."""
        points = characters.points
        is_special = points >= SPECIAL
        lengths = tf.where(is_special, 1, utf8_lengths(points))
        owners = owners_of(lengths)
        point, length, within = tf.gather(points, owners), tf.gather(lengths, owners), places_within(lengths, owners)
        bits = tf.bitwise.right_shift(point, 6 * (length - 1 - within))
        first = bits + tf.gather([0x00, 0xC0, 0xE0, 0xF0], length - 1)
        byte = tf.where(within == 0, first, tf.bitwise.bitwise_and(bits, 0x3F) + 0x80)
        special_ids = tf.constant([number for _, number in self._special_tokens] or [0])
        at = tf.clip_by_value(point - SPECIAL, 0, tf.size(special_ids) - 1)
        plain = tf.gather(self._tables.ids_of_bytes, tf.where(point >= SPECIAL, 0, byte))
        return tf.where(point >= SPECIAL, tf.gather(special_ids, at), plain), tf.gather(words, owners), owners

    def _merged(self, ids: tf.Tensor, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Merges pairs until none is left: int32 [bytes] to int32 [tokens]: ids, words, the first byte of each.

        In a round each word merges all places of its pair of lowest rank, from left to right. Merging them one by one gives
        the same, since no merge makes a pair of a lower rank (`graph_limits.byte_pair_model` sees to it).
        """
        count = words[-1:] + 1

        def unmerged(ids, words, firsts, places, chosen):
            return tf.reduce_any(chosen)

        def merge(ids, words, firsts, places, chosen):
            merged = tf.where(chosen, tf.gather(self._tables.merged, places), ids[:-1])
            ids = tf.concat([merged, ids[-1:]], 0)
            kept = tf.concat([[True], ~chosen], 0)
            ids, words, firsts = (tf.boolean_mask(values, kept) for values in (ids, words, firsts))
            return ids, words, firsts, *self._chosen(ids, words, count)

        begun = (ids, words, tf.range(tf.size(ids)), *self._chosen(ids, words, count))
        any_size = tf.TensorShape([None])
        ids, words, firsts, *_ = tf.while_loop(unmerged, merge, begun, shape_invariants=(any_size,) * 5)
        return ids, words, firsts

    def _chosen(self, ids: tf.Tensor, words: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns [tokens - 1]: int32, each pair's place in the tables; bool, whether it is merged now."""
        tables = self._tables
        keys = tf.cast(ids[:-1], tf.int64) * tables.size + tf.cast(ids[1:], tf.int64)
        places = tf.minimum(tf.searchsorted(tables.pairs, keys), len(tables.pairs) - 1)
        is_pair = (tf.gather(tables.pairs, places) == keys) & (words[1:] == words[:-1])
        ranks = tf.where(is_pair, tf.gather(tables.ranks, places), NO_RANK)
        lowest = tf.math.unsorted_segment_min(ranks, words[:-1], tf.reduce_max(tf.concat([count, [1]], 0)))
        found = is_pair & (ranks == tf.gather(lowest, words[:-1]))
        # Of pairs that overlap, "aa" in "aaa", the first, the third, ... are merged.
        others = tf.concat([[-1], tf.cast(tf.where(~found)[:, 0], tf.int32)], 0)
        run_start = tf.gather(others, tf.cumsum(tf.cast(~found, tf.int32)))
        return places, found & ((tf.range(tf.size(found)) - run_start) % 2 == 1)


def _following(values: tf.Tensor, count: int = 1) -> tf.Tensor:
    """Returns each character's value at its right neighbour, or `count` characters to the right; of the last ones none."""
    return tf.concat([values[count:], tf.zeros_like(values[:count])], 0)


def _shifted(values: tf.Tensor, count: int = 1) -> tf.Tensor:
    """Returns each character's value at its left neighbour, or `count` characters to the left; of the first ones none."""
    return tf.concat([tf.zeros_like(values[:count]), values], 0)[: tf.size(values)]
