"""This project as a side of `benchmarks/pretraining_speed.py`: packed rows, logits at masked tokens only; or neither."""

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
    parser.add_argument("--padded", action="store_true", help="one example a row, padded to the longest there may be")
    parser.add_argument("--all_positions", action="store_true", help="logits at all tokens")
    options = parser.parse_args()

    keep_compiled_kernels()  # as the command line does
    import tensorflow as tf

    from trainer.data import records
    from trainer.data.pipeline import BatchWork, Packing, packed_batches
    from trainer.feeding import rounded_length
    from trainer.models.encoder import BertEncoder
    from trainer.models.initialization import load_encoder_weights, read_bert_config
    from trainer.models.optimizers import AdamW
    from trainer.runtime.fusion import quieten
    from trainer.tasks.base import TextFields
    from trainer.tasks.pretraining import Config, Task
    from trainer.text.tokenizer import load_tokenizer

    quieten()
    case = protocol.load_case(options.case)
    size, most = case["batch_size"], case["max_length"]
    row_length = most if options.padded else rounded_length(max(map(len, case["examples"])), most)
    per_row = 1 if options.padded else 16
    fields = TextFields(("text",), "label", row_length, per_row)
    task = Task(Config(sentence_objective="none", static_masks=True), fields, load_tokenizer(options.encoder))
    encoder = BertEncoder(read_bert_config(options.encoder), options.precision)
    model = task.build_model(encoder)
    head = [variable for variable in model.weights if variable.name.startswith("cls/")]
    load_encoder_weights(encoder, options.encoder, head=head)
    model.prepare_training(task, seed=1)
    model.compile(optimizer=AdamW(1e-6))
    model.optimizer.build(model.trainable_variables)

    serialized = [
        records.encode_example({"input_ids": ids, "masked_lm_targets": targets, "row_id": number}, task.features())
        for number, (ids, targets) in enumerate(zip(case["examples"], case["targets"], strict=True))
    ]
    work = task.batch_work()
    if options.all_positions:

        def with_all_positions(batch, _):
            shape = tf.shape(batch["input_ids"])
            batch["masked_lm_weights"] = tf.cast(batch.pop("is_masked"), tf.float32)
            batch["masked_positions"] = tf.broadcast_to(tf.range(shape[1]), shape)
            batch["masked_lm_ids"] = batch.pop("original_ids")
            return batch

        work = BatchWork(work.vary, work.spec, with_all_positions)
    packing = Packing(row_length, per_row)
    stored = tf.data.Dataset.from_tensor_slices(serialized)
    first = next(iter(packed_batches(stored, task.features(), size, packing, work=work)))
    losses, weights = task.loss(first, model.outputs_for(first))[0]["masked_lm"], first["masked_lm_weights"]
    first_loss = float(tf.reduce_sum(losses * weights) / tf.reduce_sum(weights))

    shuffled = stored.shuffle(len(serialized), seed=1).repeat()
    batches = iter(packed_batches(shuffled, task.features(), size, packing, work=work))
    train_step = tf.function(model.train_step, reduce_retracing=True)

    def next_batch():
        batch = next(batches)
        tokens = int(tf.math.count_nonzero(batch["segment_ids"]))
        return batch, tokens, size, int(tf.size(batch["segment_ids"]))

    protocol.serve(first_loss, next_batch, lambda batch: train_step(batch)["loss"].numpy())


if __name__ == "__main__":
    main()
