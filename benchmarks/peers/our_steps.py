"""This project as a side of `benchmarks/speed.py`: its input pipeline, its model, its train step."""

import argparse
import sys
from pathlib import Path

import protocol

sys.path.insert(0, str(Path(__file__).parents[2]))

import trainer  # noqa: F401  sets Keras 2 before TensorFlow is imported
from trainer.runtime.compile_cache import keep_compiled_kernels


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--precision", default="bfloat16")
    options = parser.parse_args()

    keep_compiled_kernels()  # as the command line does
    import tensorflow as tf

    from trainer.data import records
    from trainer.data.pipeline import Packing, packed_batches
    from trainer.feeding import rounded_length
    from trainer.tasks.base import TextFields
    from trainer.tasks.classification import Config, Task
    from trainer.text.tokenizer import load_tokenizer

    case = protocol.load_case(options.case)
    size, row_length = case["batch_size"], rounded_length(max(map(len, case["examples"])), case["max_length"])
    names = tuple(map(str, range(case["classes"])))
    per_row = max(row_length // min(map(len, case["examples"])), 1)
    task = Task(
        Config(class_names=names, pooling="pooler"),
        TextFields(("text",), "label", row_length, per_row),
        load_tokenizer(options.encoder),
    )
    model = load_model(task, case, options)

    serialized = [
        records.encode_example({"input_ids": ids, "label": label, "row_id": number}, task.features())
        for number, (ids, label) in enumerate(zip(case["examples"], case["labels"], strict=True))
    ]
    packing = Packing(row_length, per_row)
    stored = tf.data.Dataset.from_tensor_slices(serialized)
    first = next(iter(packed_batches(stored, task.features(), size, packing)))
    losses, weights = task.loss(first, model.outputs_for(first))[0]["label"], task.loss_weights(first)["label"]
    first_loss = float(tf.reduce_sum(losses * weights) / tf.reduce_sum(weights))

    shuffled = stored.shuffle(len(serialized), seed=1).repeat()
    batches = iter(packed_batches(shuffled, task.features(), size, packing))
    train_step = tf.function(model.train_step, reduce_retracing=True)

    def next_batch():
        batch = next(batches)
        tokens = int(tf.math.count_nonzero(batch["segment_ids"]))
        return batch, tokens, size, int(tf.size(batch["segment_ids"]))

    protocol.serve(first_loss, next_batch, lambda batch: train_step(batch)["loss"].numpy())


def load_model(task, case, options):
    """Returns the model, ready to train, with the encoder's weights and the case's head."""
    from trainer.models.encoder import BertEncoder
    from trainer.models.initialization import load_encoder_weights, read_bert_config
    from trainer.models.optimizers import AdamW

    encoder = BertEncoder(read_bert_config(options.encoder), options.precision)
    model = task.build_model(encoder)
    load_encoder_weights(encoder, options.encoder)
    head = model.get_layer("head").trainable_variables
    head[0].assign(case["head"]["kernel"])
    head[1].assign(case["head"]["bias"])
    model.prepare_training(task, seed=1)
    model.compile(optimizer=AdamW(1e-6))
    model.optimizer.build(model.trainable_variables)
    return model


if __name__ == "__main__":
    main()
