"""This project as a side of `benchmarks/speed.py` and `pretraining_speed.py`: its input pipeline, its model, its train step.

The task is classification; tagging where the case has tags of words, question answering where it has the places of answers,
pre-training on masked tokens alone where it has those ("targets").
"""

import argparse
import sys
from pathlib import Path

import protocol

sys.path.insert(0, str(Path(__file__).parents[2]))

import trainer  # noqa: F401  sets Keras 2 before TensorFlow is imported
from trainer.runtime.compile_cache import keep_compiled_kernels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--learning_rate", type=float, default=1e-6)
    parser.add_argument("--total_steps", type=int, help="of a warm-up and a linear decay; without, the rate is constant")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--padded", action="store_true", help="one example a row, padded to the longest there may be")
    parser.add_argument("--all_positions", action="store_true", help="logits at all tokens, of which few are predicted")
    options = parser.parse_args()

    keep_compiled_kernels()  # as the command line does
    import tensorflow as tf

    from trainer.data import records
    from trainer.data.pipeline import Packing, packed_batches
    from trainer.run.feeding import rounded_length
    from trainer.run.schema import DataConfig
    from trainer.runtime.quiet import quieten

    quieten()
    case = protocol.load_case(options.case)
    size, longest = case["batch_size"], max(map(len, case["examples"]))
    row_length = case["max_length"] if options.padded else rounded_length(longest, case["max_length"])
    packing = Packing(row_length, 1 if options.padded else DataConfig.max_examples_per_row)
    task = load_task(case, options, packing)
    model = load_model(task, case, options)
    work = task.batch_work()
    if options.all_positions:
        work = with_all_positions(work)

    serialized = [records.encode_example(example, task.features()) for example in examples_of(case)]
    stored = tf.data.Dataset.from_tensor_slices(serialized)
    first = next(iter(packed_batches(stored, task.features(), size, packing, work=work)))
    ((part, weights),) = task.loss_weights(first).items()
    losses = task.loss(first, model.outputs_for(first))[0][part]
    first_loss = float(tf.reduce_sum(losses * weights) / tf.reduce_sum(weights))

    shuffled = stored.shuffle(len(serialized), seed=options.seed).repeat()
    batches = iter(packed_batches(shuffled, task.features(), size, packing, work=work))
    train_step = tf.function(model.train_step, reduce_retracing=True)

    def next_batch():
        batch = next(batches)
        tokens = int(tf.math.count_nonzero(batch["segment_ids"]))
        return batch, tokens, size, int(tf.size(batch["segment_ids"]))

    def evaluate():
        test = [
            records.encode_example({"input_ids": ids, "label": label, "row_id": number}, task.features())
            for number, (ids, label) in enumerate(zip(case["test_examples"], case["test_labels"], strict=True))
        ]
        hits = 0
        for batch in packed_batches(tf.data.Dataset.from_tensor_slices(test), task.features(), 128, packing):
            predicted = tf.argmax(outputs_for(batch)["logits"], axis=-1, output_type=tf.int32)
            hits += int(tf.math.count_nonzero((predicted == batch["label"]) & (batch["example_weights"] > 0)))
        return hits / len(test)

    outputs_for = tf.function(model.outputs_for, reduce_retracing=True)
    protocol.serve(first_loss, next_batch, lambda batch: train_step(batch)["loss"].numpy(), evaluate)


def examples_of(case):
    """Yields the case's training examples as its task has them."""
    for number, ids in enumerate(case["examples"]):
        example = {"input_ids": ids, "row_id": number}
        if "word_tags" in case:
            tags = case["word_tags"][number]
            yield {**example, "tags": tags, "word_starts": [int(tag > 0) for tag in tags]}
        elif "answers" in case:
            start, end = case["answers"][number]
            yield {**example, "token_type_ids": case["token_type_ids"][number], "answer_start": start, "answer_end": end}
        elif "targets" in case:
            yield {**example, "masked_lm_targets": case["targets"][number]}
        else:
            yield {**example, "label": case["labels"][number]}


def load_task(case, options, packing):
    """Returns the case's task."""
    from trainer.tasks import classification, pretraining, question_answering, tagging
    from trainer.text.tokenizer import load_tokenizer

    tokenizer, length = load_tokenizer(options.encoder), packing.row_length
    if "targets" in case:
        return pretraining.Task(pretraining.Config(sentence_objective="none", static_masks=True), tokenizer, length)
    if "answers" in case:
        return question_answering.Task(question_answering.Config(metric="squad_v1.1"), tokenizer, length)
    names = tuple(map(str, range(case["classes"])))
    if "word_tags" in case:
        config = tagging.Config(tag_scheme="plain", entity_types=names, word_splitting="whitespace")
        return tagging.Task(config, tokenizer, length)
    return classification.Task(classification.Config(class_names=names, pooling="pooler"), tokenizer, length)


def load_model(task, case, options):
    """Returns the model, ready to train, with the folder's weights and the case's head."""
    from trainer.models.encoder import BertEncoder
    from trainer.models.initialization import load_encoder_weights, read_bert_config
    from trainer.models.optimizers import AdamW
    from trainer.models.schedules import WarmupDecay
    from trainer.run import experiment, kernels
    from trainer.runtime import distribution

    placement = distribution.choose("default")
    sets = [f"encoder.init_from={options.encoder}", f"train.precision={options.precision}", f"train.kernels={options.kernels}"]
    asked = kernels.with_precision(experiment.load(None, sets), placement)
    bert_config = read_bert_config(options.encoder)
    _, step = kernels.choose_step(asked, bert_config, placement)
    encoder = BertEncoder(bert_config, asked.train.precision, kernels=step.kernels)
    model = task.build_model(encoder)
    of_head = [variable for variable in model.weights if variable.name.startswith("cls/")]
    load_encoder_weights(encoder, options.encoder, head=of_head)
    if "head" in case:
        kernel, bias = model.get_layer("head").trainable_variables
        kernel.assign(case["head"]["kernel"])
        bias.assign(case["head"]["bias"])
    print(step.line, file=sys.stderr)
    model.prepare_training(task, seed=options.seed)
    total = options.total_steps
    rate = WarmupDecay(options.learning_rate, total // 10, total) if total else options.learning_rate
    model.compile(optimizer=AdamW(rate, update_at_once=step.kernels.adamw_update()))
    model.optimizer.build(model.trainable_variables)
    return model


def with_all_positions(work):
    """Returns the work of batches whose every token is one to compute logits for."""
    import tensorflow as tf

    from trainer.data.pipeline import BatchWork

    def finish(batch, _):
        shape = tf.shape(batch["input_ids"])
        batch["masked_lm_weights"] = tf.cast(batch.pop("is_masked"), tf.float32)
        batch["masked_positions"] = tf.broadcast_to(tf.range(shape[1]), shape)
        batch["masked_lm_ids"] = batch.pop("original_ids")
        return batch

    return BatchWork(work.vary, work.spec, finish)


if __name__ == "__main__":
    main()
