"""Chunks: by number of rows, or of a corpus by size, with two documents at least in each."""

import json
import os
import signal
from collections import Counter
from types import SimpleNamespace

import pytest

from trainer.data.sources import Rejected, Row
from trainer.errors import UserError
from trainer.preparation import chunks


def numbered(*sizes):
    return [(number, Row({"text": "x" * size}, "f.txt", 10 * number + 1)) for number, size in enumerate(sizes)]


def sizes_of(rows):
    return [[len(row.values["text"]) for _, row in chunk] for chunk in chunks.chunked(rows, is_corpus=True)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(chunks, "CHARACTERS_PER_CHUNK", 100)
    monkeypatch.setattr(chunks, "ROWS_PER_CHUNK", 3)


def test_rows_by_number():
    assert [len(chunk) for chunk in chunks.chunked(numbered(*[5] * 8), is_corpus=False)] == [3, 3, 2]
    assert list(chunks.chunked([], is_corpus=False)) == []


def test_a_corpus_by_size_and_never_one_document_alone():
    assert sizes_of(numbered(60, 50, 60, 50, 60, 50)) == [[60, 50], [60, 50], [60, 50]]
    assert sizes_of(numbered(200, 10, 200, 10)) == [[200, 10], [200, 10]]
    # A rest of one document joins the chunk before it; a rest of two stands alone.
    assert sizes_of(numbered(60, 50, 60, 50, 60)) == [[60, 50], [60, 50, 60]]
    assert sizes_of(numbered(60, 50, 20, 20)) == [[60, 50], [20, 20]]
    # One document in many parts has no other to go with: up to four times the size
    parts = [(number, Row({"text": "x" * 80}, "f.txt", 1)) for number in range(12)]
    assert [len(chunk) for chunk in chunks.chunked(parts[:4], is_corpus=True)] == [4]
    assert [len(chunk) for chunk in chunks.chunked(parts, is_corpus=True)] == [5, 7]
    # Lists of numbers count as text does, and so does what was rejected
    records = [(number, Row({"input_ids": [1] * 60}, "f.tfrecord", number)) for number in range(4)]
    assert [len(chunk) for chunk in chunks.chunked(records, is_corpus=True)] == [2, 2]
    bad = [(number, Rejected("f.txt", number, "why", "?" * 150)) for number in range(9)]
    assert [len(chunk) for chunk in chunks.chunked(bad, is_corpus=True)] == [3, 3, 3]
    assert list(chunks.chunked([], is_corpus=True)) == []


def test_rejected_rows_stay_in_their_place():
    rows = [*numbered(60), (1, Rejected("f.txt", 11, "why", "?")), (2, Row({"text": "x" * 60}, "f.txt", 21))]
    (chunk,) = chunks.chunked(rows, is_corpus=True)
    assert [number for number, _ in chunk] == [0, 1, 2]


class Curious(SimpleNamespace):
    """A task that looks at how its process takes Ctrl-C."""

    def features(self):
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        return {}

    def chunk_examples(self, *_):
        return []


def test_ctrl_c_is_left_to_the_first_process():
    """A terminal sends it to all of them, and each would print its own traceback."""
    found = list(chunks.prepared_chunks([("a", numbered(1)), ("b", numbered(1))], Curious(), workers=2))
    assert [chunk.totals.rows for chunk in found] == [1, 1]


class KillsItself(SimpleNamespace):
    """A task whose worker ends without a word, as one that the system kills because memory ran out."""

    def features(self):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_told():
    with pytest.raises(UserError, match="a process that prepares rows was killed, .*; set data.workers to fewer than 2"):
        list(chunks.prepared_chunks([("a", numbered(1)), ("b", numbered(1))], KillsItself(), workers=2))


def test_totals_survive_being_stored():
    totals, copy = chunks.Totals(), chunks.Totals()
    rejected = [Rejected("f.txt", 3, "why", "?")]
    totals.add(
        chunks.Totals(
            5, 2, 30, 20, {"": [10, 8], "target": [20, 20]}, 1, 40, rejected, {"label": Counter({1: 2})}, Counter(short=1)
        )
    )
    copy.add(chunks.Totals.from_json(json.loads(json.dumps(totals.to_json()))))
    assert copy.summary() == totals.summary() and copy.rejected == rejected
    assert (totals.summary()["truncated"], totals.summary()["longest_text"]) == (1, 40)
    assert totals.summary()["sequences"]["target"] == {"tokens": 20, "longest": 20}
    assert totals.summary()["special_cases"] == {"short": 1} and totals.summary()["values"] == {"label": {"1": 2}}


def test_rejected_rows_show_their_content():
    rejected = chunks.rejected_row(Row({"text": "ü"}, "f.csv", 3), ValueError("why"))
    assert (rejected.path, rejected.line, rejected.reason, rejected.content) == ("f.csv", 3, "why", '{"text": "ü"}')
