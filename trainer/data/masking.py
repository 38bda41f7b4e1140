"""Masking for masked language modelling, in the graph of the input pipeline.

A mask is a function of (seed, the example's position in the training stream, the token's place): another one in each
epoch, the same one in a resumed run. How many tokens, and what becomes of them, is as in google-research/bert's
`create_pretraining_data.py` (`create_masked_lm_predictions`): exactly round(length · rate), at least one; of these 80 %
become [MASK], 10 % a random token, 10 % stay.
"""

import numpy as np
import tensorflow as tf

from trainer.data.hashing import mixed
from trainer.text.masks import MaskableTokens, MaskingRecipe
from trainer.text.tokenizer import Tokenizer

INDEX_BITS = 13  # of a sort key: breaks ties between tokens of up to 8,192 places
LAST = np.iinfo(np.int32).max


class Masker:
    """Masks batches of examples.

    Args:
      recipe: how.
      tokenizer: tells special tokens, pieces that continue a word, and what a random token may be.
      seed: of all masks.
    """

    def __init__(self, recipe: MaskingRecipe, tokenizer: Tokenizer, seed: int):
        known = MaskableTokens(tokenizer)
        size = len(known.continues)
        self._recipe, self._seed, self._mask_id = recipe, seed & 0xFFFFFFFF, known.mask_id
        self._is_special, self._rank = np.zeros(size, bool), np.full(size, LAST, np.int32)
        self._is_special[list(known.special)] = True
        self._rank[known.usable] = np.arange(len(known.usable))
        self._usable, self._continues = np.array(known.usable, np.int32), np.array(known.continues)

    def __call__(
        self, input_ids: tf.RaggedTensor, positions: tf.Tensor, continues: tf.RaggedTensor | None = None
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """Masks examples.

        Args:
          input_ids: int32 [examples, (tokens)].
          positions: int64 [examples], of each in the stream.
          continues: int32 [examples, (tokens)], 1 where a token belongs to the word of the one before it, where the text came
            segmented into words; without it, pieces that begin with "##" do.

        Returns:
          (the ids with masks, 1 where a token is to be predicted): int32 [examples, (tokens)].
        """
        lengths = tf.cast(input_ids.row_lengths(), tf.int32)
        ids = input_ids.to_tensor()
        keys = self._keys(positions)
        is_there = tf.sequence_mask(lengths, tf.shape(ids)[1])
        candidates = is_there & ~tf.gather(self._is_special, ids)
        wanted = tf.maximum(tf.cast(tf.round(tf.cast(lengths, tf.float32) * self._recipe.masked_lm_prob), tf.int32), 1)
        if self._recipe.max_predictions:
            wanted = tf.minimum(wanted, self._recipe.max_predictions)
        if self._recipe.unit == "token":
            chosen, origin = self._choose_tokens(candidates, keys, wanted), None
        else:
            inner = tf.gather(self._continues, ids) if continues is None else tf.cast(continues.to_tensor(), tf.bool)
            chosen, origin = self._choose_words(candidates, inner, keys, wanted)
        replaced = self._replace(ids, chosen, keys, origin if self._recipe.unit == "span" else None)
        splits = input_ids.row_splits

        def ragged(dense):
            return tf.RaggedTensor.from_row_splits(tf.boolean_mask(dense, is_there), splits, validate=False)

        return ragged(replaced), ragged(tf.cast(chosen, tf.int32))

    def _keys(self, positions):
        """uint32 [examples]: the hash that all draws of an example begin with."""
        low, high = tf.unstack(tf.bitcast(positions, tf.uint32), num=2, axis=-1)  # little-endian
        seeded = mixed(tf.bitwise.bitwise_xor(low, tf.constant(self._seed, tf.uint32)))
        return mixed(tf.bitwise.bitwise_xor(seeded, high + tf.constant(self._seed ^ 0x9E3779B9, tf.uint32)))

    def _draw(self, keys, places, stream):
        """uint32 [examples, places] for each stream of draws."""
        salted = mixed(tf.bitcast(places, tf.uint32) + tf.constant(stream * 0x9E3779B9 & 0xFFFFFFFF, tf.uint32))
        return mixed(tf.bitwise.bitwise_xor(salted, keys[:, None]))

    def _order_keys(self, there, keys):
        """int32 [examples, length]: sorting by them gives a random order of what is there, everything else last."""
        places = tf.range(tf.shape(there)[1])[None]
        random = tf.bitcast(tf.bitwise.right_shift(self._draw(keys, places, 1), tf.constant(1, tf.uint32)), tf.int32)
        unique = tf.bitwise.left_shift(tf.bitwise.right_shift(random, INDEX_BITS), INDEX_BITS) + places
        return tf.where(there, unique, LAST)

    def _choose_tokens(self, candidates, keys, wanted):
        """bool [examples, length]: `wanted` of the candidates."""
        order = self._order_keys(candidates, keys)
        last = tf.minimum(wanted, tf.shape(order)[1]) - 1
        threshold = tf.gather(tf.sort(order), last, batch_dims=1)
        return candidates & (order <= threshold[:, None])

    def _choose_words(self, candidates, inner, keys, wanted):
        """Takes words (or n-grams, spans) in random order while they fit into what is wanted.

        What overlaps, or is longer than what is left, is passed over; spans end with their segment.

        Returns:
          (bool [examples, length] chosen, int32 [examples, length] the place where the chosen word or span begins).
        """
        places = tf.range(tf.shape(candidates)[1])[None]
        before = tf.pad(candidates[:, :-1], [[0, 0], [1, 0]])
        starts = candidates & ~(inner & before)
        number = tf.cumsum(tf.cast(starts, tf.int32), axis=1)  # which word a token is of, from 1
        words = self._words_together(keys, places)
        order = tf.argsort(self._order_keys(starts, keys), axis=1)
        available = tf.math.count_nonzero(starts, axis=1, dtype=tf.int32)

        def take(i, chosen, origin, count):
            begin = order[:, i : i + 1]  # [examples, 1]
            last_word = tf.gather(number, begin, batch_dims=1) + tf.gather(words, begin, batch_dims=1)
            beyond = (places > begin) & (~candidates | (number >= last_word))
            # Tokens from `begin` to the first that is beyond
            span = (places >= begin) & (tf.cumsum(tf.cast(beyond, tf.int32), axis=1) == 0)
            size = tf.math.count_nonzero(span, axis=1, dtype=tf.int32)
            fits = (i < available) & (count + size <= wanted) & ~tf.reduce_any(span & chosen, axis=1)
            span &= fits[:, None]
            return i + 1, chosen | span, tf.where(span, begin, origin), count + tf.where(fits, size, 0)

        _, chosen, origin, _ = tf.while_loop(
            lambda i, chosen, origin, count: tf.reduce_any((i < available) & (count < wanted)),
            take,
            (0, tf.zeros_like(candidates), tf.zeros_like(number), tf.zeros_like(wanted)),
            parallel_iterations=1,
        )
        return chosen, origin

    def _words_together(self, keys, places):
        """int32 [examples, length]: how many words a span that begins at a place would have."""
        probabilities = self._recipe.word_count_probabilities()
        bounds = (np.cumsum(probabilities)[:-1] * 2.0**32).astype(np.uint32)
        draws = self._draw(keys, places, 2)
        beyond = [tf.cast(draws >= tf.constant(bound), tf.int32) for bound in bounds]
        return tf.ones_like(draws, tf.int32) + (tf.add_n(beyond) if beyond else 0)

    def _replace(self, ids, chosen, keys, origin):
        """Puts [MASK], a random token or the same one where tokens were chosen; spans are treated alike."""
        places = tf.range(tf.shape(ids)[1])[None]
        action = self._draw(keys, places if origin is None else origin, 3)
        mask_below = round(self._recipe.mask_token_prob * 2**32)
        random_below = round((self._recipe.mask_token_prob + self._recipe.random_token_prob) * 2**32)
        is_mask, is_random = (tf.cast(action, tf.int64) < bound for bound in (mask_below, random_below))
        # A random token is one of the usable others: those from the token's own rank on move up by one.
        own = tf.gather(self._rank, ids)
        others = tf.where(own == LAST, len(self._usable), len(self._usable) - 1)
        drawn = tf.cast(tf.cast(self._draw(keys, places, 4), tf.int64) % tf.cast(others, tf.int64), tf.int32)
        random = tf.gather(self._usable, drawn + tf.cast(drawn >= own, tf.int32))
        replaced = tf.where(is_mask, self._mask_id, tf.where(is_random, random, ids))
        return tf.where(chosen, replaced, ids)
