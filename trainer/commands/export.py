"""export: restored → served in a graph → reloaded in a clean process and compared → exports/<version> and huggingface/."""

import itertools
import logging
import operator
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from trainer import files
from trainer.cli import Options
from trainer.data.sources import Row, RowError
from trainer.errors import UserError
from trainer.features import Example
from trainer.run import assembly, kernels
from trainer.run.inference import Predictor
from trainer.serving.export import TOLERANCE, next_version, requests_for, write_export
from trainer.serving.hugging_face import write_hugging_face
from trainer.serving.reload import OPERATIONS_FILE
from trainer.serving.signatures import ServingModule
from trainer.tasks.base import Task, Window

log = logging.getLogger(__name__)
COMPARED_ROWS = 32
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
    model = restored.assembled.model
    write_hugging_face(
        folder,
        restored.assembled.encoder,
        restored.tokenizer,
        *task.hugging_face_head(model),
        task.labels_asset() or (),
        task.problem_type,
        task.hugging_face_files(model),
        task.hugging_face_decoder(model),
    )
    return folder


def export_saved_model(restored: assembly.Restored, workdir: str) -> str:
    """Writes the next version of a run's SavedModel, once a clean process has shown that it equals the model.

    Returns:
      Its folder.

    Raises:
      UserError: it differs from the model, or export.kernels is not available here.
    """
    task = restored.assembled.task
    exports = files.join(workdir, "exports")
    log.info("exporting the model of step %s; reading the tokenizer's tables", f"{restored.step:,}")
    serving = kernels.for_export(
        restored.experiment.export,
        restored.assembled.encoder.bert_config,
        restored.experiment.train.precision,
        sum(4 * int(np.prod(variable.shape)) for variable in restored.assembled.model.weights),
    )
    problem = task.graph_problem()
    if problem:
        log.warning("the SavedModel takes token ids, not strings: %s", problem)
    rows = _rows_to_compare(restored)
    model = restored.rebuilt(serving.kernels).model
    inputs = None if problem else serving.inputs
    module = ServingModule(model, serving.kernels, task, inputs)
    columns = zip(task.request_names, task.input_columns, strict=True)
    texts = {name: [row.values[column] for row in rows] for name, column in columns}
    examples = [task.request_examples(row) for row in rows]
    ids = _padded([example for found in examples for example in found], task.request_features)
    requests = requests_for(texts, ids, inputs is not None, task.text_signatures)
    of_rows = list(Predictor(restored).windows_of(list(zip(rows, examples, strict=True))))
    replies = _reply_of_predictions(task, of_rows)
    expected = dict.fromkeys(requests, replies)
    if task.has_windows:
        of_ids = _results_of(window for _, found in of_rows for window in found)
        expected |= {signature: of_ids for signature, request in requests.items() if "input_ids" in request}
    for signature, number in task.text_signatures.items():
        expected[signature] = _results_of(found[number] for _, found in of_rows)
    folder = write_export(
        exports,
        next_version(exports),
        module,
        task.labels_asset(),
        requests,
        expected,
        TOLERANCE[restored.experiment.train.precision],
        task.is_tie,
        serving.library,
    )
    signatures = ", ".join(requests)
    log.info("reloaded in a clean process: every output of %s equals the predictions of %d rows", signatures, len(rows))
    return folder


def _padded(examples: Sequence[Example], others: Sequence[str]) -> dict[str, list[list[int]]]:
    """Returns examples as the rows of a request of token ids and other token-level features."""
    longest = max(len(example["input_ids"]) for example in examples)

    def rows(values: Callable[[Example], Sequence[int]]) -> list[list[int]]:
        return [[*values(example), *[0] * (longest - len(example["input_ids"]))] for example in examples]

    return {
        "input_ids": rows(lambda example: example["input_ids"]),
        "attention_mask": rows(lambda example: [1] * len(example["input_ids"])),
        "token_type_ids": rows(lambda example: example.get("token_type_ids", [0] * len(example["input_ids"]))),
        **{name: rows(operator.itemgetter(name)) for name in others},
    }


def _rows_to_compare(restored: assembly.Restored) -> list[Row]:
    """Returns rows as a request would hold them: some of the run's own, and the hard ones."""
    data, task = restored.experiment.data, restored.assembled.task
    found: list[list[str]] = []
    if not data.sources():
        log.info("compared without the run's own rows: none are named")
    for split in data.sources():
        try:
            usable = (row for row in itertools.islice(restored.experiment.rows(split), 200) if isinstance(row, Row))
            for row in usable:
                try:
                    found.append(task.request_of(row))
                except RowError:
                    continue
        except UserError as error:
            log.info("compared without the rows of data.%s: %s", split, error)
        if found:
            break
    texts = found[: COMPARED_ROWS - len(HARD_TEXTS)]
    texts += [[text] * len(task.input_columns) for text in HARD_TEXTS]
    return [Row(dict(zip(task.input_columns, row, strict=True)), "request", number) for number, row in enumerate(texts, 1)]


def _reply_of_predictions(task: Task, of_rows: Sequence[tuple[Row, list[Window]]]) -> dict[str, list]:
    """Returns what `predict` says of rows, given with their windows, as a reply."""
    replies = [task.as_reply(task.decode(row, windows)) for row, windows in of_rows]
    return {name: [reply[name] for reply in replies] for name in replies[0]}


def _results_of(windows: Iterable[Window]) -> dict[str, list]:
    """Returns the results of windows, one after the other."""
    found = list(windows)
    return {name: [window.outputs[name].tolist() for window in found] for name in found[0].outputs}
