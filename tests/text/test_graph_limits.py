"""What an export's tokenizer cannot reproduce; the refusals themselves are in test_in_graph_wordpiece.py."""

import json

import pytest
import tokenizers

from tests.text.learned_tokenizers import byte_pairs
from trainer.text.graph_limits import check_character_steps, pieces, problem_with
from trainer.text.tokenizer import Tokenizer


def test_a_usual_tokenizer_has_no_problem(tokenizer):
    assert problem_with(tokenizer) is None and check_character_steps(tokenizer) is None
    assert pieces(tokenizer)[:1] == ["[PAD]"] and len(pieces(tokenizer)) == tokenizer.vocabulary_size


def test_problems_are_known_before_the_training(tokenizer):
    backend = Tokenizer(tokenizer.json).backend
    backend.add_tokens([tokenizers.AddedToken("covid-19", normalized=True)])
    assert "'covid-19', which is normalized" in problem_with(Tokenizer(backend.to_str()))
    other = json.loads(tokenizer.json)
    other["normalizer"] = {"type": "Lowercase"}
    assert "this tokenizer has Lowercase and BertPreTokenizer" in problem_with(Tokenizer(json.dumps(other)))


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("model", {"dropout": 0.1}, "as RoBERTa has it; this tokenizer differs in dropout"),
        ("model", {"ignore_merges": True}, "differs in ignore_merges"),
        ("pre_tokenizer", {"add_prefix_space": True}, "differs in add_prefix_space"),
        ("pre_tokenizer", {"use_regex": False}, "differs in use_regex"),
        (None, {"normalizer": {"type": "Lowercase"}}, "differs in normalizer"),
        (None, {"pre_tokenizer": {"type": "WhitespaceSplit"}}, "differs in pre_tokenizer"),
    ],
)
def test_other_byte_pairs_than_robertas(section, changes, message):
    content = json.loads(byte_pairs().json)
    assert problem_with(byte_pairs()) is None
    (content if section is None else content[section]).update(changes)
    assert message in problem_with(Tokenizer(json.dumps(content), byte_pairs().special_tokens))


def test_merges_that_are_not_in_order():
    content = json.loads(byte_pairs().json)
    merges = content["model"]["merges"]
    made = {"".join(pair): number for number, pair in enumerate(merges)}
    late = next(number for number, (left, _) in enumerate(merges) if left in made)
    merges.insert(0, merges.pop(late))
    problem = problem_with(Tokenizer(json.dumps(content), byte_pairs().special_tokens))
    assert "merge 1, " in problem and "comes before a merge that makes one of them" in problem


def test_added_tokens_of_byte_pairs():
    """The mask takes the spaces before it, which the graph does as well; one that takes those behind it is refused."""
    backend = Tokenizer(byte_pairs().json, byte_pairs().special_tokens).backend
    backend.add_special_tokens([tokenizers.AddedToken("<left>", lstrip=True)])
    assert problem_with(Tokenizer(backend.to_str(), byte_pairs().special_tokens)) is None
    backend.add_special_tokens([tokenizers.AddedToken("<right>", rstrip=True)])
    assert "'<right>', which is rstrip" in problem_with(Tokenizer(backend.to_str(), byte_pairs().special_tokens))
