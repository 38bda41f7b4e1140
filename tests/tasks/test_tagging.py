"""Tagging: the contract, words and windows, schemes, learning, and what cannot be used."""

import collections
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.contract import LENGTH, TaskContract
from tests.text.learned_tokenizers import byte_pairs, unigram
from trainer.config import FieldError
from trainer.data.sources import Row, RowError
from trainer.errors import NothingToLearnError, UserError
from trainer.run import experiment
from trainer.tasks.base import Window
from trainer.tasks.tagging import Config, Task

LEARNED = {"tag_scheme": "IOB2", "word_splitting": "edges", "head_dropout_rate": 0.0, "window_overlap_tokens": 8}
SENTENCES = [
    ("Tim Cook leads Apple .", "B-PER I-PER O B-ORG O"),
    ("He moved to New York City", "O O O B-LOC I-LOC I-LOC"),
    ("Nobody knows", "O O"),
    ("Apple Inc. hired Unaffable Smith !", "B-ORG I-ORG O B-PER I-PER O"),
]
LONG = [(f"{a} {b}", f"{c} {d}") for (a, c), (b, d) in zip(SENTENCES * 4, SENTENCES[1:] * 6, strict=False)]


def row_of(words, tags):
    return {"tokens": words.split(), "tags": tags.split(), "text": words}


class TestEntities(TaskContract):
    is_typical = True
    name = "tagging"
    config = {**LEARNED, "entity_types": ("LOC", "ORG", "PER")}
    rows = [row_of(*sentence) for sentence in SENTENCES]
    long_row = row_of(" ".join(words for words, _ in LONG), " ".join(tags for _, tags in LONG))


class TestCrfOnTexts(TaskContract):
    is_variant = True
    name = "tagging"
    config = {**LEARNED, "entity_types": ("LOC", "PER"), "crf": True, "tag_scheme": "BIOES"}
    rows = [
        {
            "text": "Tim Cook met (Ann) in Paris.",
            "spans": [{"start": 0, "end": 8, "label": "PER"}, [14, 17, "PER"], [22, 27, "LOC"]],
        },
        {"text": "我在北京。", "spans": [{"start": 2, "end": 4, "label": "LOC"}]},
        {"text": "nothing here", "spans": []},
        {"text": "😀 Zoë — naïve", "spans": [{"start": 2, "end": 5, "type": "PER"}]},
    ]
    long_row = {"text": "Ann Lee saw the city of Rome. " * 12, "spans": [[30 * n, 30 * n + 7, "PER"] for n in range(12)]}


class TestPartsOfSpeech(TaskContract):
    is_variant = True
    name = "tagging"
    config = {**LEARNED, "entity_types": ("ADP", "NOUN", "VERB"), "tag_scheme": "plain"}
    rows = [row_of("dogs run", "NOUN VERB"), row_of("in", "ADP"), row_of("cats sleep in houses", "NOUN VERB ADP NOUN")] * 2
    long_row = row_of("dogs run in houses " * 15, "NOUN VERB ADP NOUN " * 15)


def task_of(tokenizer, length=LENGTH, **config):
    return Task(Config(**{**LEARNED, "entity_types": ("LOC", "PER"), **config}), tokenizer, length)


def tagged(*sentences):
    return [Row(row_of(*sentence), "f.conll", number) for number, sentence in enumerate(sentences, 1)]


def outputs_of(task, row, tags):
    """Windows whose model was sure of these tags, a number for each word."""
    windows, rest = [], list(tags)
    for example in task.examples(row, labelled=False):
        starts = np.array(example["word_starts"], np.float32)
        tag = np.zeros(len(starts), np.float32)
        for place in np.flatnonzero(starts):
            tag[place] = rest.pop(0)
        full = np.full(len(starts), 0.75, np.float32)
        windows.append(Window({"tag": tag, "probability": full, "margin": full / 2, "word_starts": starts}, {}))
    assert not rest
    return windows


