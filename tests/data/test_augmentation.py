import numpy as np
import pytest
import tensorflow as tf

from trainer.data.augmentation import Augmentation, augmented
from trainer.features import ROW_ID, TOKENS

SPEC = {**TOKENS, **ROW_ID}
CLS, SEP, MASK = 1, 2, 3
USABLE = list(range(1000, 2000))


def augmentation(seed=5, most_tokens=64, synonyms=None, synonym_prob=0.0, is_inner=(False,) * 2000, **probs):
    names = ("mask_prob", "replace_prob", "swap_prob", "insert_prob", "delete_prob")
    return Augmentation(
        **{name: probs.get(name, 0.0) for name in names},
        seed=seed,
        mask_id=MASK,
        special_ids=[0, CLS, SEP, MASK],
        usable_ids=USABLE,
        most_tokens=most_tokens,
        synonyms=synonyms or {},
        synonym_prob=synonym_prob,
        is_inner=is_inner,
    )


def pairs(count=400):
    """[CLS] 10 to 29 [SEP] 30 to 39 [SEP], with types."""
    ids = [CLS, *range(10, 30), SEP, *range(30, 40), SEP]
    types = [0] * 22 + [1] * 11
    return {
        "input_ids": tf.ragged.constant([ids] * count, dtype=tf.int32),
        "token_type_ids": tf.ragged.constant([types] * count, dtype=tf.int32),
        "row_id": tf.range(count),
    }


def changed(work, first=0, count=400):
    numbers = tf.range(first, first + count, dtype=tf.int64)
    found = tf.function(lambda features, numbers: work(features, numbers, SPEC))(pairs(count), numbers)
    return found["input_ids"].to_list(), found["token_type_ids"].to_list()


ORIGINAL = pairs(1)["input_ids"].to_list()[0]


def test_nothing_happens_without_a_probability():
    ids, types = changed(augmentation())
    assert all(row == ORIGINAL for row in ids) and types[0] == [0] * 22 + [1] * 11


@pytest.mark.parametrize("name", ["mask_prob", "replace_prob", "swap_prob", "insert_prob", "delete_prob"])
def test_each_change_comes_as_often_as_it_says(name):
    ids, types = changed(augmentation(**{name: 0.2}))
    for row, type_row in zip(ids, types, strict=True):
        assert [i for i in row if i in (CLS, SEP)] == [CLS, SEP, SEP] and row[0] == CLS and row[-1] == SEP
        assert len(row) == len(type_row) and type_row == sorted(type_row)
        assert type_row.count(0) == row.index(SEP) + 1, "a token keeps the type of its text"
    free = 30 * len(ids)
    if name == "mask_prob":
        share = sum(row.count(MASK) for row in ids) / free
    elif name == "replace_prob":
        share = sum(i in USABLE for row in ids for i in row) / free
    elif name == "insert_prob":
        assert [i for i in ids[0] if i not in USABLE] == ORIGINAL
        share = sum(len(row) - len(ORIGINAL) for row in ids) / free
    elif name == "delete_prob":
        assert all(row == [i for i in ORIGINAL if i in row] for row in ids), "the order stays"
        share = sum(len(ORIGINAL) - len(row) for row in ids) / free
    else:
        assert all(sorted(row) == sorted(ORIGINAL) for row in ids)
        moved = np.array(ids) - np.array(ORIGINAL)
        assert set(np.unique(moved[:, 1:21])) == {-1, 0, 1} and not moved[:, [0, 21, 32]].any()
        share = 2 * (moved == 1).sum() / free  # every other token may begin a pair
    assert share == pytest.approx(0.2, abs=0.02)


def test_a_function_of_seed_and_place():
    work = augmentation(mask_prob=0.1, delete_prob=0.1, swap_prob=0.1, insert_prob=0.1)
    ids, _ = changed(work)
    assert changed(work)[0] == ids and changed(work, first=100, count=50)[0] == ids[100:150]
    assert changed(augmentation(seed=6, mask_prob=0.1, delete_prob=0.1, swap_prob=0.1, insert_prob=0.1))[0] != ids
    assert len({tuple(row) for row in ids}) > 390, "another each time"


def test_nothing_becomes_too_long():
    ids, _ = changed(augmentation(insert_prob=0.2, delete_prob=0.1, most_tokens=35))
    lengths = [len(row) for row in ids]
    assert max(lengths) <= 35 and any(i in USABLE for row in ids for i in row)


def test_the_tasks_own_work_comes_after():
    from trainer.data.pipeline import BatchWork

    own = BatchWork(
        lambda features, _: {**features, "seen": features["input_ids"]}, SPEC, lambda batch, _: {**batch, "done": 1}
    )
    work = augmented(own, augmentation(mask_prob=0.5), SPEC)
    found = work.vary(pairs(3), tf.range(3, dtype=tf.int64))
    assert (found["seen"].flat_values == MASK).numpy().any() and work.finish({}, True) == {"done": 1}
    assert augmented(None, augmentation(mask_prob=0.5), SPEC).finish({"a": 1}, False) == {"a": 1}


def test_words_become_synonyms():
    """10 becomes 500 or 501, 11 becomes 600; 12 is no whole word, since 13 goes on with it."""
    inner = [number == 13 for number in range(2000)]
    ids, _ = changed(augmentation(synonyms={10: [500, 501], 11: [600], 12: [700]}, synonym_prob=0.5, is_inner=inner))
    firsts = [row[1] for row in ids]
    assert set(firsts) == {10, 500, 501} and 100 < firsts.count(10) < 300 and abs(firsts.count(500) - firsts.count(501)) < 60
    assert {row[2] for row in ids} == {11, 600} and {row[3] for row in ids} == {12}
    assert all(row[4:] == ORIGINAL[4:] for row in ids)
    assert changed(augmentation(synonyms={10: [500, 501]}, synonym_prob=0.5))[0] != ids
