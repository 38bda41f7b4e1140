"""How a decoder's next tokens are chosen: beam search, the likeliest token, or a drawn one; all of it graph operations.

Beam search and its end follow transformers' `GenerationMixin._beam_search` (4.57) to the letter, so that the same model says
the same there. The letters: E examples, B beams of each, N tokens at the most, V tokens of the vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from trainer.data.hashing import mixed
from trainer.runtime.randomness import drawn_places

NEVER = -1e9  # the score of what must not be chosen


class NextTokens(Protocol):
    """What may follow each beam of each example."""

    @property
    def size(self) -> int:
        """V."""

    def logits(self) -> tf.Tensor:
        """Returns float32 [E, B, V]."""

    def top(self, count: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the log probabilities of the likeliest tokens, and these: float32 and int32 [E, B, count]."""


class FromLogits(NamedTuple):
    """`NextTokens` from the logits, float32 [E, B, V]."""

    of_all: tf.Tensor

    @property
    def size(self) -> int:
        """V."""
        return self.of_all.shape[-1]

    def logits(self) -> tf.Tensor:
        """See NextTokens."""
        return self.of_all

    def top(self, count: int) -> tuple[tf.Tensor, tf.Tensor]:
        """See NextTokens."""
        values, ids = tf.math.top_k(self.of_all, count)
        return values - tf.reduce_logsumexp(self.of_all, axis=-1, keepdims=True), ids


