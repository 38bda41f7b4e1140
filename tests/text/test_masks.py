"""Masks drawn once: their numbers, words kept whole, what replaces them."""

import collections
import random

import numpy as np
import pytest

from trainer.text.masks import MaskableTokens, MaskingRecipe, StaticMasker


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return MaskableTokens(tokenizer)


def sequences(tokenizer, count=800):
    generator = np.random.default_rng(5)
    words = [i for i, token in enumerate(tokenizer.tokens()) if token.isalpha()][:5000]
    pieces = [i for i, token in enumerate(tokenizer.tokens()) if token.startswith("##")][:5000]
    for length in generator.integers(5, 65, count):
        inner = np.where(generator.random(length - 2) < 0.3, *(generator.choice(c, length - 2) for c in (pieces, words)))
        yield [tokenizer.cls_id, *inner.tolist(), tokenizer.sep_id]


def test_what_a_vocabulary_says(tokenizer, tokens):
    assert tokens.special == {tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
    names = tokenizer.tokens()
    assert not any(names[i].startswith("[unused") for i in tokens.usable) and not tokens.special & set(tokens.usable)
    assert tokens.continues[names.index("##s")] and not tokens.continues[names.index("s")]


@pytest.mark.parametrize("unit", ["token", "whole_word", "ngram", "span"])
def test_how_many_and_what_becomes_of_them(tokenizer, tokens, unit):
    recipe, draw, counts = MaskingRecipe(unit), random.Random(3), collections.Counter()
    masker = StaticMasker(recipe, tokens)
    for ids in sequences(tokenizer):
        masked, targets = masker(ids, draw)
        chosen = [i for i, target in enumerate(targets) if target]
        assert all(targets[i] == ids[i] + 1 for i in chosen) and not any(ids[i] in tokens.special for i in chosen)
        assert all(masked[i] == ids[i] for i in range(len(ids)) if i not in chosen)
        assert len(chosen) <= recipe.predictions(len(ids)) and (unit != "token" or len(chosen) == recipe.predictions(len(ids)))
        for i in chosen:
            counts["mask" if masked[i] == tokens.mask_id else "same" if masked[i] == ids[i] else "other"] += 1
            inner = ids[i] in tokens.usable and tokens.continues[ids[i]]
            if unit != "token" and inner and ids[i - 1] not in tokens.special:
                assert i - 1 in chosen  # a piece goes with the one before it
    wide = 2.5 if unit == "span" else 1.0
    for name, share in {"mask": 0.8, "same": 0.1, "other": 0.1}.items():
        deviation = np.sqrt(share * (1 - share) / counts.total())
        assert abs(counts[name] / counts.total() - share) < 5 * wide * deviation, counts


def test_predictions_by_hand():
    assert [MaskingRecipe().predictions(length) for length in (3, 10, 128)] == [1, 2, 19]
    assert MaskingRecipe(max_predictions=5).predictions(128) == 5
    assert MaskingRecipe().most_predictions(128, 4) == 23


def test_probabilities_of_ngrams_and_spans():
    assert MaskingRecipe("ngram").word_count_probabilities() == pytest.approx([6 / 11, 3 / 11, 2 / 11])
    spans = MaskingRecipe("span").word_count_probabilities()
    assert len(spans) == 10 and sum(n * p for n, p in enumerate(spans, start=1)) == pytest.approx(3.797, abs=0.001)


def test_words_given_by_a_segmentation(tokenizer, tokens):
    ids = [tokenizer.cls_id, *range(3000, 3040), tokenizer.sep_id]
    continues = [0, *[0, 1] * 20, 0]
    for seed in range(20):
        _, targets = StaticMasker(MaskingRecipe("whole_word"), tokens)(ids, random.Random(seed), continues)
        pairs = np.array(targets[1:-1]).reshape(20, 2) > 0
        assert (pairs[:, 0] == pairs[:, 1]).all() and pairs.sum() == 6
