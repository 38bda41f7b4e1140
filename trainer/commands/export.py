"""export: restored → served in a graph → reloaded in a clean process and compared → exports/<version> and huggingface/."""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import files
from trainer.cli import Options
from trainer.data.sources import Row, RowError
from trainer.errors import UserError
from trainer.run import assembly, kernels
from trainer.serving.export import TOLERANCE, next_version, requests_for, write_export
from trainer.serving.hugging_face import write_hugging_face
from trainer.serving.reload import OPERATIONS_FILE
from trainer.serving.signatures import ServingModule
from trainer.text.graph_limits import problem_with

log = logging.getLogger(__name__)
COMPARED_TEXTS = 32
# Shapes and characters that a tokenizer can get wrong, compared in addition to the run's own rows.
HARD_TEXTS = (
    "",
    "x",
    "Ünïcödé 你好 ﬁ ½ ß İ …",
    "a [MASK] b[SEP]c",
    "word " * 600,
    "e\u0301\u0323 \u200b\ufeff\u0000 \U0001f600",
)


def run(options: Options) -> None:
    """Writes exports/<version> and huggingface/ in the workdir."""
    workdir = options.required("workdir")
    restored = assembly.restore(workdir, options.set)
    hugging_face = export_hugging_face(restored, workdir)  # first: it needs less than a SavedModel
    folder = export_saved_model(restored, workdir)
    print(f"SavedModel: {folder}")
    if files.exists(files.join(folder, OPERATIONS_FILE)):
        print(f"Operations that a server loads first: {folder}/{OPERATIONS_FILE}")
    print(f"Hugging Face files: {hugging_face}")


def export_hugging_face(restored: assembly.Restored, workdir: str) -> str:
    """Writes the Hugging Face files of a run; returns their folder."""
    folder, task = files.join(workdir, "huggingface"), restored.assembled.task
    head = task.hugging_face_head(restored.assembled.model)
    write_hugging_face(folder, restored.assembled.encoder, restored.tokenizer, *head, task.labels_asset() or ())
    return folder


def export_saved_model(restored: assembly.Restored, workdir: str) -> str:
    """Writes the next version of a run's SavedModel, once a clean process has shown that it equals the model.

    Returns:
      Its folder.

    Raises:
      UserError: it differs from the model, or export.kernels is not available here.
    """
    task, data = restored.assembled.task, restored.experiment.data
    exports = files.join(workdir, "exports")
    log.info("exporting the model of step %s; reading the tokenizer's tables", f"{restored.step:,}")
    serving = kernels.for_export(
        restored.experiment.export,
        restored.assembled.encoder.bert_config,
        restored.experiment.train.precision,
        sum(4 * int(np.prod(variable.shape)) for variable in restored.assembled.model.weights),
    )
    problem = problem_with(restored.tokenizer)
    if problem:
        log.warning("the SavedModel takes token ids, not strings: %s", problem)
    texts = _texts_to_compare(restored)
    model, columns = restored.rebuilt(serving.kernels).model, len(data.text_columns)
    inputs = None if problem else serving.inputs
    module = ServingModule(model, serving.kernels, task, restored.tokenizer, columns, data.max_seq_length, inputs)
    examples = [task.example_of_texts(row) for row in zip(*texts, strict=True)]
    folder = write_export(
        exports,
        next_version(exports),
        module,
        task.labels_asset(),
        requests_for(texts, _padded(examples), takes_strings=inputs is not None),
        _model_reply(restored, examples),
        TOLERANCE[restored.experiment.train.precision],
        task.is_tie,
        serving.library,
    )
    signatures = ", ".join(requests_for([], {}, takes_strings=inputs is not None))
    log.info("reloaded in a clean process: every output of %s equals the model on %d texts", signatures, len(examples))
    return folder


def _padded(examples: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, list[list[int]]]:
    """Returns examples as the rows of a request of token ids."""
    longest = max(len(example["input_ids"]) for example in examples)

    def rows(values: Callable[[Mapping[str, Sequence[int]]], Sequence[int]]) -> list[list[int]]:
        return [[*values(example), *[0] * (longest - len(example["input_ids"]))] for example in examples]

    return {
        "input_ids": rows(lambda example: example["input_ids"]),
        "attention_mask": rows(lambda example: [1] * len(example["input_ids"])),
        "token_type_ids": rows(lambda example: example.get("token_type_ids", [0] * len(example["input_ids"]))),
    }


def _texts_to_compare(restored: assembly.Restored) -> list[list[str]]:
    """Returns for each input its texts: some of the run's own rows, and the hard ones."""
    data, task = restored.experiment.data, restored.assembled.task
    found: list[list[str]] = []
    if not data.sources():
        log.info("compared without the run's own rows: none are named")
    for split in data.sources():
        try:
            usable = (row for row in itertools.islice(restored.experiment.rows(split), 200) if isinstance(row, Row))
            for row in usable:
                try:
                    found.append(task.texts_to_compare(row))
                except RowError:
                    continue
        except UserError as error:
            log.info("compared without the rows of data.%s: %s", split, error)
        if found:
            break
    rows = found[: COMPARED_TEXTS - len(HARD_TEXTS)]
    rows += [[text] * len(data.text_columns) for text in HARD_TEXTS]
    return [list(column) for column in zip(*rows, strict=True)]


def _model_reply(restored: assembly.Restored, examples: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, list]:
    """Returns what the Keras model replies to examples of the Hugging Face tokenizer, one unpadded text at a time."""
    task, model = restored.assembled.task, restored.assembled.model
    replies: list[dict[str, np.ndarray]] = []
    for example in examples:
        ids = tf.constant([example["input_ids"]], tf.int32)
        inputs = {
            "input_ids": ids,
            "token_type_ids": tf.constant([example.get("token_type_ids", [0] * ids.shape[1])], tf.int32),
            "position_ids": tf.range(ids.shape[1])[None],
            "segment_ids": tf.ones_like(ids),
            "cls_positions": tf.zeros([1, 1], tf.int32),
        }
        outputs = {name: value[:, 0] for name, value in task.served(model, inputs).items()}
        replies.append({name: value.numpy()[0] for name, value in task.serving(outputs).items()})
    joined = {name: np.stack([reply[name] for reply in replies]) for name in replies[0]}
    return {name: _decoded(value.tolist()) for name, value in joined.items()}


def _decoded(values: Any) -> Any:
    """Returns nested lists with text where there are bytes."""
    if isinstance(values, list):
        return [_decoded(value) for value in values]
    return values.decode() if isinstance(values, bytes) else values
