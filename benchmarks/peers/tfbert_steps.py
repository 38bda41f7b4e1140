"""Hugging Face's TensorFlow BERT as a side of `benchmarks/speed.py` and `pretraining_speed.py`; it runs in our environment.

It is TFBertForSequenceClassification; or, where the case has masked tokens ("targets"), TFBertForMaskedLM.
"""

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
    from transformers import AdamWeightDecay

    case = protocol.load_case(options.case)
    if options.precision == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = load_model(options.encoder, case)
    optimizer = AdamWeightDecay(1e-6, weight_decay_rate=0.01, exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"])
    examples, size = case["examples"], case["batch_size"]

    def tensors(rows):
        width = case["max_length"] if options.padding == "max" else max(len(examples[row]) for row in rows)

        def padded(values):
            return tf.constant([value + [0] * (width - len(value)) for value in values])

        inputs = {
            "input_ids": padded([examples[row] for row in rows]),
            "attention_mask": padded([[1] * len(examples[row]) for row in rows]),
        }
        if "labels" in case:
            return inputs, tf.constant([case["labels"][row] + 1 for row in rows])
        return inputs, padded([case["targets"][row] for row in rows])

    def loss_of(inputs, targets, training):
        """Targets are classes or tokens plus one; 0 is none."""
        logits = tf.cast(model(**inputs, training=training).logits, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets - 1, 0), logits)
        weights = tf.cast(targets > 0, tf.float32)
        return tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)

    @tf.function(jit_compile=options.jit, reduce_retracing=not options.jit)
    def train_step(inputs, targets):
        with tf.GradientTape() as tape:
            loss = loss_of(inputs, targets, training=True)
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


def load_model(folder, case):
    """Returns the model with the folder's weights and the case's head."""
    from safetensors.numpy import load_file
    from transformers import BertConfig, TFBertForMaskedLM, TFBertForSequenceClassification
    from transformers.modeling_tf_pytorch_utils import load_pytorch_state_dict_in_tf2_model

    state = load_file(f"{folder}/model.safetensors")
    if "targets" in case:
        model = TFBertForMaskedLM(BertConfig.from_pretrained(folder))
        model(model.dummy_inputs)
        load_pytorch_state_dict_in_tf2_model(model, state, allow_missing_keys=True)
        return model
    model = TFBertForSequenceClassification(BertConfig.from_pretrained(folder, num_labels=case["classes"]))
    model(model.dummy_inputs)
    state = {f"bert.{name}": value for name, value in state.items()}
    load_pytorch_state_dict_in_tf2_model(model, state, allow_missing_keys=True)
    model.classifier.kernel.assign(case["head"]["kernel"])
    model.classifier.bias.assign(case["head"]["bias"])
    return model


if __name__ == "__main__":
    main()
