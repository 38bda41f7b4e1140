"""The packed forward pass against transformers' TFBertModel: outputs and gradients, on real text and real weights."""

import contextlib
import inspect

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import tiny_config
from trainer.data.packing import pack
from trainer.features import ROW_ID, TOKENS
from trainer.models import heads, layers
from trainer.models.encoder import PACKED_INPUTS, BertEncoder
from trainer.models.initialization import load_encoder_weights, read_bert_config
from trainer.models.kernels import xla
from trainer.models.kernels.base import PackedIds
from trainer.models.kernels.native import NativeKernels
from trainer.runtime.randomness import random_scope, step_seed
from trainer.runtime.target import tracing_for
from trainer.text.sequences import pair_sequence

TOLERANCE = 1e-5
SPEC = {**TOKENS, **ROW_ID}
LENGTH = 64


@pytest.fixture(scope="module")
def encoder(minilm):
    config = read_bert_config(str(minilm))
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0  # parity needs training without it
    encoder = BertEncoder(config)
    load_encoder_weights(encoder, str(minilm))
    return encoder


@pytest.fixture(scope="module")
def batches(tokenizer, reviews):
    """The same sentence pairs, packed four to a row and one to a row."""
    pairs = [
        pair_sequence(tokenizer.encode(a["text"]), tokenizer.encode(b["text"]), tokenizer, LENGTH)
        for a, b in zip(reviews[:12], reviews[12:24], strict=True)
    ]
    features = {
        "input_ids": tf.ragged.constant([ids for ids, _ in pairs], dtype=tf.int32),
        "token_type_ids": tf.ragged.constant([types for _, types in pairs], dtype=tf.int32),
        "row_id": tf.range(len(pairs)),
    }
    return {k: pack(features, SPEC, LENGTH, k) for k in (1, 4)}


def by_example(packed, sequence) -> dict[int, np.ndarray]:
    """Returns {example: float [tokens, hidden]}."""
    found = {}
    for row, slot in np.argwhere(packed["row_id"].numpy() >= 0):
        tokens = packed["segment_ids"].numpy()[row] == slot + 1
        found[int(packed["row_id"][row, slot])] = sequence[row][tokens]
    return found


def objective(packed, sequence, pooled):
    """A scalar that every output of every example takes part in, the same whatever the packing."""
    real = tf.cast(packed["segment_ids"] > 0, tf.float32)[..., None]
    present = packed["example_weights"][..., None]
    direction = tf.sin(tf.range(sequence.shape[-1], dtype=tf.float32))
    tokens = tf.reduce_sum(real)
    examples = tf.reduce_sum(present)
    return tf.reduce_sum(sequence * real * direction) / tokens + tf.reduce_sum(pooled * present * direction) / examples


def ours(encoder, packed, reads_first, training):
    inputs = {name: packed[name] for name in PACKED_INPUTS}
    with tf.GradientTape() as tape:
        sequence = encoder(inputs, training=training)
        if reads_first:
            first = encoder(inputs, packed["cls_positions"], training=training)
        else:
            first = tf.gather(sequence, packed["cls_positions"], batch_dims=1)
        pooled = layers.pool(encoder.bert, first)
        value = objective(packed, sequence, pooled)
    return sequence, pooled, tape.gradient(value, encoder.model.trainable_variables)


def hugging_faces(encoder, packed):
    with tf.GradientTape() as tape:
        outputs = encoder.model(
            input_ids=packed["input_ids"],
            attention_mask=tf.cast(packed["segment_ids"] > 0, tf.int32),
            token_type_ids=packed["token_type_ids"],
        )
        pooled = outputs.pooler_output[:, None]
        value = objective(packed, outputs.last_hidden_state, pooled)
    return outputs.last_hidden_state, pooled, tape.gradient(value, encoder.model.trainable_variables)


def largest_gap(left, right) -> float:
    gaps = [tf.reduce_max(tf.abs(tf.convert_to_tensor(a) - tf.convert_to_tensor(b))) for a, b in zip(left, right, strict=True)]
    return float(max(gaps))


@pytest.mark.parametrize("way", ["inference", "training", "native", "for a TPU"])
@pytest.mark.parametrize("reads_first", [False, True], ids=["all tokens", "first tokens"])
@pytest.mark.parametrize("k", [1, 4], ids=["unpacked", "packed"])
def test_equals_tfbertmodel(encoder, batches, k, reads_first, way, request):
    """Training has fused or native kernels, evaluation neither; without dropout all are TFBertModel's function."""
    if way == "native":
        request.getfixturevalue("native")
        encoder = BertEncoder(encoder.bert_config, kernels=NativeKernels(), model=encoder.model)
    training = way != "inference"
    if k > 1:
        assert batches[k]["input_ids"].shape[0] < batches[1]["input_ids"].shape[0], "the batch must really be packed"
    with tracing_for("tpu") if way == "for a TPU" else contextlib.nullcontext():
        sequence, pooled, gradients = ours(encoder, batches[k], reads_first, training)
    expected, expected_pooled, expected_gradients = hugging_faces(encoder, batches[1])
    mine, theirs = by_example(batches[k], sequence.numpy()), by_example(batches[1], expected.numpy())
    rows = batches[k]["row_id"].numpy()
    pooled_gap = max(
        np.abs(pooled.numpy()[row, slot] - expected_pooled.numpy()[rows[row, slot], 0]).max()
        for row, slot in np.argwhere(rows >= 0)
    )
    gaps = {
        "outputs": float(max(np.abs(mine[i] - theirs[i]).max() for i in theirs)),
        "pooled": float(pooled_gap),
        "gradients": largest_gap(gradients, expected_gradients),
    }
    print(f"largest difference to TFBertModel: {gaps}")
    assert max(gaps.values()) <= TOLERANCE


