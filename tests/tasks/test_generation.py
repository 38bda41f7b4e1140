"""Generation: the contract, what rows become, what is refused, what a text's alternatives are."""

import json

import numpy as np
import pytest

from tests.conftest import run_cli
from tests.tasks.contract import WHOLE_STORY, TaskContract
from trainer.config import FieldError
from trainer.data.sources import Row, RowError
from trainer.data.table import Table, UnrecognizedError
from trainer.tasks.base import Window
from trainer.tasks.generation import Config, Task

PAIRS = [
    ("Ein Mann schläft.", "A man sleeps."),
    ("Zwei Hunde spielen im Schnee.", "Two dogs play in the snow."),
    ("Eine Frau im T-Shirt lacht.", "A woman in a t-shirt laughs."),
    ("Kinder rennen über die Straße.", "Children run across the street."),
]


class TestTranslation(TaskContract):
    slow = (WHOLE_STORY,)
    name = "generation"
    config = {"text_columns": ("de",), "target_column": "en", "max_new_tokens": 12, "label_smoothing": 0.0, "num_beams": 3}
    rows = [{"de": source, "en": target} for source, target in PAIRS]


class TestDrawn(TaskContract):
    is_variant = True
    slow = ("test_packed_equals_unpacked_and_padding_changes_nothing",)
    name = "generation"
    config = {
        "text_columns": ("de", "hint"),
        "target_column": "en",
        "max_new_tokens": 8,
        "label_smoothing": 0.0,
        "do_sample": True,
        "top_k": 5,
        "num_return_sequences": 2,
        "share_embeddings": False,
        "decoder_layers": 2,
        "decoder_init_from": "random",
    }
    rows = [{"de": source, "hint": "kurz", "en": [target, target.upper()]} for source, target in PAIRS]


def task_of(tokenizer, **config):
    return Task(Config(**config), tokenizer, 32)


def test_what_a_target_becomes(tokenizer):
    task = task_of(tokenizer, max_new_tokens=6)
    (example,) = task.examples(Row({"source": "x", "target": "a t-shirt is not a coat"}, "f", 1))
    said = example["target_labels"]
    assert example["target_input_ids"] == [tokenizer.cls_id, *said[:-1]] and said[-1] == tokenizer.sep_id and len(said) == 6
    (example,) = task.examples(Row({"source": "x"}, "f", 1), labelled=False)
    assert example["target_input_ids"] == [tokenizer.cls_id] and len(example["target_labels"]) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "x"}, "no column 'target'; the row has 'source'"),
        ({"source": "x", "target": []}, "column 'target' holds no text"),
        ({"source": "x", "target": ["a", 3]}, "an entry of 'target' is a int where text belongs"),
        ({"source": " ", "target": "a"}, "the text in column 'source' is empty"),
    ],
)
def test_rows_that_cannot_be_used(tokenizer, values, message):
    with pytest.raises(RowError, match=message.replace("[", r"\[")):
        task_of(tokenizer).examples(Row(values, "f", 1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_return_sequences": 5}, "5 is more than task.num_beams=4"),
        ({"top_p": 0.5}, "is of drawing; it needs task.do_sample=true"),
        ({"temperature": 0.0}, "must be over 0"),
        ({"top_p": 0.0, "do_sample": True}, r"must be in \(0, 1\]"),
        ({"max_new_tokens": 1}, "must be 2 or more"),
        ({"min_new_tokens": 80}, "is over task.max_new_tokens"),
        ({"label_smoothing": 1.0}, r"must be in \[0, 1\)"),
        ({"decoder_layers": 0}, "must be 1 or more, got 0"),
        ({"top_k": -1, "do_sample": True}, "must be 0 or more, got -1"),
        ({"target_column": "source"}, "'source' is listed twice"),
    ],
)
def test_settings_that_cannot_be(config, message):
    with pytest.raises(FieldError, match=message):
        Config(**config)


def test_files_that_init_recognizes():
    pairs = [{"de": source, "en": target} for source, target in PAIRS]
    proposal = Task.recognize(Table("pairs.csv", pairs, [], "", "auto", "auto"))
    assert proposal.task == {"text_columns": '["de"]', "target_column": '"en"'}
    summaries = [{"document": source, "summary": target} for source, target in PAIRS]
    assert Task.recognize(Table("s.csv", summaries, [], "", "auto", "auto")).task["selection_score"] == "rougeL"
    with pytest.raises(UnrecognizedError, match="no column of texts to read"):
        Task.recognize(Table("t.csv", [{"text": "a", "label": "b"}], [], "", "auto", "auto"))


def test_scores_and_alternatives(tokenizer):
    task = task_of(tokenizer, num_return_sequences=2)
    ids = [task._target_text.ids("a man sleeps."), task._target_text.ids("a man")]
    sequences = np.zeros([2, 8], np.float32)
    for number, one in enumerate(ids):
        sequences[number, : len(one)] = one
    outputs = {"sequences": sequences, "scores": np.array([-0.5, -0.7]), "margin": np.float32(0.2)}
    outputs |= {"target_loss": np.float32(6.0), "target_tokens": np.float32(3.0)}
    window = Window(outputs, {})
    prediction = task.decode(Row({}, "", 0), [window])
    assert prediction["text"] == "a man sleeps." and prediction["alternatives"] == ["a man sleeps.", "a man"]
    scores = task.score([(Row({"references": ["A man sleeps.", "He sleeps."]}, "", 0), [window])] * 2)
    assert [scores["bleu"], scores["chrf"], scores["rouge1"]] == pytest.approx([100.0, 100.0, 1.0])
    assert scores["loss"] == pytest.approx(2.0) and scores["perplexity"] == pytest.approx(np.exp(2.0))


def test_parallel_files_a_second_checkpoint_and_another_search(tmp_path, tiny_encoder):
    """Text files line by line; the decoder from a checkpoint of its own; a search that `predict` changes."""
    for name, side in (("de", 0), ("en", 1)):
        (tmp_path / f"train.{name}").write_text("".join(f"{pair[side]}\n" for pair in PAIRS * 4))
    keys = {
        "task.name": "generation",
        "task.text_columns": '["de"]',
        "task.target_column": "en",
        "encoder.init_from": tiny_encoder,
    }
    keys |= {"task.decoder_init_from": tiny_encoder, "task.max_new_tokens": 8, "data.train": f"{tmp_path}/train.{{de,en}}"}
    keys |= {
        "data.validation": f"{tmp_path}/train.{{de,en}}",
        "data.max_seq_length": 32,
        "train.steps": 2,
        "train.batch_size": 4,
    }
    assert run_cli("train", f"--workdir={tmp_path}/run", *[f"--set={key}={value}" for key, value in keys.items()]) == 0
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"de": source}) + "\n" for source, _ in PAIRS))
    asked = ["--set=task.num_beams=3", "--set=task.num_return_sequences=3"]
    assert run_cli("predict", f"--workdir={tmp_path}/run", f"--input={rows}", f"--output={tmp_path}/out.jsonl", *asked) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [len(line["alternatives"]) for line in lines] == [3] * len(PAIRS)
    assert all(line["alternative_scores"] == sorted(line["alternative_scores"], reverse=True) for line in lines)
