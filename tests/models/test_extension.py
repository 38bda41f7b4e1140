"""New rows of the tables: means of pieces for words, copies for positions."""

import numpy as np
import pytest

from trainer.errors import UserError
from trainer.models.extension import POSITIONS, WORD_BIAS, WORDS, extension
from trainer.text.tokenizer import from_vocabulary

BASE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "heart", "##burn", "##s", "burn"]


def weights():
    generator = np.random.default_rng(0)
    return {
        WORDS: generator.normal(size=(10, 4)),
        WORD_BIAS: generator.normal(size=10),
        POSITIONS: generator.normal(size=(6, 4)),
        "pooler/dense/bias": np.zeros(4),
    }


def test_new_words_begin_as_the_mean_of_their_pieces():
    before, after = from_vocabulary(BASE), from_vocabulary([*BASE, "heartburn", "##burns", "zzz", "##qq"])
    old, new = weights(), extension(before, after, positions=6)(weights())
    assert np.array_equal(new[WORDS][:10], old[WORDS]) and new[WORDS].shape == (14, 4)
    assert np.allclose(new[WORDS][10], old[WORDS][[6, 7]].mean(0))  # heart ##burn
    assert np.allclose(new[WORDS][11], old[WORDS][[7, 8]].mean(0))  # ##burn ##s
    assert np.allclose(new[WORDS][12:], old[WORDS][1])  # nothing is known of them: [UNK]
    assert np.allclose(new[WORD_BIAS][10], old[WORD_BIAS][[6, 7]].mean())
    assert np.array_equal(new[POSITIONS], old[POSITIONS]) and np.array_equal(new["pooler/dense/bias"], np.zeros(4))


def test_rows_to_spare_give_way():
    before, after = from_vocabulary(BASE), from_vocabulary([*BASE, "heartburn"])
    padded = {WORDS: np.concatenate([weights()[WORDS], np.zeros([6, 4])])}
    assert np.array_equal(extension(before, after, positions=6)(padded)[WORDS], extension(before, after, 6)(weights())[WORDS])


def test_further_positions_are_copies():
    old, new = weights(), extension(None, from_vocabulary(BASE), positions=14)(weights())
    assert np.array_equal(new[POSITIONS], np.concatenate([old[POSITIONS]] * 3)[:14]) and np.array_equal(new[WORDS], old[WORDS])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (
            [*BASE[:6], "liver", *BASE[7:], "new"],
            "its id 6 is 'liver', the encoder's is 'heart'; an extended vocabulary begins",
        ),
        (BASE[:8], "it has 8 tokens, fewer than the encoder's 10"),
    ],
)
def test_another_vocabulary_is_refused(tokens, message):
    with pytest.raises(UserError, match=message):
        extension(from_vocabulary(BASE), from_vocabulary(tokens), positions=6)
