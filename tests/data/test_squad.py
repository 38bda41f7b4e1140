"""SQuAD-like files as rows: the real layouts, their look-alikes, and what is no such record."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.sources import Rejected, Row, RowError
from trainer.data.squad import Placed, answers_in, is_squad_json, placed_answer, squad_records

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Cats",
            "paragraphs": [
                {
                    "context": "A cat is a cat.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "What is a cat?",
                            "answers": [{"text": "a cat", "answer_start": 9}, {"text": "a cat", "answer_start": 9}],
                            "is_impossible": False,
                        },
                        {
                            "id": "q2",
                            "question": "What is a dog?",
                            "answers": [],
                            "plausible_answers": [{"text": "a cat", "answer_start": 9}],
                            "is_impossible": True,
                        },
                    ],
                }
            ],
        }
    ],
}
CMRC = [
    {
        "context_id": "TRAIN_1",
        "context_text": "《战国无双3》是由光荣开发的。",
        "title": "战国无双3",
        "qas": [{"query_id": "TRAIN_1_QUERY_0", "query_text": "由谁开发？", "answers": ["光荣", "光荣"]}],
    }
]


def read_squad(parsed, path):
    """The records as rows."""
    for line, found, content in squad_records(parsed):
        yield Row(found, path, line) if isinstance(found, dict) else Rejected(path, line, found, content)


def only(parsed):
    (found,) = read_squad(parsed, "x.json")
    return found


def paragraph(*questions, context="A cat."):
    return {"data": [{"paragraphs": [{"context": context, "qas": list(questions)}]}]}


def test_squad_questions_are_rows():
    common = {"title": "Cats", "context": "A cat is a cat."}
    answer = {"text": "a cat", "start": 9}
    assert list(read_squad(SQUAD, "x.json")) == [
        Row({"id": "q1", "question": "What is a cat?", "answers": [answer, answer], **common}, "x.json", 1),
        Row({"id": "q2", "question": "What is a dog?", "answers": [], **common}, "x.json", 2),
    ]


def test_cmrc_of_its_own_layout_is_rows():
    assert is_squad_json(CMRC)
    assert only(CMRC).values == {
        "id": "TRAIN_1_QUERY_0",
        "title": "战国无双3",
        "question": "由谁开发？",
        "context": "《战国无双3》是由光荣开发的。",
        "answers": [{"text": "光荣", "start": None}] * 2,
    }
    assert [found.values["id"] for found in read_squad({"data": CMRC}, "x.json")] == ["TRAIN_1_QUERY_0"]


@pytest.mark.parametrize(
    "parsed, place",
    [
        (SQUAD["data"], "[0].paragraphs[0].qas[0]"),
        (SQUAD["data"][0], "paragraphs[0].qas[0]"),
        (SQUAD["data"][0]["paragraphs"], "[0].qas[0]"),
        (SQUAD["data"][0]["paragraphs"][0], "the file.qas[0]"),
        ({"data": SQUAD["data"][0]["paragraphs"]}, "data[0].qas[0]"),
    ],
)
def test_parts_of_the_nesting_are_read_too(parsed, place):
    assert is_squad_json(parsed)
    assert [type(found) for found in read_squad(parsed, "x.json")] == [Row, Row]
    nameless = json.loads(json.dumps(parsed).replace('"id": "q1", ', ""))
    assert next(read_squad(nameless, "x.json")).values["id"] == place


@pytest.mark.parametrize(
    "parsed",
    [
        {"data": [{"text": "x"}]},
        {"data": [["x"]], "columns": ["text"]},
        [{"question": "x", "context": "y", "answers": {"text": ["y"], "answer_start": [0]}}],
        {"data": [{"paragraphs": ["first", "second"]}]},
        {"data": {"paragraphs": 1}},
        {"data": []},
        [],
        "text",
        None,
        7,
    ],
)
def test_other_json_is_not_taken_for_squad(parsed):
    assert not is_squad_json(parsed)


def test_a_question_without_answers_in_the_file_has_no_such_column():
    assert "answers" not in only(paragraph({"id": 7, "question": "What?"})).values
    assert "answers" not in only(paragraph({"id": 7, "question": "What?", "answers": None, "is_impossible": False})).values
    assert only(paragraph({"id": 7, "question": "What?", "is_impossible": True})).values["answers"] == []
    assert only(paragraph({"id": 7, "question": "What?"})).values["id"] == "7"


@pytest.mark.parametrize(
    "parsed, reason",
    [
        (paragraph("what?"), "data[0].paragraphs[0].qas[0]: a text where a question belongs"),
        (paragraph({}), "data[0].paragraphs[0].qas[0]: there is no question"),
        (paragraph({"question": 5}), "data[0].paragraphs[0].qas[0]: the question is a number, not a text"),
        (paragraph({"question": " "}), "data[0].paragraphs[0].qas[0]: the question is empty"),
        (paragraph({"question": "x"}, context=None), "data[0].paragraphs[0].qas[0]: there is no context of the paragraph"),
        (paragraph({"question": "x"}, context="\n"), "data[0].paragraphs[0].qas[0]: the context of the paragraph is empty"),
        (
            paragraph({"question": "x", "answers": "cat"}),
            "data[0].paragraphs[0].qas[0]: answers is a text, not a list of answers",
        ),
        (
            paragraph({"question": "x", "answers": [{"answer_start": 1}]}),
            "data[0].paragraphs[0].qas[0]: answers[0] has no text",
        ),
        (
            paragraph({"question": "x", "answers": ["cat", {"text": "cat", "answer_start": "2"}]}),
            'data[0].paragraphs[0].qas[0]: answers[1] has the answer_start "2", which is not a whole number',
        ),
        (
            paragraph({"question": "x", "answers": ["cat"], "is_impossible": True}),
            "data[0].paragraphs[0].qas[0]: is_impossible is true, but there is an answer, 'cat'",
        ),
        (
            paragraph({"question": "x", "is_impossible": "no"}),
            'data[0].paragraphs[0].qas[0]: is_impossible is "no", neither true nor false',
        ),
        ({"data": [7]}, "data[0]: a number where an article or a paragraph belongs"),
        ({"data": [{"title": "x"}]}, "data[0]: no list of questions (qas); it has 'title'"),
        ({"data": [{"paragraphs": [None]}]}, "data[0].paragraphs[0]: null where an article or a paragraph belongs"),
        ({"data": [{"paragraphs": [{}]}]}, "data[0].paragraphs[0]: no list of questions (qas); it has nothing"),
        ("x", "the file: a text where an article or a paragraph belongs"),
    ],
)
def test_what_is_no_question_is_rejected_with_its_place(parsed, reason):
    found = only(parsed)
    assert isinstance(found, Rejected)
    assert (found.path, found.line, found.reason) == ("x.json", 1, reason)


def test_a_bad_part_costs_no_other_and_keeps_the_count():
    good = {"id": "q", "question": "What?", "answers": ["cat"]}
    parsed = {"data": [None, *paragraph(good, 3, good)["data"], {"paragraphs": [[], {"context": "A cat.", "qas": [good]}]}]}
    found = list(read_squad(parsed, "x.json"))
    assert [type(row) for row in found] == [Rejected, Row, Rejected, Row, Rejected, Row]
    assert [row.line for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row.reason.partition(":")[0] for row in found if isinstance(row, Rejected)] == [
        "data[0]",
        "data[1].paragraphs[0].qas[1]",
        "data[2].paragraphs[0]",
    ]


def test_what_is_rejected_can_be_stored():
    found = only(paragraph({"question": "\ud800" + "猫" * 300, "answers": [[]]}))
    assert isinstance(found, Rejected) and "\\ud800猫猫" in found.content
    found.content.encode("utf8")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=3),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "paragraphs", "qas", "context", "question", "id", "answers", "text", "answer_start", "is_impossible"]
            ),
            part,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_no_json_fails(parsed):
    is_squad_json(parsed)
    for line, found in enumerate(read_squad(parsed, "x.json"), start=1):
        assert found.line == line
        if isinstance(found, Row):
            assert found.values["question"].strip() and found.values["context"].strip()


@pytest.mark.parametrize(
    "value",
    [
        [{"text": "a cat", "answer_start": 9}, {"text": "cat", "answer_start": 2}],
        {"text": ["a cat", "cat"], "answer_start": [9, 2]},
        [{"text": "a cat", "start": 9}, {"text": "cat", "start": 2}],
        [{"text": "a cat", "answer_start": 9.0}, {"text": "cat", "answer_start": np.int32(2)}],
        {"text": np.array([b"a cat", b"cat"], object), "answer_start": np.array([9, 2], np.int32)},
    ],
)
def test_all_shapes_of_answers_are_one(value):
    assert answers_in(value) == [{"text": "a cat", "start": 9}, {"text": "cat", "start": 2}]
    assert answers_in(answers_in(value)) == answers_in(value)


def test_a_start_may_be_unknown():
    unknown = [{"text": "cat", "start": None}]
    shapes = [
        ["cat"],
        {"text": ["cat"]},
        [{"text": "cat", "answer_start": -1}],
        {"text": "cat"},
        {"text": ["cat"], "answer_start": [None]},
    ]
    assert [answers_in(shape) for shape in shapes] == [unknown] * len(shapes)
    assert answers_in([]) == answers_in({"text": [], "answer_start": []}) == []


@pytest.mark.parametrize(
    "value, reason",
    [
        (None, "answers is null, not a list of answers"),
        ("cat", "answers is a text"),
        ({"answer_start": [1]}, r"answers\[0\] has no text"),
        ({"text": ["a", "b"], "answer_start": [1]}, "answers has 2 texts, but 1 in answer_start"),
        ({"text": ["a"], "answer_start": 1}, "answers has 1 texts, but a number in answer_start"),
        ([{"text": ["a"]}], r"answers\[0\] is a list where a text belongs"),
        ([{"text": "a", "answer_start": True}], "not a whole number"),
        ([{"text": "a", "answer_start": 1.5}], "answer_start 1.5, which is not"),
        ([{"text": "a", "answer_start": float("nan")}], "not a whole number"),
        (["a", " "], r"answers\[1\] is empty"),
    ],
)
def test_what_is_no_answer_is_named(value, reason):
    with pytest.raises(RowError, match=reason):
        answers_in(value)


@pytest.mark.parametrize(
    "start, expected",
    # The answer "cat" in "cat dog cat cat": at 0, 8 and 12.
    [
        (0, Placed(0, 3, False)),
        (8, Placed(8, 11, False)),
        (1, Placed(0, 3, True)),
        (4, Placed(0, 3, True)),  # equally far from 0 and 8
        (5, Placed(8, 11, True)),
        (11, Placed(12, 15, True)),
        (999, Placed(12, 15, True)),
        (None, Placed(0, 3, False)),
    ],
)
def test_the_nearest_occurrence_is_taken(start, expected):
    assert placed_answer("cat dog cat cat", {"text": "cat", "start": start}) == expected


def test_white_space_at_the_ends_is_no_part_of_an_answer():
    assert placed_answer("a  cat sat", {"text": "  cat ", "start": 1}) == Placed(3, 6, False)
    assert placed_answer("a\tcat", {"text": " cat", "start": 1}) == Placed(2, 5, False)


def test_positions_are_code_points():
    assert placed_answer("😀猫 cat", {"text": "cat", "start": 3}) == Placed(3, 6, False)


def test_an_answer_that_does_not_occur_is_named():
    for text, reason in (("dog", 'the answer "dog" does not occur in its context'), (" ", "the answer is empty")):
        with pytest.raises(RowError, match=reason):
            placed_answer("a cat", {"text": text, "start": 0})


@settings(max_examples=200, deadline=None)
@given(st.text("ab ", max_size=12), st.text("ab", min_size=1, max_size=3), st.integers(0, 15))
def test_placement_is_the_nearest_of_all(context, text, start):
    starts = [at for at in range(len(context)) if context.startswith(text, at)]
    if not starts:
        with pytest.raises(RowError):
            placed_answer(context, {"text": text, "start": start})
        return
    nearest = min(starts, key=lambda at: (abs(at - start), at))
    assert placed_answer(context, {"text": text, "start": start}) == Placed(nearest, nearest + len(text), nearest != start)


@pytest.mark.parametrize(
    "name, questions, rejected, answers, moved, absent",
    [
        ("squad_v1.1_dev_by_article/train.json", 8582, 0, 27471, 0, 0),
        ("squad_v1.1_dev_by_article/dev.json", 1988, 0, 7255, 0, 0),
        # Annotators changed some answers: those are not in the context, and have the start -1.
        ("cmrc2018/cmrc2018_dev.json", 3219, 0, 9657, 7, 193),
        # Two questions are empty.
        ("cmrc2018/cmrc2018_trial.json", 1002, 2, 1000, 5, 0),
    ],
)
def test_real_files_are_read_and_their_answers_placed(shared_data, name, questions, rejected, answers, moved, absent):
    parsed = json.loads((shared_data / name).read_text("utf8"))
    assert is_squad_json(parsed)
    found = list(read_squad(parsed, name))
    rows = [row for row in found if isinstance(row, Row)]
    assert (len(found), len(found) - len(rows), found[-1].line) == (questions, rejected, questions)
    assert len({row.values["id"] for row in rows}) == len(rows)
    places = [_place_or_none(row, answer) for row in rows for answer in row.values["answers"]]
    assert (len(places), sum(bool(place and place.is_moved) for place in places), places.count(None)) == (
        answers,
        moved,
        absent,
    )


def _place_or_none(row, answer):
    try:
        place = placed_answer(row.values["context"], answer)
    except RowError:
        return None
    assert row.values["context"][place.start : place.end] == answer["text"].strip()
    return place
