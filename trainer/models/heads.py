"""Task heads: what turns pooled outputs into logits."""

import tensorflow as tf
import tf_keras as keras

from trainer.runtime.randomness import dropout


class DenseHead(keras.layers.Layer):
    """Dropout and one dense layer, float32: [..., hidden] → float32 [..., units].

    Args:
      units: the size of the output.
      dropout_rate: on the input, in training.
      initializer_range: standard deviation of the kernel's truncated normal, as in google-research/bert's run_classifier.py.
    """

    def __init__(self, units: int, dropout_rate: float, initializer_range: float = 0.02, name: str = "head"):
        super().__init__(name=name, dtype="float32", autocast=False)
        self._dropout_rate = dropout_rate
        initializer = keras.initializers.TruncatedNormal(stddev=initializer_range)
        self._dense = keras.layers.Dense(units, kernel_initializer=initializer, dtype="float32", name="dense")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._dense(dropout(tf.cast(inputs, tf.float32), self._dropout_rate, training))