def test_attention_never_crosses_a_segment(encoder, batches):
    packed = dict(batches[4])
    before = encoder({name: packed[name] for name in PACKED_INPUTS}).numpy()
    second = packed["segment_ids"] == 2
    packed["input_ids"] = tf.where(second, 2003, packed["input_ids"])
    after = encoder({name: packed[name] for name in PACKED_INPUTS}).numpy()
    others = ~second.numpy()
    assert np.array_equal(before[others], after[others])
    assert not np.allclose(before[second.numpy()], after[second.numpy()])


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.15), ("float16", 0.02)])
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_lower_precisions_stay_near(encoder, batches, precision, tolerance, training):
    ids = PackedIds(*(batches[4][name] for name in PACKED_INPUTS))
    full = encoder.kernels.encode(encoder.bert, ids, tf.float32, training=training).numpy()
    low = encoder.kernels.encode(encoder.bert, ids, tf.as_dtype(precision), training=training)
    assert low.dtype == tf.as_dtype(precision)
    real = batches[4]["segment_ids"].numpy() > 0
    gap = np.abs(full[real] - tf.cast(low, tf.float32).numpy()[real])
    assert np.isfinite(gap).all() and gap.max() < tolerance


KERNELS = [value for module in (xla, heads) for value in vars(module).values() if getattr(value, "vectors", None)]


@pytest.mark.parametrize("function", KERNELS, ids=lambda function: function.__name__)
def test_kernels_have_the_gradients_of_the_plain_functions(function):
    """How each vector is used is declared by hand: the sums of columns hold only where it is true, with dropout too."""
    generator = np.random.default_rng(3)
    constants = {"rate": 0.3, "epsilon": 1e-6, "dtype": tf.float32, "activation": "gelu"}
    parameters = inspect.signature(function).parameters.values()
    constants = {p.name: constants[p.name] for p in parameters if p.kind == p.KEYWORD_ONLY}
    sizes = dict.fromkeys(("bias", "gamma", "beta"), [6])
    inputs = {
        p.name: tf.constant([1, 2]) if p.name == "seed" else tf.constant(generator.normal(size=sizes.get(p.name, [4, 5, 6])))
        for p in parameters
        if p.kind != p.KEYWORD_ONLY
    }
    inputs = {name: value if name == "seed" else tf.cast(value, tf.float32) for name, value in inputs.items()}
    watched = [value for name, value in inputs.items() if name != "seed"]
    upstream = tf.constant(generator.normal(size=[4, 5, 6]), tf.float32)

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch(watched)
            outputs = function(*inputs.values(), **constants)
        return tape.gradient(outputs, watched, upstream)

    for found, expected in zip(gradients(function), gradients(function.__wrapped__), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_dense_product_has_its_own_gradients(transposed):
    inputs, kernel, bias = (
        tf.random.normal([2, 3, 4]),
        tf.random.normal([5, 4] if transposed else [4, 5]),
        tf.random.normal([5]),
    )

    def plain():
        return tf.einsum("bli,oi->blo" if transposed else "bli,io->blo", inputs, kernel) + bias

    found = []
    for function in (lambda: layers.dense(inputs, kernel, bias, transpose_kernel=transposed), plain):
        with tf.GradientTape() as tape:
            tape.watch([inputs, kernel, bias])
            outputs = function()
            value = tf.reduce_sum(tf.sin(outputs))
        found.append([outputs, *tape.gradient(value, [inputs, kernel, bias])])
    for mine, expected in zip(*found, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_seeded_and_on_in_training_only():
    encoder = BertEncoder(tiny_config(hidden_dropout_prob=0.5))
    inputs = {name: tf.ones([2, 8], tf.int32) for name in PACKED_INPUTS}
    still = encoder(inputs)
    assert np.array_equal(still, encoder(inputs))

    def run(step):
        with random_scope(step_seed(1, tf.constant(step), 0)):
            return encoder(inputs, training=True).numpy()

    assert np.array_equal(run(3), run(3)) and not np.array_equal(run(3), run(4))
    with pytest.raises(RuntimeError, match="needs a random_scope"):
        encoder(inputs, training=True)


def test_layers_computed_again_have_the_same_gradients_and_dropout(batches):
    packed = {name: batches[4][name] for name in PACKED_INPUTS}
    config = tiny_config(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    found = []
    for recompute in (False, True):
        tf.random.set_seed(1)
        encoder = BertEncoder(config, recompute=recompute)
        for number, variable in enumerate(encoder.model.weights):
            variable.assign(tf.random.stateless_normal(variable.shape, [number, 1], stddev=0.1))

        @tf.function(autograph=False)
        def step(encoder=encoder):
            with tf.GradientTape() as tape, random_scope(step_seed(1, tf.constant(2), 0)):
                value = tf.reduce_sum(tf.square(encoder(packed, batches[4]["cls_positions"], training=True)))
            return tape.gradient(value, encoder.model.trainable_variables)

        found.append([tf.convert_to_tensor(gradient).numpy() for gradient in step() if gradient is not None])
    assert len(found[0]) == len(found[1]) > 30
    for plain, again in zip(*found, strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-5, atol=1e-5)
