"""Training examples changed a little, otherwise in each epoch: more from few rows.

Words are replaced by synonyms; tokens are masked, replaced by random ones, swapped with their neighbour, joined by random ones
or deleted, each with a probability (Wei and Zou 2019, arXiv:1901.11196, with tokens for words; masking: Kumar et al. 2020,
arXiv:2003.02245).
Special tokens stay. What happens is a function of the seed and the example's place in the stream, so a resumed run goes on
as it would have.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from trainer.data.hashing import mixed
from trainer.data.pipeline import BatchWork, Features
from trainer.features import FeatureSpec, in_sequence, sequences_of

MOVABLE = ("input_ids", "token_type_ids")  # token-level features that can be changed together


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What happens to tokens.

    Attributes:
      synonym_prob: of each token that is a word with synonyms.
      mask_prob, replace_prob, swap_prob, insert_prob, delete_prob: of each token.
      seed: of the draws.
      mask_id: of [MASK].
      special_ids: of tokens that stay as they are.
      usable_ids: that random tokens are drawn from.
      most_tokens: of an example; where it would become longer, nothing is inserted.
      synonyms: {the id of a word: those that may stand for it}.
      is_inner: of each id, whether it goes on with the word before it: a token before one is no whole word.
    """

    synonym_prob: float
    mask_prob: float
    replace_prob: float
    swap_prob: float
    insert_prob: float
    delete_prob: float
    seed: int
    mask_id: int
    special_ids: Sequence[int]
    usable_ids: Sequence[int]
    most_tokens: int
    synonyms: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)
    is_inner: Sequence[bool] = ()

    def __call__(self, features: Features, numbers: tf.Tensor, spec: FeatureSpec) -> Features:
        """Returns changed features.

        Args:
          features: int32 [examples, (tokens)] of MOVABLE, others untouched.
          numbers: int64 [examples], the examples' places in the stream.
          spec: of the features.
        """
        for stream, sequence in enumerate(sequences_of(spec)):
            names = [name for name in (in_sequence(sequence, movable) for movable in MOVABLE) if name in features]
            changed = self._changed([features[name] for name in names], numbers, 16 * stream)
            features = {**features, **dict(zip(names, changed, strict=True))}
        return features

    def _changed(self, parts: list[tf.RaggedTensor], numbers: tf.Tensor, stream: int) -> list[tf.RaggedTensor]:
        ids, *others = parts
        row = ids.value_rowids()
        place = tf.cast(
            tf.range(tf.size(row)) - tf.gather(tf.cast(ids.row_starts(), tf.int32), tf.cast(row, tf.int32)), tf.uint32
        )
        low, high = tf.unstack(tf.bitcast(tf.gather(numbers, row), tf.uint32), num=2, axis=-1)  # little-endian
        key = mixed(tf.bitwise.bitwise_xor(mixed(low + tf.constant(self.seed, tf.uint32)), high))

        def drawn(number: int) -> tf.Tensor:
            """uint32 [tokens]."""
            salt = tf.constant((stream + number) * 0x9E3779B9 & 0xFFFFFFFF, tf.uint32)
            return mixed(tf.bitwise.bitwise_xor(mixed(place + salt), key))

        def happens(prob: float, number: int) -> tf.Tensor:
            return tf.cast(drawn(number), tf.int64) < round(prob * 2**32)

        def random_token(number: int) -> tf.Tensor:
            usable = tf.constant(self.usable_ids, tf.int32)
            return tf.gather(usable, tf.cast(tf.cast(drawn(number), tf.int64) % len(self.usable_ids), tf.int32))

        flat = self._with_synonyms(ids, happens(self.synonym_prob, 8), drawn(9))
        is_free = tf.reduce_all(flat[:, None] != tf.constant(self.special_ids, tf.int32), axis=1)
        flat = tf.where(is_free & happens(self.replace_prob, 1), random_token(2), flat)
        flat = tf.where(is_free & happens(self.mask_prob, 3), self.mask_id, flat)
        # A token and its right neighbour: only every other one may begin a pair, so that none is in two.
        is_next_free = tf.concat([is_free[1:] & (row[1:] == row[:-1]), tf.zeros([tf.minimum(tf.size(row), 1)], tf.bool)], 0)
        begins = is_free & is_next_free & (place % 2 == key % 2) & happens(self.swap_prob, 4)
        ends = tf.concat([tf.zeros([tf.minimum(tf.size(row), 1)], tf.bool), begins[:-1]], 0)
        at = tf.range(tf.size(row)) + tf.cast(begins, tf.int32) - tf.cast(ends, tf.int32)
        flat = tf.gather(flat, at)
        # Each token comes as often as it says: not at all, once, or with a new one after it.
        is_new_after = is_free & happens(self.insert_prob, 5)
        stays = ~(is_free & happens(self.delete_prob, 6))
        count = ids.with_flat_values(tf.cast(stays, tf.int32) + tf.cast(is_new_after, tf.int32))
        fits = tf.gather(tf.reduce_sum(count, axis=1) <= self.most_tokens, row)
        count = ids.with_flat_values(tf.where(fits, count.flat_values, tf.cast(stays, tf.int32)))
        source = tf.repeat(tf.range(tf.size(row)), count.flat_values)
        is_new = tf.concat([tf.zeros([tf.minimum(tf.size(source), 1)], tf.bool), source[1:] == source[:-1]], 0)
        is_new |= ~tf.gather(stays, source)  # the new one after a token that went
        flat = tf.where(is_new, tf.gather(random_token(7), source), tf.gather(flat, source))
        lengths = tf.reduce_sum(count, axis=1)

        def joined(values: tf.Tensor) -> tf.RaggedTensor:
            return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)

        return [joined(flat), *[joined(tf.gather(other.flat_values, source)) for other in others]]

    def _with_synonyms(self, ids: tf.RaggedTensor, happens: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        """Returns the tokens, int32, with another word for those that have one where `happens`; `drawn`, uint32, chooses it."""
        flat = ids.flat_values
        if not self.synonyms:
            return flat
        words = sorted(self.synonyms)
        counts = tf.constant([len(self.synonyms[word]) for word in words])
        others = tf.constant([other for word in words for other in self.synonyms[word]])
        entry = tf.minimum(tf.searchsorted(words, flat), len(words) - 1)
        is_known = tf.gather(words, entry) == flat
        row, is_inner = ids.value_rowids(), tf.gather(tf.constant(self.is_inner), flat)
        is_known &= ~tf.concat([is_inner[1:] & (row[1:] == row[:-1]), tf.zeros([tf.minimum(tf.size(row), 1)], tf.bool)], 0)
        chosen = tf.cast(tf.cast(drawn, tf.int64) % tf.cast(tf.gather(counts, entry), tf.int64), tf.int32)
        other = tf.gather(others, tf.gather(tf.cumsum(counts, exclusive=True), entry) + chosen)
        return tf.where(is_known & happens, other, flat)


def augmented(work: BatchWork | None, augmentation: Augmentation, spec: FeatureSpec) -> BatchWork:
    """Returns the work of a batch with its examples changed first."""

    def vary(features: Features, numbers: tf.Tensor) -> Features:
        changed = augmentation(features, numbers, spec)
        return work.vary(changed, numbers) if work else changed

    return BatchWork(vary, work.spec if work else spec, work.finish if work else lambda batch, _: batch)
