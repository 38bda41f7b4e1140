"""The exported string signature says what `predict` says, on a thousand real rows of each task."""

import json

import numpy as np
import pytest

import trainer
from tests.conftest import run_cli
from trainer.data.sources import Row, read_rows
from trainer.serving.export import difference, reload_and_call

ROWS = 1000
CASES = {
    "classification": ("banking77/test.csv", ["task.label_column=category", "train.steps=200"]),
    "regression": (
        "glue/STS-B/dev.tsv",
        ["task.text_columns=[sentence1, sentence2]", "task.target_columns=[score]"],
    ),
    "multi_label": ("goemotions/dev.tsv", ["data.column_names=[text, labels, id]", "task.thresholds=[0.1]"]),
    "tagging": ("wnut17/test.conll", ["data.max_seq_length=48"]),
    "question_answering": ("squad_v1.1_dev_by_article/dev.json", ["data.max_seq_length=192", "task.window_stride_tokens=64"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("task_name", CASES)
def test_a_thousand_real_rows(tmp_path, minilm, shared_data, task_name):
    file, more = CASES[task_name]
    keys = [f"task.name={task_name}", f"encoder.init_from={minilm}", f"data.train={shared_data / file}", "train.steps=40"]
    keys += ["train.learning_rate=2e-4", "train.batch_size=16", *more]
    assert run_cli("train", f"--workdir={tmp_path}/run", *[f"--set={key}" for key in keys]) == 0
    run = trainer.load(str(tmp_path / "run"))
    task = run._restored.assembled.task
    rows = [
        row for row in read_rows(str(shared_data / file), "data.train", run.config.data.source_format()) if isinstance(row, Row)
    ]
    requests = [dict(zip(task.input_columns, task.request_of(row), strict=True)) for row in rows[:ROWS]]
    replies = [task.as_reply(prediction) for prediction in run.predict(requests)]
    expected = {name: [reply[name] for reply in replies] for name in replies[0]}
    columns = zip(task.request_names, zip(*[request.values() for request in requests], strict=True), strict=True)
    request = {"serving_default": {name: {"dtype": "string", "values": list(texts)} for name, texts in columns}}
    reply = reload_and_call(run.export(), request)["serving_default"]
    problem = difference(reply, expected, 1e-4, task.is_tie)
    assert problem is None, problem
    ties = sum(task.is_tie(name, {n: np.asarray(v) for n, v in one.items()}, 2e-4) for one in replies for name in list(one)[:1])
    assert len(requests) >= min(ROWS, len(rows)) and ties < 0.05 * ROWS, "so few ties that the comparison says something"
    assert len({json.dumps(one) for one in replies}) > 0.5 * len(replies), "the replies tell the rows apart"
