import numpy as np
import tensorflow as tf

from trainer.models.heads import DenseHead
from trainer.runtime.randomness import random_scope


def test_head_is_float32_dense_with_seeded_dropout():
    head = DenseHead(3, dropout_rate=0.5)
    inputs = tf.ones([2, 4, 8], tf.bfloat16)
    logits = head(inputs)
    assert logits.dtype == tf.float32 and logits.shape == [2, 4, 3]
    kernel, bias = head.trainable_variables
    assert np.allclose(logits[0, 0], kernel.numpy().sum(0) + bias.numpy(), atol=1e-6)
    assert 0.01 < kernel.numpy().std() < 0.03 and not bias.numpy().any()
    with random_scope(tf.constant([1, 2])):
        assert not np.allclose(head(inputs, training=True), logits)
    assert [v.name for v in head.trainable_variables] == ["head/dense/kernel:0", "head/dense/bias:0"], "checkpoints need these"
