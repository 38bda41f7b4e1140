"""What an export's tokenizer cannot reproduce; the refusals themselves are in test_in_graph_tokenizer.py."""

import json

import tokenizers

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