def test_scheme_types_and_words_are_learned():
    rows = tagged(("Ann saw Bo", "I-PER O I-PER"), ("in Rome", "O I-LOC"))
    found = Task.learn(Config(), rows)
    assert (found.tag_scheme, found.entity_types, found.word_splitting) == ("IOB1", ("LOC", "PER"), "edges")
    assert found.tag_names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER") and Task.to_learn(found) == ()
    given_types = Task.learn(Config(entity_types=("PER", "X")), rows)
    assert given_types.entity_types == ("PER", "X"), "what is given stays"
    assert Task.learn(Config(), tagged(("a b", "DET NOUN"))).tag_names == ("DET", "NOUN")
    spans = [Row({"text": "Ann", "spans": [[0, 3, "PER"]]}, "f", 1)]
    assert Task.learn(Config(), spans).word_splitting == "punctuation" and Task.learn(Config(), spans).tag_scheme == "IOB2"
    with pytest.raises(
        NothingToLearnError, match="no row has an entity in the columns 'tags' or 'spans'; the first of them, f:1"
    ):
        Task.learn(Config(), [Row({"text": "x"}, "f", 1)])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "neither a column 'tokens' of words nor 'text'; the row has nothing"),
        ({"tokens": ["a"]}, "no column 'spans'; the row has 'tokens'"),
        ({"tokens": ["a"], "tags": ["O", "O"]}, "2 tags for 1 words"),
        ({"tokens": ["a"], "tags": ["B-FOO"]}, "tag 'B-FOO' is not one of those of data.train: O, B-LOC, I-LOC"),
        ({"tokens": ["a"], "tags": ["X-PER"]}, "tag 'X-PER' is not of the scheme IOB2"),
        ({"tokens": [], "tags": []}, "column 'tokens' is an empty list"),
        ({"tokens": "a b", "tags": ["O"]}, "column 'tokens' holds 'a b' where a list of words belongs"),
        ({"tokens": ["a"], "tags": [0]}, r"column 'tags' holds numbers; task.numbered_tags says what they stand for, as \[O"),
        ({"text": " \n", "spans": []}, "the text in column 'text' is empty"),
        ({"text": "\u200b", "spans": []}, "the text has no word"),
        ({"text": "Ann", "spans": [[0, 3]]}, r"column 'spans': '\[0, 3\]' is no span; write"),
        ({"text": "Ann", "spans": [[3, 3, "PER"]]}, r"is no span with a start before its end and a label"),
        ({"text": "Ann", "spans": "x"}, "column 'spans': 'None' is no span"),
        ({"text": "Ann", "spans": [[5, 9, "PER"]]}, r"the span 5 to 9 \(PER\) holds no word; the text has 3 characters"),
        ({"text": "Ann Lee", "spans": [[0, 3, "PER"], [2, 7, "LOC"]]}, r"the span 2 to 7 \(LOC\) overlaps another"),
    ],
)
def test_rows_that_cannot_be_used(tokenizer, values, reason):
    with pytest.raises(RowError, match=reason):
        task_of(tokenizer).examples(Row(values, "f", 1))


def test_numbers_stand_for_tags():
    config = Config(numbered_tags=("O", "B-PER", "I-PER"), tags_column="ner_tags")
    learned = Task.learn(config, [Row({"tokens": ["Ann", "Lee", "ran"], "ner_tags": [1, 2, 0]}, "f", 1)])
    assert (learned.tag_scheme, learned.entity_types) == ("IOB2", ("PER",))
    with pytest.raises(NothingToLearnError, match="f:1: tag 3 is no number of task.numbered_tags, which has 3"):
        Task.learn(config, [Row({"tokens": ["Ann"], "ner_tags": [3]}, "f", 1)])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"entity_types": ("a", "a")}, "'a' is listed twice"),
        ({"head_dropout_rate": 1.0}, r"must be in \[0, 1\), got 1.0"),
        ({"window_overlap_tokens": -1}, "must be 0 or more, got -1"),
    ],
)
def test_contradictions_are_refused(config, message):
    with pytest.raises(FieldError, match=message):
        Config(**config)


