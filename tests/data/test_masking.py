"""Masks: their numbers statistically, their choices against rules; the same for the same place in the stream."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.data.masking import Masker
from trainer.text.masks import MaskingRecipe

LENGTH = 64


@pytest.fixture(scope="module")
def batch(tokenizer):
    """2,000 sequences of 5 to 64 tokens: [CLS], any ordinary tokens, [SEP]; the vocabulary's pieces among them."""
    generator = np.random.default_rng(5)
    words = [i for i, token in enumerate(tokenizer.tokens()) if token.isalpha()][:5000]
    pieces = [i for i, token in enumerate(tokenizer.tokens()) if token.startswith("##")][:5000]
    rows = []
    for length in generator.integers(5, LENGTH + 1, 2000):
        inner = np.where(generator.random(length - 2) < 0.3, *(generator.choice(c, length - 2) for c in (pieces, words)))
        rows.append([tokenizer.cls_id, *inner.tolist(), tokenizer.sep_id])
    return tf.ragged.constant(rows, dtype=tf.int32)


def mask(tokenizer, batch, first=0, seed=1, continues=None, **recipe):
    masker = Masker(MaskingRecipe(**recipe), tokenizer, seed)
    positions = tf.range(first, first + batch.nrows(), dtype=tf.int64)
    masked, chosen = masker(batch, positions, continues)
    return masked, chosen


def flat(*ragged):
    return [value.flat_values.numpy() for value in ragged]


def words_of(batch, tokenizer):
    """Returns for each flat token the number of its word, -1 for special tokens."""
    tokens, number, numbers = tokenizer.tokens(), -1, []
    before_is_special = True
    for i in batch.flat_values.numpy():
        special = i in tokenizer.special_ids()
        number += not special and (before_is_special or not tokens[i].startswith("##"))
        numbers.append(-1 if special else number)
        before_is_special = special
    return np.array(numbers)


@pytest.mark.parametrize("unit", ["token", "whole_word", "ngram", "span"])
def test_how_many_and_what_becomes_of_them(tokenizer, batch, unit):
    masked, chosen = mask(tokenizer, batch, unit=unit)
    ids, new, is_chosen = flat(batch, masked, chosen)
    is_chosen = is_chosen.astype(bool)
    assert not is_chosen[np.isin(ids, list(tokenizer.special_ids()))].any()
    assert np.array_equal(ids[~is_chosen], new[~is_chosen])
    # 80 % [MASK], 10 % another token, 10 % the same: within five standard deviations (spans are treated as one: wider)
    count, wide = is_chosen.sum(), 2.5 if unit == "span" else 1.0
    for share, expected in (
        ((new == tokenizer.mask_id)[is_chosen].mean(), 0.8),
        ((new == ids)[is_chosen].mean(), 0.1),
        (((new != ids) & (new != tokenizer.mask_id))[is_chosen].mean(), 0.1),
    ):
        assert abs(share - expected) < 5 * wide * np.sqrt(expected * (1 - expected) / count)
    wanted = np.maximum(np.round(batch.row_lengths().numpy() * 0.15), 1)
    found = tf.reduce_sum(chosen, axis=1).numpy()
    if unit == "token":
        assert np.array_equal(found, wanted)
    else:
        assert (found <= wanted).all() and found.sum() > 0.9 * wanted.sum()


@pytest.mark.parametrize("unit", ["whole_word", "ngram", "span"])
def test_words_are_masked_whole_or_not_at_all(tokenizer, batch, unit):
    _, chosen = mask(tokenizer, batch, unit=unit)
    numbers, (is_chosen,) = words_of(batch, tokenizer), flat(chosen)
    assert set(numbers[is_chosen == 1]).isdisjoint(numbers[(is_chosen == 0)]) and (numbers[is_chosen == 1] >= 0).all()


def test_every_token_is_as_likely_as_another(tokenizer):
    row = tf.constant([[tokenizer.cls_id, *range(2000, 2018), tokenizer.sep_id]] * 20_000, tf.int32)
    _, chosen = mask(tokenizer, tf.RaggedTensor.from_tensor(row))
    shares = chosen.to_tensor().numpy().mean(0)[1:-1]
    assert np.abs(shares - 3 / 18).max() < 5 * np.sqrt(3 / 18 * 15 / 18 / 20_000)