# (ids [E, B], place [], is_open [E], ancestors [E, B, N], state) → (what may follow, state), as
# `decoder.StepwiseDecoder.step`. Nothing is read of examples that are not open.
Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, Any], tuple[NextTokens, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched for, by the names that transformers' GenerationConfig has.

    Attributes:
      first_id, last_id, pad_id: the token before a target, the one that ends it, and what follows.
      max_new_tokens: of a target, the last one included.
      min_new_tokens: of a target, the last one not counted.
      num_beams: 1 takes the likeliest token each time.
      num_return_sequences: of an example.
      length_penalty: a hypothesis' score is its log probability divided by its length to this power.
      early_stopping: an example ends once as many hypotheses as beams have ended; else, once no other can become better.
      no_repeat_ngram_size: so many tokens in a row occur once only; 0: as often as the model likes.
      do_sample: draws tokens, instead of a search.
      temperature, top_k, top_p: of drawing: divides the logits; the likeliest tokens that are kept, 0 for all; the share of
        the probability that is kept.
      seed: of drawing.
    """

    first_id: int
    last_id: int
    pad_id: int
    max_new_tokens: int
    min_new_tokens: int = 0
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    no_repeat_ngram_size: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    @property
    def beams(self) -> int:
        """What is followed of each example at a time."""
        return self.num_return_sequences if self.do_sample else self.num_beams


class Found(NamedTuple):
    """What a search found.

    Attributes:
      sequences: int32 [E, num_return_sequences, N], the best first, padded.
      scores: float32 [E, num_return_sequences], log probabilities divided by lengths as the length penalty says.
      margin: float32 [E], the smallest difference of such scores, or of probabilities, that decided anything: where it is
        within rounding, another result is right as well.
    """

    sequences: tf.Tensor
    scores: tf.Tensor
    margin: tf.Tensor


def search(step: Step, state: Any, is_there: tf.Tensor, keys: tf.Tensor, how: Search) -> Found:
    """Searches for the targets of some examples.

    Args:
      step: the decoder.
      state: its first one.
      is_there: bool [E], False for an example that stands for none.
      keys: uint32 [E], a number of each example that what is drawn for it depends on.
      how: what is searched for.
    """
    if how.num_beams > 1 and not how.do_sample:
        return _beam_search(step, state, is_there, how)
    return _one_by_one(step, state, is_there, keys, how)


def _one_by_one(step, state, is_there, keys, how):
    """Takes the likeliest token each time, or draws one; the beams of an example know nothing of each other."""
    examples, beams, most = tf.shape(is_there)[0], how.beams, how.max_new_tokens
    ancestors = tf.broadcast_to(tf.range(beams)[None, :, None], [examples, beams, most])

    def unfinished(place, sequences, scores, lengths, ended, margin, state):
        return (place < most) & ~tf.reduce_all(ended)

    def extend(place, sequences, scores, lengths, ended, margin, state):
        is_open = tf.reduce_any(~ended, axis=-1)
        following, state = step(_last(sequences, place, how), place, is_open, ancestors, state)
        if how.do_sample:
            logits = following.logits()
            chosen, gap = _drawn(_allowed(logits, sequences, place, how), keys, place, how)
            log_probability = tf.gather(logits, chosen, batch_dims=2) - tf.reduce_logsumexp(logits, axis=-1)
        else:
            values, ids = _likeliest(following, sequences, place, 2, how)
            chosen, log_probability, gap = ids[..., 0], values[..., 0], values[..., 0] - values[..., 1]
        scores += tf.where(ended, 0.0, log_probability)
        lengths += tf.cast(~ended, tf.float32)
        margin = tf.where(ended, margin, tf.minimum(margin, gap))
        sequences = _with_token(sequences, tf.where(ended, how.pad_id, chosen), place)
        return place + 1, sequences, scores, lengths, ended | (chosen == how.last_id), margin, state

    shape = [examples, beams]
    sequences = tf.fill([examples, beams, most], how.pad_id)
    ended = tf.broadcast_to(~is_there[:, None], shape)
    begun = (0, sequences, tf.zeros(shape), tf.zeros(shape), ended, tf.ones(shape), state)
    _, sequences, scores, lengths, _, margin, _ = tf.while_loop(unfinished, extend, begun, parallel_iterations=1)
    scores /= tf.maximum(lengths, 1.0) ** how.length_penalty
    if not how.do_sample:
        return Found(sequences, scores, margin[:, 0])
    order = tf.argsort(scores, axis=-1, direction="DESCENDING", stable=True)
    gap = tf.reduce_min(_gaps(tf.gather(scores, order, batch_dims=1)), axis=-1) if beams > 1 else tf.ones([examples])
    margin = tf.minimum(tf.reduce_min(margin, axis=-1), gap)
    return Found(tf.gather(sequences, order, batch_dims=1), tf.gather(scores, order, batch_dims=1), margin)


def _drawn(logits, keys, place, how):
    """Draws a token of each beam: (int32 [E, B], float32 [E, B], how far the draw was from another token's part).

    Temperature, top-k and top-p (Holtzman et al. 2020, arXiv:1904.09751) one after the other, as transformers applies them.
    """
    size = logits.shape[-1]
    values, ids = tf.math.top_k(logits / how.temperature, min(how.top_k or size, size))
    probabilities = tf.nn.softmax(values)
    before = tf.cumsum(probabilities, axis=-1, exclusive=True)
    is_kept = (before < how.top_p) | (tf.range(values.shape[-1]) == 0)
    beam = tf.cast(tf.range(tf.shape(logits)[1]), tf.uint32)
    number = beam * tf.constant(how.max_new_tokens, tf.uint32) + tf.cast(place, tf.uint32)
    bits = mixed(tf.bitwise.bitwise_xor(mixed(keys + tf.constant(how.seed % 2**32, tf.uint32))[:, None], mixed(number)))
    chosen, gap = drawn_places(tf.where(is_kept, probabilities, 0.0), bits)
    return tf.gather(ids, chosen, batch_dims=2), gap


class _Beams(NamedTuple):
    """The state of a beam search: running hypotheses, and the best that have ended."""

    place: tf.Tensor
    sequences: tf.Tensor  # int32 [E, B, N]
    scores: tf.Tensor  # float32 [E, B], log probabilities
    ancestors: tf.Tensor  # int32 [E, B, N]
    ended_sequences: tf.Tensor
    ended_scores: tf.Tensor  # divided by lengths
    is_ended: tf.Tensor  # bool [E, B]
    may_improve: tf.Tensor  # bool [E]
    margin: tf.Tensor  # float32 [E]
    state: Any


def _beam_search(step, state, is_there, how):
    examples, beams, most = tf.shape(is_there)[0], how.num_beams, how.max_new_tokens

    def is_open(found):
        return found.may_improve & ~tf.reduce_all(found.is_ended, axis=-1) if how.early_stopping else found.may_improve

    def unfinished(found):
        return (found.place < most) & tf.reduce_any(is_open(found))

    def extend(found):
        place = found.place
        # What a beam reads at this place is in its own slot; what came before, where its ancestors wrote it.
        own = tf.broadcast_to(tf.range(beams)[None, :], [examples, beams])
        ancestors = _with_token(found.ancestors, own, place)
        following, state = step(_last(found.sequences, place, how), place, is_open(found), ancestors, found.state)
        # The best of all beams are among the best of each: a sort of few, where one of all B · V takes long.
        kept = min(2 * beams, following.size)
        values, ids = _likeliest(following, found.sequences, place, kept, how)  # [E, B, 2B]
        totals = tf.reshape(values + found.scores[:, :, None], [examples, beams * kept])
        scores, which = tf.math.top_k(totals, min(2 * beams, beams * kept))  # [E, 2B]
        parents, ids = which // kept, tf.gather(tf.reshape(ids, [examples, -1]), which, batch_dims=1)
        sequences = _with_token(tf.gather(found.sequences, parents, batch_dims=1), ids, place)
        ends = (ids == how.last_id) | (place + 1 >= most)

        after, chosen = tf.math.top_k(scores + tf.cast(ends, tf.float32) * NEVER, beams + 1)
        going, chosen = after[:, :beams], chosen[:, :beams]
        length = tf.cast(place + 1, tf.float32) ** how.length_penalty
        ended = _with_ended(found, sequences, scores / length, ends, how)
        worst = tf.where(ended.is_ended, tf.reduce_min(ended.ended_scores, axis=1, keepdims=True), NEVER)
        best = going[:, :1] / length
        goes_on = tf.where(place + 1 >= most, 1.0, (after[:, beams - 1] - after[:, beams]) / length)
        stops = tf.where(tf.reduce_all(ended.is_ended, axis=-1), tf.reduce_min(tf.abs(best - worst), axis=-1), 1.0)
        margin = tf.reduce_min(tf.stack([found.margin, goes_on, _edge(scores, ends, beams) / length, stops]), axis=0)
        return ended._replace(
            place=place + 1,
            sequences=tf.gather(sequences, chosen, batch_dims=1),
            scores=going,
            ancestors=tf.gather(tf.gather(ancestors, parents, batch_dims=1), chosen, batch_dims=1),
            may_improve=found.may_improve & tf.reduce_any(best > worst, axis=-1),
            margin=tf.where(found.may_improve, margin, found.margin),
            state=state,
        )

    nothing = tf.fill([examples, beams], NEVER)
    empty = tf.fill([examples, beams, most], how.pad_id)
    begun = _Beams(
        tf.constant(0),
        empty,
        tf.tile(tf.constant([[0.0] + [NEVER] * (beams - 1)]), [examples, 1]),
        tf.zeros([examples, beams, most], tf.int32),
        empty,
        nothing,
        tf.zeros([examples, beams], tf.bool),
        is_there,
        tf.ones([examples]),
        state,
    )
    (found,) = tf.while_loop(unfinished, lambda found: (extend(found),), (begun,), parallel_iterations=1)
    wanted = how.num_return_sequences
    last = tf.reduce_min(_gaps(found.ended_scores[:, : wanted + 1]), axis=-1)
    return Found(found.ended_sequences[:, :wanted], found.ended_scores[:, :wanted], tf.minimum(found.margin, last))


def _edge(scores, ends, beams):
    """Returns the gap between the last candidate that may count as ended and the next: float32 [E], where one of them ends."""
    is_edge = ends[:, beams - 1] | ends[:, beams]
    return tf.where(is_edge, scores[:, beams - 1] - scores[:, beams], -NEVER)


def _with_ended(found, sequences, scores, ends, how):
    """Keeps the best hypotheses that have ended: of the new ones only those among the first B."""
    is_first = tf.range(tf.shape(scores)[1]) < how.num_beams
    counts = ends & is_first & found.may_improve[:, None]
    if how.early_stopping:
        counts &= ~tf.reduce_all(found.is_ended, axis=-1, keepdims=True)
    all_scores = tf.concat([found.ended_scores, tf.where(counts, scores, NEVER)], axis=1)
    best, which = tf.math.top_k(all_scores, how.num_beams)
    all_sequences = tf.concat([found.ended_sequences, sequences], axis=1)
    is_ended = tf.concat([found.is_ended, counts], axis=1)
    return found._replace(
        ended_scores=best,
        ended_sequences=tf.gather(all_sequences, which, batch_dims=1),
        is_ended=tf.gather(is_ended, which, batch_dims=1),
    )


def _last(sequences, place, how):
    """Returns the token that each beam reads at a place: int32 [E, B]."""
    before = tf.gather(sequences, tf.maximum(place - 1, 0), axis=2)
    return tf.where(place > 0, before, how.first_id)


def _with_token(sequences, tokens, place):
    """Returns [E, B, N] with [E, B] at a place."""
    return tf.where(tf.range(sequences.shape[2]) == place, tokens[..., None], sequences)


def _likeliest(following, sequences, place, count, how):
    """Returns the log probabilities of the likeliest tokens that may follow, and these: float32 and int32 [E, B, count]."""
    if not (how.min_new_tokens or how.no_repeat_ngram_size):
        return following.top(count)
    logits = following.logits()
    log_probabilities = logits - tf.reduce_logsumexp(logits, axis=-1, keepdims=True)
    return tf.math.top_k(_allowed(log_probabilities, sequences, place, how), count)


def _allowed(scores, sequences, place, how):
    """Returns scores, float32 [E, B, V], with those of tokens that must not follow at NEVER or below."""
    if how.min_new_tokens:
        is_last = tf.range(scores.shape[-1]) == how.last_id
        scores = tf.where(is_last & (place < how.min_new_tokens), NEVER, scores)
    size = how.no_repeat_ngram_size
    if size and how.max_new_tokens >= size:
        # A row is the first token and what was generated: token n of a target stands at n + 1.
        rows = tf.pad(sequences, [[0, 0], [0, 0], [1, 0]], constant_values=how.first_id)
        starts = how.max_new_tokens + 2 - size
        repeated = tf.range(starts) + size - 1 <= place  # only what is there already
        for number in range(size - 1):
            tail = tf.gather(rows, tf.maximum(place - (size - 2) + number, 0), axis=2)
            repeated &= rows[:, :, number : number + starts] == tail[..., None]
        repeated &= place >= size - 1
        banned = rows[:, :, size - 1 : size - 1 + starts]
        flat = tf.reshape(scores, [-1, scores.shape[-1]])
        owners = tf.repeat(tf.range(tf.shape(flat)[0]), starts)
        at = tf.stack([owners, tf.reshape(banned, [-1])], axis=1)
        values = tf.where(tf.reshape(repeated, [-1]), NEVER, 0.0)
        scores = tf.reshape(tf.tensor_scatter_nd_add(flat, at, values), tf.shape(scores))
    return scores


def _gaps(values):
    """Returns the differences of neighbours, from high to low: float32 [E, n - 1]."""
    return values[:, :-1] - values[:, 1:]
