"""The train step: accumulation equals the large batch, two replicas equal one, packed equals unpacked, weights count."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.conftest import tiny_config
from trainer.data.packing import pack
from trainer.features import ROW_ID, TOKENS, Feature
from trainer.models.kernels.native import NativeKernels
from trainer.models.kernels.xla import XlaKernels
from trainer.models.optimizers import AdamW
from trainer.runtime import distribution
from trainer.tasks.classification import Config, Task

SPEC = {"input_ids": TOKENS["input_ids"], "label": Feature("int32", "example"), **ROW_ID}
LENGTH = 32


def features_of(numbers, tokenizer, reviews):
    from trainer.text.sequences import single_sequence

    ids = [single_sequence(tokenizer.encode(reviews[i]["text"]), tokenizer, LENGTH) for i in numbers]
    labels = [int(reviews[i]["label"] == "positive") for i in numbers]
    ragged = tf.ragged.constant(ids, dtype=tf.int32)
    return {"input_ids": ragged, "label": tf.constant(labels), "row_id": tf.constant(list(numbers))}


def build(
    tokenizer,
    strategy=None,
    gradient_accumulation_steps=1,
    precision="float32",
    native=False,
    is_whole=False,
    micro_rows=None,
    dropout=0.0,
    **task,
):
    from trainer.models.encoder import BertEncoder

    strategy = strategy or tf.distribute.get_strategy()
    keras.utils.set_random_seed(3)
    with strategy.scope():
        config = Config(class_names=("negative", "positive"), head_dropout_rate=0.0, **task)
        owner = Task(config, tokenizer, LENGTH)
        bert_config = tiny_config(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        encoder = BertEncoder(bert_config, precision, kernels=NativeKernels() if native else XlaKernels())
        model = owner.build_model(encoder)
        # Plain gradient descent shows differences that Adam's normalization would hide.
        optimizer = keras.optimizers.SGD(1.0)
        if precision == "float16":
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
        model.prepare_training(owner, 1, gradient_accumulation_steps, micro_rows, is_whole)
        model.compile(optimizer=optimizer)
        optimizer.build(model.trainable_variables)
    return model


def step(model, *batches):
    """Makes one train step, each replica with its own batch; returns (logs, weights)."""
    strategy = model.distribute_strategy
    if len(batches) == 1:
        logs = tf.function(model.train_step)(batches[0])
    else:
        values = strategy.experimental_distribute_values_from_function(lambda ctx: batches[ctx.replica_id_in_sync_group])
        logs = tf.function(lambda v: strategy.run(model.train_step, (v,)))(values)
        logs = {name: strategy.experimental_local_results(value)[0] for name, value in logs.items()}
    return {name: float(value) for name, value in logs.items()}, [weight.numpy() for weight in model.weights]


def assert_close(left, right, tolerance=2e-6):
    gaps = [np.abs(a - b).max() for a, b in zip(left, right, strict=True)]
    assert max(gaps) <= tolerance, max(gaps)


@pytest.fixture(scope="module")
def whole(tokenizer, reviews):
    features = features_of(range(12), tokenizer, reviews)
    return {k: pack(features, SPEC, LENGTH, k, row_multiple=3) for k in (1, 4)}


@pytest.fixture(scope="module")
def expected(tokenizer, whole):
    return step(build(tokenizer), whole[1])


def test_packed_equals_unpacked(tokenizer, whole, expected):
    assert whole[4]["input_ids"].shape[0] < 12
    logs, weights = step(build(tokenizer), whole[4])
    assert logs["loss"] == pytest.approx(expected[0]["loss"], abs=1e-6)
    assert logs["examples"] == expected[0]["examples"] == 12 and logs["tokens"] == expected[0]["tokens"]
    assert_close(weights, expected[1])


@pytest.mark.parametrize("k", [1, 4], ids=["unpacked", "packed"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_native_operations_give_the_same_step(native, tokenizer, whole, k, pooling):
    expected = step(build(tokenizer, pooling=pooling), whole[k])
    logs, weights = step(build(tokenizer, native=True, pooling=pooling), whole[k])
    assert logs["loss"] == pytest.approx(expected[0]["loss"], abs=1e-6)
    assert_close(weights, expected[1])


def test_replicas_and_micro_batches_of_native_operations(native, tokenizer, reviews, whole, expected):
    _, weights = step(build(tokenizer, native=True, gradient_accumulation_steps=3), whole[4])
    assert_close(weights, expected[1])
    strategy = distribution.choose("mirrored", cpu_devices=2).strategy
    halves = [pack(features_of(part, tokenizer, reviews), SPEC, LENGTH, 4, static_rows=12) for part in (range(9), range(9, 12))]
    _, weights = step(build(tokenizer, strategy, native=True), *halves)
    assert_close(weights, expected[1])


MANY_OR_ONE = [pytest.param(*cut, marks=pytest.mark.slow) for cut in ((2, 6), (12, 1))]


@pytest.mark.parametrize(("static_rows", "pieces"), [(4, 3), *MANY_OR_ONE])
@pytest.mark.parametrize("is_whole", [False, True], ids=["in parts", "whole"])
def test_a_batch_that_overflows_its_static_rows_is_one_step(tokenizer, reviews, expected, static_rows, pieces, is_whole):
    """All batches have one shape; what does not fit into the first rows is accumulated in the same step."""
    batch = pack(features_of(range(12), tokenizer, reviews), SPEC, LENGTH, 4, static_rows=static_rows, pieces=pieces)
    assert batch["input_ids"].shape[0] == static_rows * pieces
    model = build(tokenizer, is_whole=is_whole, micro_rows=static_rows)
    logs = tf.function(model.train_step, jit_compile=is_whole)(batch)
    assert float(logs["loss"]) == pytest.approx(expected[0]["loss"], abs=1e-5) and logs["examples"] == 12
    assert_close([weight.numpy() for weight in model.weights], expected[1], 2e-5)


def test_dropout_is_the_same_in_all_kernels(native, tokenizer, reviews):
    """Computed by XLA's kernels, in a step that XLA compiles whole, and by native ones: the same elements are dropped.

    One row without padding: native kernels number the elements of tokens alone.
    """
    tokens = sum(len(ids) for ids in features_of(range(3), tokenizer, reviews)["input_ids"].numpy())
    batch = pack(features_of(range(3), tokenizer, reviews), SPEC, tokens, 3)
    assert batch["segment_ids"].shape[0] == 1 and batch["segment_ids"].numpy().all()
    found = []
    for options in ({}, {"is_whole": True}, {"native": True}):
        model = build(tokenizer, dropout=0.3, **options)
        program = tf.function(model.train_step, jit_compile=options.get("is_whole", False))
        losses = [float(program(batch)["loss"]) for _ in range(2)]
        found.append((losses, [weight.numpy() for weight in model.weights]))
    assert abs(found[0][0][0] - step(build(tokenizer), batch)[0]["loss"]) > 1e-4, "dropout does something"
    for losses, weights in found[1:]:
        assert losses == pytest.approx(found[0][0], abs=1e-5)
        assert_close(weights, found[0][1], 5e-5)


@pytest.mark.parametrize("k", [1, 4])
def test_accumulation_equals_the_large_batch(tokenizer, whole, expected, k):
    logs, weights = step(build(tokenizer, gradient_accumulation_steps=3), whole[k])
    assert logs["loss"] == pytest.approx(expected[0]["loss"], abs=1e-6)
    assert_close(weights, expected[1])


def test_two_replicas_equal_one_even_with_unequal_shares(tokenizer, reviews, expected):
    strategy = distribution.choose("mirrored", cpu_devices=2).strategy
    halves = [
        pack(features_of(numbers, tokenizer, reviews), SPEC, LENGTH, 4, static_rows=12) for numbers in (range(9), range(9, 12))
    ]
    logs, weights = step(build(tokenizer, strategy), *halves)
    assert logs["loss"] == pytest.approx(expected[0]["loss"], abs=1e-6) and logs["examples"] == 12
    assert_close(weights, expected[1])


def test_class_weights_divide_by_the_weight_not_the_count(tokenizer, whole, reviews):
    model = build(tokenizer, class_weights={"negative": 5.0})
    outputs = model.outputs_for(whole[1])["logits"].numpy()[:, 0]
    labels = np.array([int(reviews[i]["label"] == "positive") for i in range(12)])
    losses = -np.log(np.exp(outputs)[np.arange(12), labels] / np.exp(outputs).sum(1))
    weights = np.where(labels == 0, 5.0, 1.0)
    logs, _ = step(model, whole[1])
    assert logs["loss"] == pytest.approx((losses * weights).sum() / weights.sum(), abs=1e-5)


def test_padding_changes_nothing(tokenizer, reviews, expected):
    padded = pack(features_of(range(12), tokenizer, reviews), SPEC, LENGTH * 2, 1, static_rows=15)
    _, weights = step(build(tokenizer), padded)
    assert_close(weights, expected[1])


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_lower_precisions_learn_the_same(tokenizer, whole, expected, precision, tolerance):
    logs, weights = step(build(tokenizer, precision=precision), whole[4])
    assert logs["loss"] == pytest.approx(expected[0]["loss"], abs=tolerance)
    assert_close(weights, expected[1], tolerance)


def test_float16_skips_a_step_that_overflows(tokenizer, whole):
    model = build(tokenizer, precision="float16")
    before = [weight.numpy() for weight in model.weights]
    model.optimizer.dynamic_counter.assign(0)
    model.optimizer._loss_scale._current_loss_scale.assign(2.0**40)
    _, after = step(model, whole[4])
    assert_close(before, after, 0.0)
    assert float(model.optimizer.loss_scale) == 2.0**39


def test_xla_gives_the_same_step(tokenizer, whole, expected):
    model = build(tokenizer, is_whole=True)
    logs = tf.function(model.train_step, jit_compile=True)(whole[4])
    assert float(logs["loss"]) == pytest.approx(expected[0]["loss"], abs=1e-5)
    assert_close([weight.numpy() for weight in model.weights], expected[1], 2e-5)


def test_a_step_compiled_whole_has_no_loop_over_the_tokens(tokenizer, whole):
    """Of word rows listed more than once XLA would find each by a loop, a token after the other: ages on a GPU."""

    def loops(is_whole):
        model = build(tokenizer, is_whole=is_whole)
        model.compile(optimizer=AdamW(1e-3))
        model.optimizer.build(model.trainable_variables)
        program = tf.function(model.train_step, jit_compile=True)
        return program.experimental_get_compiler_ir(whole[4])(stage="stablehlo").count("stablehlo.while")

    assert loops(is_whole=True) == 0 < loops(is_whole=False)


def test_frozen_and_unused_weights_stay(tokenizer, whole):
    model = build(tokenizer, pooling="mean")
    pooler = next(weight for weight in model.weights if "pooler/dense/kernel" in weight.name)
    before = pooler.numpy()
    optimizer = AdamW(0.1)
    model.compile(optimizer=optimizer)
    step(model, whole[4])
    assert np.array_equal(pooler.numpy(), before), "weight decay must not touch what has no gradient"


@pytest.mark.slow
@pytest.mark.parametrize("is_native", [False, True], ids=["compiled", "native"])
def test_loss_curve_is_tfbertmodels_over_200_steps(minilm, tokenizer, reviews, is_native, request):
    """Ours: packed, fused, AdamW at once. The reference: TFBertModel on padded batches, the rule written out."""
    from trainer.models.encoder import BertEncoder
    from trainer.models.initialization import load_encoder_weights, read_bert_config

    if is_native:
        request.getfixturevalue("native")
    config = read_bert_config(str(minilm))
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    owner = Task(
        Config(class_names=("negative", "positive"), head_dropout_rate=0.0),
        tokenizer,
        LENGTH,
    )
    curves = []
    for is_ours in (True, False):
        keras.utils.set_random_seed(3)
        encoder = BertEncoder(config, kernels=NativeKernels() if is_native and is_ours else XlaKernels())
        model = owner.build_model(encoder)
        load_encoder_weights(encoder, str(minilm))
        if is_ours:
            model.prepare_training(owner, seed=1)
            model.compile(optimizer=AdamW(RATE, weight_decay=DECAY, update_at_once=encoder.kernels.adamw_update()))
            model.optimizer.build(model.trainable_variables)
            step = tf.function(lambda batch, model=model: model.train_step(batch)["loss"], reduce_retracing=True)
        else:
            step = reference_step(encoder, model.get_layer("head").trainable_variables)
        losses = []
        for number in range(200):
            examples = [(16 * number + i) % len(reviews) for i in range(16)]
            features = features_of(examples, tokenizer, reviews)
            losses.append(float(step(pack(features, SPEC, LENGTH, 4 if is_ours else 1))))
        curves.append(np.array(losses))
    gap = np.abs(curves[0] - curves[1])
    print(
        f"loss from {curves[0][0]:.4f} to {curves[0][-10:].mean():.4f}; largest difference {gap.max():.2e}, mean {gap.mean():.2e}"
    )
    assert curves[0][-10:].mean() < 0.8 * curves[0][0], "it learned"
    assert gap.max() < 1e-4


RATE, DECAY = 5e-5, 0.01


def reference_step(encoder, head):
    """TFBertModel's classification, one example a row; AdamW as Loshchilov and Hutter's algorithm 2 writes it."""
    variables = list(encoder.model.trainable_variables) + list(head)
    moments = [(tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in variables]
    time = tf.Variable(0.0)

    @tf.function(reduce_retracing=True)
    def step(batch):
        mask = tf.cast(batch["segment_ids"] > 0, tf.int32)
        with tf.GradientTape() as tape:
            pooled = encoder.model(input_ids=batch["input_ids"], attention_mask=mask, training=True).pooler_output
            logits = pooled @ head[0] + head[1]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"][:, 0], logits))
        gradients, _ = tf.clip_by_global_norm(list(map(tf.convert_to_tensor, tape.gradient(loss, variables))), 1.0)
        time.assign_add(1.0)
        for variable, gradient, (m, v) in zip(variables, gradients, moments, strict=True):
            m.assign(0.9 * m + 0.1 * gradient)
            v.assign(0.999 * v + 0.001 * gradient**2)
            direction = m / (1 - 0.9**time) / (tf.sqrt(v / (1 - 0.999**time)) + 1e-6)
            decay = DECAY * variable if len(variable.shape) > 1 else 0.0
            variable.assign_sub(RATE * (direction + decay))
        return loss

    return step


def test_several_steps_of_a_call_are_added_up(tokenizer, reviews):
    batches = [pack(features_of(range(4 * i, 4 * i + 4), tokenizer, reviews), SPEC, LENGTH, 4) for i in range(3)]

    def generate():
        yield from batches

    signature = {name: tf.TensorSpec([None, None], value.dtype) for name, value in batches[0].items()}
    single, several = build(tokenizer), build(tokenizer)
    several.compile(optimizer=several.optimizer, steps_per_execution=3)
    found = []
    for model, calls in ((single, 3), (several, 1)):
        iterator = iter(tf.data.Dataset.from_generator(generate, output_signature=signature))
        function = model.make_train_function()
        assert function is model.make_train_function(), "made once"
        found.append([{name: float(value) for name, value in function(iterator).items()} for _ in range(calls)])
    ones, (sums,) = found
    assert sums["loss"] == pytest.approx(np.mean([one["loss"] for one in ones]), abs=1e-6)
    assert all(sums[name] == sum(one[name] for one in ones) for name in ("examples", "tokens", "cells"))
    assert sums["examples"] == 12 and sums["data_wait_seconds"] > 0
    assert_close(*[[weight.numpy() for weight in model.weights] for model in (single, several)])