def test_labels_stand_at_first_pieces_and_each_word_counts_once(tokenizer):
    task = task_of(tokenizer, length=12, window_overlap_tokens=4)
    words, tags = "unaffable Ann " * 10, "O B-PER " * 10
    (row,) = tagged((words, tags))
    examples = task.examples(row)
    assert len(examples) > 2
    counted = [
        tag for example in examples for tag, begins in zip(example["tags"], example["word_starts"], strict=True) if begins
    ]
    assert counted == [1, 4] * 10, "the tags' numbers and 1, each word in one window"
    for example in examples:
        assert len(example["input_ids"]) <= 12
        assert all(begins or not tag for tag, begins in zip(example["tags"], example["word_starts"], strict=True))


@pytest.mark.parametrize("made", [byte_pairs, unigram])
@pytest.mark.parametrize("words", ["Tim Cook leads Apple", "He said : yes !", "吃 饭 in Berlin", "a\u3000b 😀 ( x )"])
def test_words_have_the_pieces_that_they_have_in_a_text(made, words):
    """With spaces inside of tokens, as byte-level BPE and SentencePiece have them."""
    task = task_of(made())
    given = task._words_of(Row({"tokens": words.split(" ")}, "f", 1))
    cut = task._words_of(Row({"text": words}, "f", 2))
    assert given.ids == cut.ids
    assert given.texts() == words.split(" ") and sum(given.starts) == len(given.spans)
    if "\u3000" not in words:
        assert cut.spans == given.spans and cut.starts == given.starts


def test_predictions_are_entities_in_the_files_scheme(tokenizer):
    row = Row({"tokens": ["Ann", "Lee", "saw", "New", "York"]}, "f", 1)
    task = task_of(tokenizer, tag_scheme="BILOU")
    names = task.config.tag_names
    tags = [names.index(tag) for tag in ("B-PER", "E-PER", "O", "B-LOC", "E-LOC")]
    found = task.decode(row, outputs_of(task, row, tags))
    assert found["entities"] == [
        {"text": "Ann Lee", "label": "PER", "start": 0, "end": 7, "probability": 0.75},
        {"text": "New York", "label": "LOC", "start": 12, "end": 20, "probability": 0.75},
    ]
    assert found["tags"] == ["B-PER", "L-PER", "O", "B-LOC", "L-LOC"] and found["margin"] == 0.375
    assert found["words"] == row.values["tokens"]


def test_sequences_that_no_scheme_allows_are_repaired(tokenizer):
    """As conlleval reads them: an I after O, or after another type, begins an entity."""
    row = Row({"tokens": ["a", "b", "c", "d"]}, "f", 1)
    task = task_of(tokenizer)
    tags = [task.config.tag_names.index(tag) for tag in ("O", "I-PER", "I-LOC", "I-LOC")]
    assert task.decode(row, outputs_of(task, row, tags))["tags"] == ["O", "B-PER", "B-LOC", "I-LOC"]


def test_tags_that_no_scheme_allows_are_counted(tokenizer):
    task, counts = task_of(tokenizer), collections.Counter()
    rows = tagged(("Ann saw Bo", "I-PER O B-PER"), ("in Rome", "O B-LOC"))
    assert [number for number, _ in task.chunk_examples(rows, "x", counts)] == [0, 1] and counts == {"tags_out_of_scheme": 1}
    (remark,) = task.remarks({"special_cases": counts})
    assert remark == "1 tags are not what IOB2 allows at their place; they are read as conlleval reads them"


def test_a_text_counts_where_the_words_are_null(tokenizer):
    row = Row({"text": "Fly to Rome", "tokens": None}, "f", 1)
    task = task_of(tokenizer)
    assert sum(task.examples(row, labelled=False)[0]["word_starts"]) == 3
    assert task._words_of(Row({"tokens": np.array([b"Rome"])}, "f", 1)).texts() == ["Rome"], "as TensorFlow datasets have them"


