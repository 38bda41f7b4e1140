"""A linear-chain conditional random field over the words of packed examples: its loss, and the best tags by Viterbi.

Source: Lafferty et al. 2001, "Conditional Random Fields"; start and end scores as in Lample et al. 2016 (arXiv:1603.01360).
Words are gathered to the front of each packed row; the chain starts anew with each example.
"""

from typing import NamedTuple

import tensorflow as tf
import tf_keras as keras


class Transitions(keras.layers.Layer):
    """The scores of a tag after another, of one at the start and of one at the end.

    Args:
      tags: how many there are.

    Call:
      logits: float32 [rows, length, tags], which only place the layer in the model.

    Returns:
      float32 [tags + 2, tags]: [i, j] of tag j after tag i; [tags, j] of tag j at the start; [tags + 1, j] at the end.
    """

    def __init__(self, tags: int, name: str = "crf"):
        super().__init__(name=name, dtype="float32", autocast=False)
        self._tags = tags

    def build(self, _) -> None:
        """Makes the weights."""
        initializer = keras.initializers.RandomNormal(stddev=0.01)
        self.scores = self.add_weight(name="transitions", shape=[self._tags + 2, self._tags], initializer=initializer)
        self.built = True

    def call(self, logits: tf.Tensor) -> tf.Tensor:
        return tf.identity(self.scores)


class Chain(NamedTuple):
    """The words of packed rows, at the front of each row.

    Attributes:
      places: int32 [rows, words], where in the row each word's first token is.
      is_word, is_first, is_last: bool [rows, words], of its example.
    """

    places: tf.Tensor
    is_word: tf.Tensor
    is_first: tf.Tensor
    is_last: tf.Tensor


def chain_of(word_starts: tf.Tensor, segment_ids: tf.Tensor) -> Chain:
    """Returns the words of packed rows.

    Args:
      word_starts: int32 [rows, length], 1 where a word begins that counts.
      segment_ids: int32 [rows, length].
    """
    length = tf.shape(word_starts)[1]
    is_start = word_starts > 0
    places = tf.sort(tf.where(is_start, tf.range(length), length))
    is_word = places < length
    places = tf.minimum(places, length - 1)
    example = tf.where(is_word, tf.gather(segment_ids, places, batch_dims=1), 0)
    before = tf.pad(example[:, :-1], [[0, 0], [1, 0]])
    after = tf.pad(example[:, 1:], [[0, 0], [0, 1]])
    return Chain(places, is_word, is_word & (example != before), is_word & (example != after))


def crf_losses(logits: tf.Tensor, tags: tf.Tensor, transitions: tf.Tensor, chain: Chain) -> tf.Tensor:
    """Returns the negative log-likelihoods of examples, spread over their words.

    Args:
      logits: float32 [rows, length, tags].
      tags: int32 [rows, length], the true one where a word begins.
      transitions: as `Transitions` gives them.
      chain: the words.

    Returns:
      float32 [rows, words]: what sums to -log p of each example over its words; 0 where there is no word.
    """
    count = logits.shape[-1]
    emitted = tf.gather(logits, chain.places, batch_dims=1)
    true = tf.gather(tags, chain.places, batch_dims=1)
    of_word = tf.gather(emitted, true, batch_dims=2)
    before = tf.pad(true[:, :-1], [[0, 0], [1, 0]])
    came_from = tf.where(chain.is_first, count, before)
    entered = tf.gather_nd(transitions, tf.stack([came_from, true], axis=-1))
    left = tf.gather(transitions[count + 1], true)
    totals = _log_totals(emitted, transitions, chain)
    losses = -of_word - entered + tf.where(chain.is_last, totals - left, 0.0)
    return tf.where(chain.is_word, losses, 0.0)


def _log_totals(emitted: tf.Tensor, transitions: tf.Tensor, chain: Chain) -> tf.Tensor:
    """Returns at each word the log of the summed scores of all tags up to it, as if it were the last one: [rows, words]."""
    scores = _forward_scores(emitted, transitions, chain)
    return tf.transpose(tf.reduce_logsumexp(scores + transitions[emitted.shape[-1] + 1], axis=-1))


