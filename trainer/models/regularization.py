"""What a training step does against overfitting, besides dropout: R-Drop, mixout, adversarial training. For little data.

The last two train at other weights than the model's: a step sets these weights, takes the gradient there, and puts the model's
back. So they need nothing of the layers, and every kernel can compute them.
"""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from trainer.models.optimizers import Gradient
from trainer.runtime.randomness import drop, folded
from trainer.runtime.replicas import replica_context

Gradients = list[Gradient | None]
Compute = Callable[[], tuple[Gradients, tf.Tensor]]  # gradients of the trainable variables, and what else a step reports


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regularization:
    """What to do; by default nothing.

    Attributes:
      r_drop_alpha: weight of the divergence of two passes with other dropout (Liang et al. 2021, arXiv:2106.14448, equation 4);
        the loss is the mean of the two, as in the authors' code.
      adversarial_epsilon: how far the word embeddings are moved to where the loss grows most; the gradient there is added
        (Miyato et al. 2017, arXiv:1605.07725, equations 3 to 5, over the table of the embeddings instead of each text's).
      word_embeddings: the table.
      mixout_prob: the share of the elements that are as `starts` has them in a step (Lee et al. 2020, arXiv:1909.11299).
      starts: (variable, what it was before the training) of all that mixout mixes.
    """

    r_drop_alpha: float = 0.0
    adversarial_epsilon: float = 0.0
    word_embeddings: tf.Variable | None = None
    mixout_prob: float = 0.0
    starts: Sequence[tuple[tf.Variable, tf.Variable]] = ()

    def gradients(self, compute: Compute, variables: Sequence[tf.Variable], seed: tf.Tensor) -> tuple[Gradients, tf.Tensor]:
        """Returns what `compute` does, at the weights where it is to be done.

        Args:
          compute: gives this replica's share of the gradients at the weights of now, the same at each call.
          variables: that the gradients are of.
          seed: int32 [2], of this step, the same on all replicas.
        """

        def at_these_weights():
            if not self.adversarial_epsilon:
                return compute()
            return _with_adversarial(compute, variables, self.word_embeddings, self.adversarial_epsilon)

        if not self.mixout_prob:
            return at_these_weights()
        return _with_mixout(at_these_weights, variables, self.starts, self.mixout_prob, seed)


def _with_adversarial(compute, variables, table, epsilon):
    gradients, reported = compute()
    number = next(i for i, variable in enumerate(variables) if variable is table)
    gradient = tf.convert_to_tensor(gradients[number])
    gradient = replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradient)  # the whole batch's, on each replica
    before = tf.identity(table)
    _assign([table], [before + epsilon * tf.math.divide_no_nan(gradient, tf.norm(gradient))])
    more, _ = compute()
    _assign([table], [before])
    return [_sum(*pair) for pair in zip(gradients, more, strict=True)], reported


def _with_mixout(compute, variables, starts, prob, seed):
    mixed_variables = [variable for variable, _ in starts]
    before = [tf.identity(variable) for variable in mixed_variables]
    with tf.GradientTape() as tape:
        tape.watch(before)
        # start + dropout(weight - start): the start's own value at `prob`, else such that the mean is the weight.
        mixed = [
            start + drop(own - start, prob, folded(seed, number))
            for number, ((_, start), own) in enumerate(zip(starts, before, strict=True))
        ]
    _assign(mixed_variables, mixed)
    gradients, reported = compute()
    _assign(mixed_variables, before)
    places = {id(variable): number for number, variable in enumerate(variables)}
    numbers = [places[id(variable)] for variable in mixed_variables]
    of_mixed = [gradients[number] for number in numbers]
    used = [number for number, gradient in enumerate(of_mixed) if gradient is not None]
    found = tape.gradient([mixed[i] for i in used], [before[i] for i in used], [of_mixed[i] for i in used])
    for place, gradient in zip(used, found, strict=True):
        gradients[numbers[place]] = gradient
    return gradients, reported


def _assign(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    """Sets variables from inside a replica, whatever strategy it is of."""

    def assign(strategy, values):
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(variable, lambda own, new: own.assign(new), args=(value,), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(assign, tf.distribute.get_strategy(), list(values))


def _sum(first: Gradient | None, second: Gradient | None) -> tf.Tensor | None:
    if first is None or second is None:
        return first
    return tf.convert_to_tensor(first) + tf.convert_to_tensor(second)
