"""That texts are cut and packed as by GraphInputs is in test_text_inputs.py."""

import pytest
import tensorflow as tf

from trainer.serving.native_inputs import NativeInputs


def test_columns_of_different_lengths_are_told(tokenizer, native_inference):
    with pytest.raises(tf.errors.InvalidArgumentError, match="BertInputs: 2 first texts and 1 second ones"):
        NativeInputs(tokenizer, 12)(tf.constant(["a", "b"]), tf.constant(["c"]))
