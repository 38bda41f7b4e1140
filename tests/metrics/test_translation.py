"""BLEU and chrF beside sacrebleu, on damaged sentences of several scripts and on the edges."""

import random

import pytest
import sacrebleu

from trainer.metrics.translation import bleu, chrf

ENGLISH = (
    "Two young, White males are outside near many bushes.",
    'A man said: "It\'s 3.5 km, or 2-3 miles" & left (quickly).',
    "The U.S. won 1,000 t-shirts; nobody knew why - really.",
    "a b c d e f g",
)
CHINESE = ("他在三月五日去了北京。", "“你好”，她说：GPT-4 很好！", "今天 12.5 度，我們很高興。", "你是谁？")


def damaged(text, by_characters, seed):
    draw = random.Random(seed)
    parts = list(text) if by_characters else text.split()
    return ("" if by_characters else " ").join(part for part in parts if draw.random() > 0.2)


@pytest.mark.parametrize(
    ("known", "tokenizer"), [(ENGLISH, "13a"), (ENGLISH, "char"), (CHINESE, "zh"), (CHINESE, "char"), (CHINESE, "13a")]
)
@pytest.mark.parametrize("lowercase", [False, True])
def test_scores_are_sacrebleus(known, tokenizer, lowercase):
    by_characters = known is CHINESE
    texts = [damaged(text, by_characters, 1) for text in known]
    references = [[text, damaged(text, by_characters, 2) + " X"] for text in known]
    columns = list(map(list, zip(*references, strict=True)))
    expected = sacrebleu.corpus_bleu(texts, columns, tokenize=tokenizer, lowercase=lowercase).score
    assert bleu(texts, references, tokenizer, lowercase) == pytest.approx(expected, abs=1e-9)
    expected = sacrebleu.metrics.CHRF(lowercase=lowercase).corpus_score(texts, columns).score
    assert chrf(texts, references, lowercase) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("texts", "references"),
    [
        (["a"], ["b"]),
        ([""], ["x y"]),
        (["a b c d e f"], ["a b x d e f"]),
        (["a b"], ["a b"]),
        (["the cat"], ["the cat is there"]),
    ],
)
def test_edges(texts, references):
    expected = sacrebleu.corpus_bleu(texts, [references]), sacrebleu.corpus_chrf(texts, [references])
    found = bleu(texts, [[one] for one in references]), chrf(texts, [[one] for one in references])
    assert found == pytest.approx([one.score for one in expected])
