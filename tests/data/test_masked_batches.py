"""Masked batches: what is to be predicted, where it lies in packed rows, hand-made."""

import numpy as np
import tensorflow as tf

from trainer.data.masked_batches import drawn_masks, stored_masks, with_masked_positions

IDS = tf.ragged.constant([[2, 7, 4, 3], [2, 4, 3]], tf.int32)


def test_stored_masks_are_the_records():
    targets = tf.ragged.constant([[0, 0, 10, 0], [0, 5, 0]], tf.int32)  # 9 was masked; 4 was left as it is
    found = stored_masks({"input_ids": IDS, "masked_lm_targets": targets}, tf.constant([0, 1]))
    assert found["original_ids"].to_list() == [[2, 7, 9, 3], [2, 4, 3]]
    assert found["is_masked"].to_list() == [[0, 0, 1, 0], [0, 1, 0]]
    assert found["input_ids"].to_list() == IDS.to_list()


def test_drawn_masks_keep_what_was_there_and_hand_on_words():
    given = {}

    def masker(ids, positions, continues):
        given.update(positions=positions.numpy().tolist(), continues=continues)
        return ids + 1, ids * 0

    found = drawn_masks(masker)({"input_ids": IDS, "continues_word": "words"}, tf.constant([5, 6]))
    assert found["original_ids"].to_list() == IDS.to_list() and found["input_ids"].to_list()[1] == [3, 5, 4]
    assert given == {"positions": [5, 6], "continues": "words"}


def packed():
    is_masked = np.zeros([2, 12], np.int32)
    is_masked[0, [1, 4, 5, 7, 9]] = 1
    is_masked[1, 2] = 1
    ids = np.arange(24, dtype=np.int32).reshape(2, 12)
    names = {"input_ids": ids, "original_ids": ids + 100, "is_masked": is_masked, "continues_word": ids}
    return {name: tf.constant(value) for name, value in names.items()}


def test_positions_are_as_many_as_the_batch_needs():
    batch = with_masked_positions(packed())
    assert set(batch) == {"input_ids", "masked_positions", "masked_lm_ids", "masked_lm_weights"}
    assert batch["masked_positions"].shape == [2, 8]  # five, rounded up
    assert batch["masked_positions"][0].numpy().tolist() == [1, 4, 5, 7, 9, 11, 11, 11]
    assert batch["masked_lm_weights"].numpy().sum(1).tolist() == [5, 1]
    assert batch["masked_lm_ids"][0, :5].numpy().tolist() == [101, 104, 105, 107, 109]
    assert batch["masked_lm_ids"][1, 0] == 114


def test_or_as_many_as_any_batch_may_need():
    assert with_masked_positions(packed(), most=3)["masked_positions"].numpy().tolist() == [[1, 4, 5], [2, 11, 11]]


def test_a_batch_without_masks_has_a_place_of_no_weight():
    batch = packed()
    batch["is_masked"] *= 0
    found = with_masked_positions(batch)
    assert found["masked_positions"].shape == [2, 1] and not found["masked_lm_weights"].numpy().any()
