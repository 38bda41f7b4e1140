"""The dense layer and the pooler are held to TFBertModel in kernels/test_xla.py."""

import numpy as np
import tensorflow as tf

from trainer.models.layers import layer_norm, matmul_2d


def test_layer_norm_by_hand():
    values = tf.constant([[1.0, 2.0, 3.0]])
    gamma, beta = tf.constant([1.0, 1.0, 2.0]), tf.constant([0.0, 1.0, 0.0])
    deviation = (2 / 3) ** 0.5
    np.testing.assert_allclose(layer_norm(values, gamma, beta, 0.0), [[-1 / deviation, 1.0, 2 / deviation]], rtol=1e-6)


def test_one_product_of_all_rows():
    inputs, kernel = tf.random.normal([2, 3, 4]), tf.random.normal([4, 5])
    np.testing.assert_allclose(matmul_2d(inputs, kernel), tf.einsum("bli,io->blo", inputs, kernel), rtol=1e-5, atol=1e-6)
