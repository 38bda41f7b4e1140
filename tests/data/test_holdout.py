"""Rows held out by a hash of their text: stable, stratified, equal texts on one side."""

import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.holdout import Holdout, folds_of
from trainer.data.sources import Rejected, Row
from trainer.errors import UserError

FRACTIONS = {"validation": 0.2, "test": 0.1}


def rows_of(pairs):
    return [Row({"text": text, "label": label}, "f.csv", line) for line, (text, label) in enumerate(pairs, start=2)]


def split_all(rows, fractions=FRACTIONS, label="label"):
    holdout = Holdout.of(rows, fractions, ("text",), label)
    return {split: list(holdout.rows_of(split, rows)) for split in ("train", *fractions)}


def test_shares_are_stratified_and_add_up():
    rows = rows_of((f"text {i}", "rare" if i % 10 == 0 else "usual") for i in range(200))
    found = split_all(rows)
    assert sorted(row.line for part in found.values() for row in part) == [row.line for row in rows]
    counts = {split: collections.Counter(row.values["label"] for row in part) for split, part in found.items()}
    assert counts == {
        "train": {"usual": 126, "rare": 14},
        "validation": {"usual": 36, "rare": 4},
        "test": {"usual": 18, "rare": 2},
    }
    assert [row.line for row in found["train"]] == sorted(row.line for row in found["train"]), "in the order of the source"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab")), max_size=120))
def test_equal_texts_stay_on_one_side_whatever_their_labels(pairs):
    # Sixty texts that stand once each: the property is about the others, and no split may come out empty.
    pairs = [*pairs, *((f"single {number}", "ab"[number % 2]) for number in range(60))]
    rows = rows_of((f"text {number}", label) for number, label in pairs)
    found = split_all(rows, {"validation": 0.3})
    texts = [{row.values["text"] for row in part} for part in found.values()]
    assert not texts[0] & texts[1]


def test_more_rows_move_only_a_few():
    pairs = [(f"text {i}", "ab"[i % 2]) for i in range(300)]
    before, after = (split_all(rows_of(pairs[:count]), {"validation": 0.1})["validation"] for count in (280, 300))
    kept = {row.values["text"] for row in before} & {row.values["text"] for row in after}
    assert len(kept) >= 0.85 * len(before)


def test_a_corpus_is_split_without_a_first_pass():
    rows = [Row({"text": f"document {i}"}, "f.txt", i) for i in range(2000)]
    found = split_all(rows, {"validation": 0.1}, label=None)
    assert 150 < len(found["validation"]) < 250 and len(found["train"]) + len(found["validation"]) == 2000


def test_rows_that_cannot_be_read_stay_with_the_training_rows():
    rows = [*rows_of((f"t{i}", "x") for i in range(20)), Rejected("f.csv", 99, "why", "?"), Row({"label": "x"}, "f.csv", 100)]
    found = split_all(rows, {"validation": 0.2})
    assert found["train"][-2:] == rows[-2:]


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"f.csv:\d+: no column 'txt' \(task.text_columns\); the columns are 'text', .* 'text'"):
        Holdout.of(rows_of([("a", "x"), ("b", "y")]), {"validation": 0.5}, ("txt",), "label")


def test_a_share_of_nothing_is_refused():
    rows = rows_of([("a", "x"), ("b", "y"), ("c", "x")])
    with pytest.raises(
        UserError,
        match=r"data.validation: 0.1 of the training rows is less than one row of each class: data.train has 3 different",
    ):
        split_all(rows, {"validation": 0.1})


def test_folds_spread_classes_and_keep_groups_together():
    rows = [Row({"text": f"t{n % 60}", "label": "ab"[n % 3 == 0], "group": n % 7}, "f", n + 1) for n in range(90)]
    rows.append(Row({"text": None, "label": "a"}, "f", 91))
    folds = folds_of(rows, ("text",), "label", 5, "task.text_columns")
    parts = [folds.of(row) for row in rows[:90]]
    assert folds.of(rows[90]) is None and parts[:30] == parts[60:], "equal texts"
    for name in "ab":
        counts = [
            sum(1 for row, part in zip(rows[:60], parts, strict=False) if part == k and row.values["label"] == name)
            for k in range(5)
        ]
        assert max(counts) - min(counts) <= 1
    groups = folds_of(rows[:90], ("group",), None, 3, "data.holdout_column")
    assert len({(row.values["group"], groups.of(row)) for row in rows[:90]}) == 7
    with pytest.raises(UserError, match="--folds=8: data.train has only 7 different texts"):
        folds_of(rows[:90], ("group",), None, 8, "data.holdout_column")