def _forward_scores(emitted: tf.Tensor, transitions: tf.Tensor, chain: Chain) -> tf.Tensor:
    """Returns the log of the summed scores of the paths that end with each tag: [words, rows, tags]."""
    count = emitted.shape[-1]

    def step(scores, word):
        emission, is_first, is_word = word
        following = tf.reduce_logsumexp(scores[:, :, None] + transitions[None, :count], axis=1)
        found = tf.where(is_first[:, None], transitions[None, count], following) + emission
        return tf.where(is_word[:, None], found, scores)

    words = [_time_major(values) for values in (emitted, chain.is_first, chain.is_word)]
    return tf.scan(step, words, initializer=tf.zeros_like(emitted[:, 0]))


def _backward_scores(emitted: tf.Tensor, transitions: tf.Tensor, chain: Chain) -> tf.Tensor:
    """Returns the log of the summed scores of the paths that go on from each tag: [words, rows, tags]."""
    count = emitted.shape[-1]

    def step(scores, word):
        following, is_last = word
        onward = tf.reduce_logsumexp(transitions[None, :count] + (following + scores)[:, None], axis=2)
        return tf.where(is_last[:, None], transitions[count + 1], onward)

    following = tf.pad(emitted[:, 1:], [[0, 0], [0, 1], [0, 0]])
    words = [_time_major(values) for values in (following, chain.is_last)]
    return tf.scan(step, words, initializer=tf.zeros_like(emitted[:, 0]), reverse=True)


def tag_probabilities(logits: tf.Tensor, transitions: tf.Tensor, chain: Chain) -> tf.Tensor:
    """Returns each word's probability of each tag, over all paths (forward-backward): float32 [rows, length, tags]."""
    emitted = tf.gather(logits, chain.places, batch_dims=1)
    before = _forward_scores(emitted, transitions, chain)  # [words, rows, tags], the word's own emission included
    after = _backward_scores(emitted, transitions, chain)
    probabilities = tf.transpose(tf.nn.softmax(before + after), [1, 0, 2])
    return _at_places(probabilities, chain, tf.shape(logits))


def best_tags(logits: tf.Tensor, transitions: tf.Tensor, chain: Chain) -> tf.Tensor:
    """Returns the tags of the best path of each example (Viterbi): int32 [rows, length], 0 where no word begins."""
    count = logits.shape[-1]
    emitted = tf.gather(logits, chain.places, batch_dims=1)

    def forward(state, word):
        scores, _ = state
        emission, is_first, is_word = word
        options = scores[:, :, None] + transitions[None, :count]
        following = tf.where(is_first[:, None], transitions[None, count], tf.reduce_max(options, axis=1)) + emission
        came_from = tf.argmax(options, axis=1, output_type=tf.int32)
        return tf.where(is_word[:, None], following, scores), came_from

    words = [_time_major(values) for values in (emitted, chain.is_first, chain.is_word)]
    nothing = tf.zeros_like(emitted[:, 0])
    scores, came_from = tf.scan(forward, words, initializer=(nothing, tf.zeros_like(nothing, tf.int32)))
    at_end = tf.argmax(scores + transitions[count + 1], axis=-1, output_type=tf.int32)  # [words, rows]

    def backward(tag, word):
        """The tag of a word: its example's best one at the end, else the one that the word after it came from."""
        ends, is_last, following = word
        return tf.where(is_last, ends, tf.gather(following, tag, batch_dims=1))

    following = tf.concat([came_from[1:], tf.zeros_like(came_from[:1])], axis=0)
    steps = (at_end, _time_major(chain.is_last), following)
    found = tf.scan(backward, steps, initializer=tf.zeros_like(at_end[0]), reverse=True)
    return _at_places(tf.transpose(found), chain, tf.shape(logits)[:2])


def _at_places(values: tf.Tensor, chain: Chain, shape: tf.Tensor) -> tf.Tensor:
    """Returns words' values where their first tokens are, 0 elsewhere: [rows, words, ...] → [rows, length, ...]."""
    row = tf.broadcast_to(tf.range(shape[0])[:, None], tf.shape(chain.places))
    cells = tf.boolean_mask(tf.stack([row, chain.places], axis=-1), chain.is_word)
    return tf.ensure_shape(tf.scatter_nd(cells, tf.boolean_mask(values, chain.is_word), shape), [None, None, *values.shape[2:]])


def _time_major(values: tf.Tensor) -> tf.Tensor:
    return tf.transpose(values, [1, 0, *range(2, values.shape.rank)])
