"""fewshot: classes from a handful of rows each: the encoder first learns which texts are of one class, then a head is trained.

Tunstall et al. 2022 (SetFit, arXiv:2209.11055): pairs of texts of one class and of two, whose cosine is to be 1 and 0; then a
classifier on the encoder as it is. Both are ordinary runs, in <workdir>/encoder and <workdir>/run.
"""

import dataclasses
import json
import logging
import random
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer import files
from trainer.cli import Options
from trainer.data.labels import label_text
from trainer.data.row_values import text_in
from trainer.data.sources import Row, RowError
from trainer.errors import UserError
from trainer.run import experiment
from trainer.run.own_process import call, keep_flags, train_arguments
from trainer.tasks import classification

log = logging.getLogger(__name__)
PAIRS_FILE, KEYS_FILE = "pairs.jsonl", "keys.json"
PAIRS_KEYS = (
    *("task.name=similarity", "task.text_columns=[text, other]", "task.score_column=alike", "task.score_range=[0, 1]"),
    *("task.loss=cosine_mse", "train.epochs=1", "train.batch_size=64", "train.learning_rate=5e-5"),
)
# The head alone learns, so that a high rate and many epochs cost little and harm nothing.
HEAD_KEYS = (
    "encoder.freeze_layers=-1",
    "task.pooling=mean",
    "train.epochs=30",
    "train.learning_rate=1e-2",
    "train.batch_size=32",
)


def run(options: Options) -> int:
    """Trains what is not trained yet; <workdir>/run is then a run as any other.

    Returns:
      The exit status: of a run that was stopped or failed, else 0.
    """
    workdir = options.required("workdir")
    asked = experiment.load(options.config, options.set)
    if not isinstance(asked.task, classification.Config) or len(asked.task.text_columns) != 1:
        raise UserError("fewshot is for classification of one text; task.name and task.text_columns say something else")
    asked.data.require_rows()
    encoder_dir, run_dir = files.join(workdir, "encoder"), files.join(workdir, "run")
    keys = {"config": options.config, "set": list(options.set), "pairs": options.pairs, "contrastive": options.contrastive}
    told = f"--workdir: {workdir} was run with other flags; choose another, or remove it"
    keep_flags(workdir, KEYS_FILE, keys, lambda _: told)
    pairs = files.join(workdir, PAIRS_FILE)
    if not files.exists(pairs):
        found = list(pairs_of(_texts_by_class(asked), options.pairs, random.Random(asked.train.seed)))
        files.write_json_lines(pairs, found)
        log.info("%s pairs: %s", f"{len(found):,}", pairs)
    encoder = [f"encoder.{name}={json.dumps(value)}" for name, value in _changed(asked.encoder).items()]
    first = [*PAIRS_KEYS, *encoder, f"data.max_seq_length={asked.data.max_seq_length}", f"data.train={pairs}"]
    first += [f"train.seed={asked.train.seed}", *shlex.split(options.contrastive or "")]
    second = [*HEAD_KEYS, *options.set, f"encoder.init_from={encoder_dir}"]
    for arguments in (train_arguments(None, encoder_dir, first), train_arguments(options.config, run_dir, second)):
        status = call(arguments)
        if status:
            log.warning("ended with status %d; rerun the same command to resume", status)
            return status
    print(f"run: {run_dir}")
    return 0


def _changed(section: Any) -> dict[str, Any]:
    """Returns the fields of a section that are not their defaults."""
    fields = dataclasses.fields(section)
    found = {field.name: getattr(section, field.name) for field in fields if getattr(section, field.name) != field.default}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _texts_by_class(asked: experiment.Experiment) -> dict[str, list[str]]:
    """Returns {class: its different training texts}.

    Raises:
      UserError: fewer than two classes.
    """
    found: dict[str, list[str]] = {}
    for row in asked.rows("train"):
        try:
            label = label_text(row.values.get(asked.task.label_column)) if isinstance(row, Row) else None
            if label is not None and isinstance(row, Row):
                found.setdefault(label, []).append(text_in(row, asked.task.text_columns[0]))
        except RowError:
            continue  # the second training names it
    if len(found) < 2:
        raise UserError(f"data.train: {len(found)} class(es) in {asked.task.label_column!r} with a text; two are needed")
    return {label: list(dict.fromkeys(texts)) for label, texts in sorted(found.items())}


def pairs_of(texts: Mapping[str, Sequence[str]], count: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    """Yields for each text `count` pairs with another one of its class, where there is one, and `count` with one of another.

    Args:
      texts: of each class.
      count: pairs of each kind.
      draw: chooses the others.
    """
    classes = list(texts)
    for label, own in texts.items():
        others = [name for name in classes if name != label]
        for place, text in enumerate(own):
            for _ in range(count):
                if len(own) > 1:
                    other = draw.randrange(len(own) - 1)
                    yield {"text": text, "other": own[other + (other >= place)], "alike": 1.0}
                yield {"text": text, "other": draw.choice(texts[draw.choice(others)]), "alike": 0.0}
