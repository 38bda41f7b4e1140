"""Hugging Face's TFBertForMaskedLM as a side of `benchmarks/pretraining_speed.py`; it runs in this project's environment."""

import argparse
import os

import protocol

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--padding", choices=("longest", "max"), default="max")
    parser.add_argument("--jit", action="store_true")
    options = parser.parse_args()

    import tensorflow as tf
    import tf_keras as keras
    from safetensors.numpy import load_file
    from transformers import AdamWeightDecay, BertConfig, TFBertForMaskedLM
    from transformers.modeling_tf_pytorch_utils import load_pytorch_state_dict_in_tf2_model

    case = protocol.load_case(options.case)
    if options.precision == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = TFBertForMaskedLM(BertConfig.from_pretrained(options.encoder))
    model(model.dummy_inputs)
    load_pytorch_state_dict_in_tf2_model(model, load_file(f"{options.encoder}/model.safetensors"), allow_missing_keys=True)
    optimizer = AdamWeightDecay(1e-6, weight_decay_rate=0.01, exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"])
    examples, targets, size = case["examples"], case["targets"], case["batch_size"]

    def tensors(rows):
        width = case["max_length"] if options.padding == "max" else max(len(examples[row]) for row in rows)

        def padded(values):
            return tf.constant([value + [0] * (width - len(value)) for value in values])

        mask = padded([[1] * len(examples[row]) for row in rows])
        return {"input_ids": padded([examples[row] for row in rows]), "attention_mask": mask}, padded(
            [targets[row] for row in rows]
        )

    def loss_of(inputs, labels, training):
        logits = tf.cast(model(**inputs, training=training).logits, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels - 1, 0), logits)
        weights = tf.cast(labels > 0, tf.float32)
        return tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)

    @tf.function(jit_compile=options.jit, reduce_retracing=not options.jit)
    def train_step(inputs, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(inputs, labels, training=True)
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, model.trainable_variables), 1.0)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    first_loss = float(loss_of(*tensors(range(size)), training=False))
    batches = protocol.drawn_batches(examples, size)

    def next_batch():
        rows = next(batches)
        batch = tensors(rows)
        mask = batch[0]["attention_mask"]
        return batch, int(tf.reduce_sum(mask)), len(rows), int(tf.size(mask))

    protocol.serve(first_loss, next_batch, lambda batch: train_step(*batch).numpy())


if __name__ == "__main__":
    main()