def test_random_tokens_are_ordinary_and_another_one(tokenizer, batch):
    masked, chosen = mask(tokenizer, batch, mask_token_prob=0.0, random_token_prob=1.0, masked_lm_prob=0.5)
    ids, new, is_chosen = flat(batch, masked, chosen)
    drawn, tokens = new[is_chosen == 1], tokenizer.tokens()
    assert (drawn != ids[is_chosen == 1]).all()
    assert not {int(i) for i in drawn} & tokenizer.special_ids()
    assert not any(tokens[i].startswith("[unused") for i in drawn)
    assert len(set(drawn.tolist())) > 0.5 * len(drawn)  # drawn from the whole vocabulary


def test_a_mask_is_a_function_of_seed_and_place(tokenizer, batch):
    first = flat(*mask(tokenizer, batch))
    assert all(np.array_equal(a, b) for a, b in zip(first, flat(*mask(tokenizer, batch)), strict=True))
    later = flat(mask(tokenizer, batch[100:], first=100)[0])[0]
    assert np.array_equal(later, first[0][-len(later) :])
    next_epoch = flat(mask(tokenizer, batch, first=2000)[1])[0]
    other_seed = flat(mask(tokenizer, batch, seed=2)[1])[0]
    for other in (next_epoch, other_seed):
        both = (first[1] & other).sum() / first[1].sum()
        assert 0.1 < both < 0.25  # 15 % by chance
    beyond = flat(mask(tokenizer, batch, first=2**40)[1])[0]
    assert not np.array_equal(beyond, first[1])


def test_the_number_can_be_bounded(tokenizer, batch):
    _, chosen = mask(tokenizer, batch, max_predictions=3)
    assert tf.reduce_max(tf.reduce_sum(chosen, axis=1)) == 3


def spans_of(tokenizer, batch, **recipe):
    """Returns the lengths, in words, of runs of masked words, where few are masked so that runs hardly touch."""
    _, chosen = mask(tokenizer, batch, masked_lm_prob=0.06, **recipe)
    numbers, (is_chosen,) = words_of(batch, tokenizer), flat(chosen)
    masked_words = sorted(set(numbers[is_chosen == 1].tolist()))
    runs, length = [], 0
    for word, after in zip(masked_words, [*masked_words[1:], -5], strict=True):
        length += 1
        if after != word + 1:
            runs.append(length)
            length = 0
    return np.array(runs)


def test_ngrams_and_spans_have_their_lengths(tokenizer):
    words = [i for i, token in enumerate(tokenizer.tokens()) if token.isalpha()][:5000]
    generator = np.random.default_rng(6)
    # Long rows: at the end of a row's budget, what is left lets short ones in only.
    rows = [[tokenizer.cls_id, *generator.choice(words, 4000).tolist(), tokenizer.sep_id] for _ in range(20)]
    batch = tf.ragged.constant(rows, dtype=tf.int32)
    runs = spans_of(tokenizer, batch, unit="ngram", max_ngram=3)
    shares = np.bincount(runs, minlength=4)[1:4] / len(runs)
    assert np.abs(shares - np.array([6, 3, 2]) / 11).max() < 0.05
    runs = spans_of(tokenizer, batch, unit="span")
    assert runs.mean() == pytest.approx(3.8, abs=0.35)  # the paper's mean for p = 0.2 and at most 10 words


def test_words_given_by_a_segmentation(tokenizer):
    """Chinese has no pieces: its words come from a segmentation, as 1 where a character continues a word."""
    row = [tokenizer.cls_id, *range(3000, 3040), tokenizer.sep_id]
    batch = tf.ragged.constant([row] * 300, dtype=tf.int32)
    continues = tf.ragged.constant([[0, *[0, 1] * 20, 0]] * 300, dtype=tf.int32)
    _, chosen = mask(tokenizer, batch, unit="whole_word", continues=continues)
    pairs = chosen.to_tensor().numpy()[:, 1:-1].reshape(300, 20, 2)
    assert np.array_equal(pairs[..., 0], pairs[..., 1]) and (pairs.sum((1, 2)) == 6).all()


def test_the_bound_of_a_packed_row(tokenizer, batch):
    recipe = MaskingRecipe(masked_lm_prob=0.15)
    _, chosen = mask(tokenizer, batch)
    counts, lengths = tf.reduce_sum(chosen, axis=1).numpy(), batch.row_lengths().numpy()
    for start in range(0, 2000, 4):
        part = slice(start, start + 4)
        assert counts[part].sum() <= recipe.most_predictions(int(lengths[part].sum()), 4)
