"""The interface of what computes an encoder, and what it is given: packed rows of token ids."""

from __future__ import annotations

import abc
import copy
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

MEASURED_SIZE, MEASUREMENTS = 768, 12  # rows and columns of the measured product, some milliseconds each; how often


class PackedIds(NamedTuple):
    """What the encoder reads: int32 [batch, length] each. Segment 0 is padding."""

    input_ids: tf.Tensor
    token_type_ids: tf.Tensor
    position_ids: tf.Tensor
    segment_ids: tf.Tensor


class EncoderKernels(abc.ABC):
    """Computes an encoder's forward pass and its gradients over TFBertMainLayer's variables.

    Encoder and optimizer get their kernels when they are constructed, and keep them.
    """

    name: ClassVar[str]

    @classmethod
    def unfit(cls, bert_config: Any, precision: str) -> str | None:
        """Returns why these kernels cannot compute an encoder (BertConfig) in a precision on this machine; None if they can."""
        return None

    @classmethod
    def multiply(cls, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """Multiplies two matrices by the product that the layers use, so that its speed can be measured.

        Args:
          left, right: float32 or bfloat16 [rows, inner] and [inner, columns].
        """
        return tf.linalg.matmul(left, right)

    @abc.abstractmethod
    def encode(
        self,
        bert: Any,
        ids: PackedIds,
        dtype: tf.DType,
        read_positions: tf.Tensor | None = None,
        training: bool = False,
        recompute: bool = False,
    ) -> tf.Tensor:
        """Runs embeddings and all layers.

        Args:
          bert: transformers' TFBertMainLayer; its weights and config are used, its call is not.
          ids: the packed rows.
          dtype: float32, bfloat16 or float16, of the matrix products.
          read_positions: int32 [batch, P], the tokens that the head reads, where it does not read all. The last layer then
            computes keys and values for all tokens and everything else only for these.
          training: with dropout, drawn from `runtime.randomness.random_scope`, and with gradients.
          recompute: in training, keep only each layer's input and compute the layer again in the backward pass (Chen et al.
            2016, arXiv:1604.06174): a third more computing, a fraction of the memory.

        Returns:
          dtype [batch, length, hidden], or [batch, P, hidden].
        """

    def adamw_update(self) -> Callable[..., None] | None:
        """Returns what updates all weights of an AdamW at once (see `models.optimizers.AdamW`); None for its own programs."""
        return None

    def stepwise_decoder(self) -> type | None:
        """Returns the class that decodes token by token, as `models.decoder.StepwiseDecoder`; None for that one."""
        return None

    def held_variables(self) -> Sequence[tf.Variable]:
        """Returns the variables that these kernels made for a graph that is traced with them; most make none."""
        return ()


def without_dropout(config: Any) -> Any:
    """Returns a BertConfig whose layers drop nothing."""
    config = copy.copy(config)
    config.attention_probs_dropout_prob = config.hidden_dropout_prob = 0.0
    return config


@functools.cache
def product_seconds(*products: tuple[type[EncoderKernels], tf.DType]) -> tuple[float, ...]:
    """Returns the shortest time of each matrix product of MEASURED_SIZE rows and columns.

    They are measured in turn: a machine that other programs slow down slows all of them.

    Args:
      products: the kernels that multiply, and the type of the numbers.
    """
    functions, seconds = [], [float("inf")] * len(products)
    for kernels, dtype in products:
        left = tf.cast(tf.random.stateless_normal([MEASURED_SIZE, MEASURED_SIZE], [1, 2]), dtype)
        product = tf.function(lambda left, kernels=kernels: kernels.multiply(left, left)[0, 0], autograph=False)
        functions.append(functools.partial(product.get_concrete_function(left), left))
    for _ in range(1 + MEASUREMENTS):  # the first time starts threads
        for number, product in enumerate(functions):
            begun = time.perf_counter()
            product().numpy()
            seconds[number] = min(seconds[number], time.perf_counter() - begun)
    return tuple(seconds)
