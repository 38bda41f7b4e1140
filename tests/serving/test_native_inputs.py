"""That texts are cut and packed as by GraphInputs is in test_text_inputs.py."""

import pytest
import tensorflow as tf

from trainer.serving.native_inputs import NativeInputs


def test_columns_of_different_lengths_are_told(tokenizer, native_inference):
    with pytest.raises(tf.errors.InvalidArgumentError, match="BertInputs: 2 first texts and 1 second ones"):
        NativeInputs(tokenizer, 12)(tf.constant(["a", "b"]), tf.constant(["c"]))


def test_another_vocabulary_at_the_same_place_is_another_one(tokenizer, native_inference):
    first, second = NativeInputs(tokenizer, 12), NativeInputs(tokenizer, 12)
    swapped = list(first._tables[0])
    good, bad = (tokenizer.encode(word)[0] for word in ("good", "bad"))
    swapped[good], swapped[bad] = swapped[bad], swapped[good]
    second._tables[0] = swapped
    text = tf.constant(["good"])
    for _ in range(2):
        assert good in first(text)[0]["input_ids"].numpy() and bad not in first(text)[0]["input_ids"].numpy()
        assert bad in second(text)[0]["input_ids"].numpy()


@pytest.mark.parametrize(("name", "value"), [("special_ids", []), ("special_tokens", [""]), ("max_seq_length", 2)])
def test_attributes_that_do_not_fit_are_told(tokenizer, native_inference, name, value):
    inputs = NativeInputs(tokenizer, 12)
    inputs._attributes[name] = value
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.OpError), match="BertInputs"):
        inputs(tf.constant(["a"]))


def test_tables_that_are_damaged_are_told(tokenizer, native_inference):
    for place in range(1, 7):
        inputs = NativeInputs(tokenizer, 12)
        inputs._tables[place] = inputs._tables[place].copy()
        inputs._tables[place].flat[-1] = 1 << 30
        with pytest.raises(tf.errors.InvalidArgumentError, match="BertInputs"):
            inputs(tf.constant(["a"]))