def test_scores_count_entities(tokenizer):
    task = task_of(tokenizer)
    rows = tagged(("Ann saw Bo", "B-PER O B-PER"), ("in Rome", "O B-LOC"))
    predicted = [[3, 0, 4], [0, 1]]  # the second PER by I-PER: repaired, but not strict
    scored = [
        (row._replace(values=task.kept(row)), outputs_of(task, row, tags)) for row, tags in zip(rows, predicted, strict=True)
    ]
    scores = task.score(iter(scored))
    assert (scores["f1"], scores["entities"], scores["examples"]) == (1.0, 3, 2)
    assert scores["strict"]["recall"] == pytest.approx(2 / 3) and scores["token_accuracy"] == pytest.approx(4 / 5)
    assert scores["per_type"]["LOC"]["f1"] == 1.0


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab中é\u0301 .,'\u200b😀\n-", min_size=1, max_size=90))
def test_any_text_gives_words_that_stand_in_it(tokenizer, text):
    task = task_of(tokenizer, length=16, window_overlap_tokens=4)
    row = Row({"text": text}, "f", 1)
    try:
        examples = task.examples(row, labelled=False)
    except RowError:
        assert not text.strip() or not tokenizer.encode(text)
        return
    words = sum(sum(example["word_starts"]) for example in examples)
    found = task.decode(row, outputs_of(task, row, [3] * words))
    assert len(found["words"]) == len(found["entities"]) == words
    assert all(text[entity["start"] : entity["end"]] == entity["text"] != "" for entity in found["entities"])


def test_a_conll_file_from_init_to_prediction(cli, tmp_path, tiny_encoder):
    """A newcomer's way: a file, init, train with a share held out by document, predict raw text and a CoNLL file."""
    sentence = "-DOCSTART- O\n\n" + "".join(f"{w} {t}\n" for w, t in zip(*map(str.split, SENTENCES[0]), strict=True)) + "\n"
    (tmp_path / "ner.conll").write_text(sentence * 40)
    status, out, _ = cli("init", f"--from={tmp_path}/ner.conll", f"--output={tmp_path}/c.yaml", f"--encoder={tiny_encoder}")
    assert status == 0 and "tags: IOB2; 2 types, as ORG, PER" in out
    loaded = experiment.load(f"{tmp_path}/c.yaml")
    assert loaded.task.name == "tagging" and loaded.data.max_seq_length == 128 and loaded.data.holdout_column == "document"
    keys = ["data.validation=25%", "train.epochs=1", "train.best_score=strict.f1"]
    run = f"--workdir={tmp_path}/run"
    assert cli("train", f"--config={tmp_path}/c.yaml", run, *[f"--set={key}" for key in keys])[0] == 0
    (tmp_path / "in.txt").write_text("Tim met Ann.\n")
    assert cli("predict", run, f"--input={tmp_path}/in.txt", f"--output={tmp_path}/out.jsonl")[0] == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["words"] == ["Tim", "met", "Ann", "."]
    assert cli("predict", run, f"--input={tmp_path}/ner.conll", f"--output={tmp_path}/out.jsonl")[0] == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 40


def test_tags_of_two_kinds_are_told(cli, tmp_path, tiny_encoder):
    (tmp_path / "x.conll").write_text("a B-PER\nb LOC\n\n" * 4)
    keys = ["task.name=tagging", f"encoder.init_from={tiny_encoder}", f"data.train={tmp_path}/x.conll"]
    status, _, error = cli("train", f"--workdir={tmp_path}/run", *[f"--set={key}" for key in keys])
    assert status == 1 and "data.train: some tags begin with a letter of a scheme" in error and "'LOC' (4 times)" in error
    with pytest.raises(UserError):
        Task.learn(Config(), tagged(("a b", "B-PER LOC")))
