"""export: restored → served in a graph → reloaded in a clean process and compared → exports/<version> and huggingface/."""

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import assembly, files
from trainer.cli import Options
from trainer.data.sources import Row, RowError
from trainer.errors import UserError
from trainer.models.native_forward import unfit
from trainer.runtime.native import kernels
from trainer.serving.export import next_version, write_export
from trainer.serving.hugging_face import write_hugging_face
from trainer.serving.reload import OPERATIONS_FILE
from trainer.serving.signatures import ServingModule

log = logging.getLogger(__name__)
COMPARED_TEXTS = 32
# Shapes and characters that a tokenizer can get wrong, compared beside the run's own rows.
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
    task, data = restored.assembled.task, restored.experiment.data
    texts = _texts_to_compare(restored)
    exports = files.join(workdir, "exports")
    log.info("exporting the model of step %s; reading the tokenizer's tables", f"{restored.step:,}")
    library = _operations(restored)
    module = ServingModule(
        restored.assembled.model, task, restored.tokenizer, len(data.text_columns), data.max_seq_length, library is not None
    )
    expected = _model_reply(restored, texts)
    folder = write_export(
        exports,
        next_version(exports),
        module,
        task.labels_asset(),
        texts,
        expected,
        restored.experiment.train.precision,
        library,
    )
    log.info("reloaded in a clean process: equal to the model on %d texts, as strings and as tf.Examples", len(texts[0]))
    hugging_face = files.join(workdir, "huggingface")
    write_hugging_face(
        hugging_face,
        restored.assembled.encoder,
        restored.tokenizer,
        *task.hugging_face_head(restored.assembled.model),
        task.labels_asset() or (),
    )
    print(f"SavedModel: {folder}")
    if library is not None:
        print(f"Operations that a server loads first: {folder}/{OPERATIONS_FILE}")
    print(f"Hugging Face files: {hugging_face}")


def _operations(restored: assembly.Restored) -> Path | None:
    """Returns the library of our own operations, where the export is to run by them.

    Raises:
      UserError: they cannot be had for this model, or here.
    """
    if restored.experiment.export.kernels == "tensorflow":
        return None
    problem = unfit(restored.assembled.encoder.bert_config, restored.experiment.train.precision, "inference")
    if problem:
        raise UserError(f"export.kernels=native: {problem}; export.kernels=tensorflow needs none")
    return kernels("inference").library


def _texts_to_compare(restored: assembly.Restored) -> list[list[str]]:
    """Returns for each input its texts: some of the run's own rows, and the hard ones."""
    data, task = restored.experiment.data, restored.assembled.task
    found: list[list[str]] = []
    if not data.sources():
        log.info("compared without rows of the run: none are named")
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


def _model_reply(restored: assembly.Restored, texts: list[list[str]]) -> dict[str, list]:
    """Returns what the Keras model replies, fed through the Hugging Face tokenizer, one unpadded text at a time."""
    task, model = restored.assembled.task, restored.assembled.model
    replies: list[dict[str, np.ndarray]] = []
    for row in zip(*texts, strict=True):
        example = task.example_of_texts(row)
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
