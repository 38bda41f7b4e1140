"""Extractive summaries: the contract, windows of sentences, labels given and found, blocking, scores, real papers."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.contract import LENGTH, WHOLE_STORY, TaskContract
from trainer.config import FieldError
from trainer.data.sources import Row, RowError
from trainer.data.table import Table, UnrecognizedError
from trainer.tasks import extractive_summary
from trainer.tasks.base import Window
from trainer.tasks.extractive_summary import Config, Task, _graph_sentences

PAPERS = [
    (["We train a small model.", "It is fast.", "Nobody knows why."], "A small model is fast."),
    (["Cats sleep.", "Dogs bark at night, mostly."], "Dogs bark."),
    (["One sentence only."], "One sentence."),
    (["The sea rose.", "The sea fell.", "The sea rose again."], ["The tide.", "The sea rose."]),
]


class TestSentences(TaskContract):
    slow = (WHOLE_STORY,)
    name = "extractive_summary"
    config = {"head_dropout_rate": 0.0, "summary_sentences": 2}
    rows = [{"document": document, "summary": summary} for document, summary in PAPERS]
    long_row = {
        "document": [f"This is sentence number {n} of a long text." for n in range(12)],
        "summary": "number 7 of a text",
    }


class TestLines(TaskContract):
    is_variant = True
    name = "extractive_summary"
    config = {
        "head_dropout_rate": 0.0,
        "document_column": "text",
        "summary_column": "target",
        "labels_column": "labels",
        "summary_sentences": 1,
        "block_trigrams": False,
        "pooling": "cls",
        "rouge_words": "any_language",
    }
    rows = [
        {"text": "\n".join([*document, "End."]), "target": summary, "labels": [1] + [0] * len(document)}
        for document, summary in PAPERS
    ]
    long_row = {
        "text": "\n".join(f"This is sentence number {n} of a long text." for n in range(12)),
        "target": "number 7 of a text",
        "labels": [0] * 7 + [1] + [0] * 4,
    }


def task_of(tokenizer, **config):
    return Task(Config(**config), tokenizer, LENGTH)


def test_sentences_are_framed_and_labelled(tokenizer):
    task = task_of(tokenizer)
    (example,) = task.examples(Row({"document": ["A cat.", "It is late.", "A dog."], "summary": "a dog and a cat"}, "f", 1))
    ids, starts = example["input_ids"], np.array(example["sentence_targets"])
    places = np.flatnonzero(starts)
    assert [ids[place] for place in places] == [tokenizer.cls_id] * 3 and starts[places].tolist() == [2, 1, 2]
    assert [example["token_type_ids"][place] for place in places] == [0, 1, 0]
    assert ids.count(tokenizer.sep_id) == 3


def test_labels_that_are_given(tokenizer):
    task = task_of(tokenizer, labels_column="labels", summary_column=None)
    (example,) = task.examples(Row({"document": ["a", "b"], "labels": [0, 1]}, "f", 1))
    assert [target for target in example["sentence_targets"] if target] == [1, 2]
    assert "rouge1" in task.score(iter([(Row({"sentences": ["a"], "references": []}, "", 0), [window(0.9, labels=[1])])]))


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        ({}, {"document": []}, "column 'document' has no sentence"),
        ({}, {"document": [" ", ""]}, "column 'document' has no sentence"),
        ({}, {"document": ["a", 3]}, "a sentence of 'document' is a int where text belongs"),
        ({}, {"document": 7}, "the value of 'document' is a int where text belongs"),
        ({}, {"summary": " "}, "the text in column 'summary' is empty"),
        ({}, {"summary": ["a", None]}, "an entry of 'summary' is a NoneType where text belongs"),
        ({"labels_column": "l"}, {"l": [1]}, "1 labels in 'l' for 2 sentences"),
        ({"labels_column": "l"}, {"l": [1, 2]}, "column 'l' is no list of 0 and 1"),
        ({"labels_column": "l"}, {}, "no column 'l'"),
    ],
)
def test_rows_that_cannot_be_used(tokenizer, config, values, message):
    with pytest.raises(RowError, match=message):
        task_of(tokenizer, **config).examples(Row({"document": ["a b", "c"], "summary": "x", **values}, "f", 1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"summary_sentences": 0}, "must be 1 or more, got 0"),
        ({"summary_column": None}, "needed where there is no task.labels_column"),
    ],
)
def test_configs_that_cannot_be(config, message):
    with pytest.raises(FieldError, match=message):
        Config(**config)


def window(*scores, labels=()):
    """A window of sentences of three tokens each."""
    outputs = {"score": [part for score in scores for part in (score, -1.0, -1.0)]}
    outputs["target"] = [part for label in labels for part in (1 + label, 0, 0)]
    return Window({name: np.array(values, np.float32) for name, values in outputs.items()}, {})


def test_a_sentences_logit_is_the_mean_of_its_tokens(tokenizer):
    """Two packed texts, of two sentences and of one, and padding."""
    batch = {
        "sentence_targets": tf.constant([[1, 0, 2, 0, 0, 1, 0, 0]]),
        "segment_ids": tf.constant([[1, 1, 1, 1, 1, 2, 2, 0]]),
    }
    logits = tf.constant([[1.0, 3.0, 1.0, 2.0, 6.0, -1.0, 2.0, 99.0]])
    found = task_of(tokenizer)._logits(batch, {"logits": logits}).numpy()[0]
    assert found[[0, 2, 5]].tolist() == [2.0, 3.0, 0.5]
    assert task_of(tokenizer, pooling="cls")._logits(batch, {"logits": logits}) is logits


def test_a_sentence_that_repeats_a_better_one_is_left_out(tokenizer):
    row = Row({"document": ["the old red house burned", "the old red car", "a new one", "rain"], "summary": "x"}, "f", 1)
    scores = [0.9, 0.8, 0.7, 0.95]
    found = task_of(tokenizer, summary_sentences=3).decode(row, [window(*scores[:2]), window(*scores[2:])])
    assert found["sentences"] == [0, 2, 3] and found["summary"] == "the old red house burned a new one rain"
    assert found["scores"] == pytest.approx(scores)
    plain = task_of(tokenizer, summary_sentences=3, block_trigrams=False)
    assert plain.decode(row, [window(*scores)])["sentences"] == [0, 1, 3]


def test_scores_beside_the_first_sentences_and_the_best(tokenizer):
    kept = {"sentences": ["a b c", "d e f", "g h i"], "references": ["d e f"]}
    task = task_of(tokenizer, summary_sentences=1)
    scores = task.score(
        iter(
            [
                (Row(kept, "", 0), [window(0.1, 0.4, 0.3, labels=[0, 1, 0])]),
                (Row(kept, "", 0), [window(0.1, 0.4, 0.6, labels=[0, 1, 0])]),
            ]
        )
    )
    assert scores["rouge1"] == 0.5 and scores["lead"]["rouge1"] == 0.0 and scores["oracle"]["rougeL"] == 1.0
    assert scores["sentence_accuracy"] == pytest.approx(3 / 6) and scores["rows"] == 2


@pytest.mark.parametrize("lengths", [[5, 4, 8, 2], [32], [10] * 9, [3, 30, 3, 30, 3]])
def test_windows_in_the_graph(lengths):
    expected = extractive_summary._windows(lengths, 32)
    two_rows = tf.constant([*lengths, *lengths]), tf.constant([0] * len(lengths) + [1] * len(lengths))
    window_of, place = (values.numpy() for values in extractive_summary._graph_windows(*two_rows, 32))
    sizes = [end - first for first, end in expected] * 2
    assert window_of.tolist() == np.repeat(np.arange(len(sizes)), sizes).tolist()
    assert place.tolist() == [number for size in sizes for number in range(size)]


def test_recognized_by_its_columns():
    paper = {"source": ["a b", "c"], "source_labels": [1, 0], "target": ["a"]}
    found = Task.recognize(Table("f", [paper] * 3, []))
    assert found.certainty == 3 and found.task == {
        "document_column": '"source"', "summary_column": '"target"', "labels_column": '"source_labels"',
    }  # fmt: skip
    assert Task.recognize(Table("f", [{"article": "a b", "highlights": "c"}] * 3, [])).certainty == 1
    with pytest.raises(UnrecognizedError, match="no document with its summary"):
        Task.recognize(Table("f", [{"text": "a", "label": "c"}] * 3, []))


def test_real_papers(shared_data, tokenizer):
    config = Config(document_column="source", summary_column="target", labels_column="source_labels", summary_sentences=1)
    task = Task(config, tokenizer, 256)
    with open(shared_data / "scitldr/dev.jsonl", encoding="utf8") as file:
        rows = [Row(json.loads(line), "dev", number) for number, line in enumerate(file, start=1)]
    sentences = [sum(len(np.flatnonzero(e["sentence_targets"])) for e in task.examples(row)) for row in rows[:100]]
    assert sentences == [len(row.values["source"]) for row in rows[:100]], "no sentence is lost"


def test_blank_lines_of_a_request_are_no_sentences():
    texts = ["a\n\n b \r\n \u3000\x1c\u2028\nc", "", "\n \n", "one"]
    found = [[line.decode() for line in row] for row in _graph_sentences(tf.constant(texts)).to_list()]
    assert found == [["a", " b \r", "c"], [""], [""], ["one"]]
    for text, lines in zip(texts, found, strict=True):
        assert lines == ([line for line in text.split("\n") if line.strip()] or text.split("\n")[:1])
