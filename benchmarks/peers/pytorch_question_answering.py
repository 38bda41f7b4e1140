"""Fine-tune Hugging Face's PyTorch BertForQuestionAnswering on SQuAD v1.1: the peer of our question answering.

Windows and n-best answers as in google-research/bert's run_squad.py: two windows begin --stride tokens apart (transformers'
run_qa.py calls their overlap a stride), an answer begins in the window that shows most around its first token, a window
without the answer points to [CLS]. Exact match and F1 by transformers' squad_metrics, as fractions. Runs in an environment of
its own (`pip install -r benchmarks/peers/requirements.txt`):

    python benchmarks/peers/pytorch_question_answering.py --train=train.json --test=dev.json \
        --encoder=DIR --seed=1 --output=peer.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytorch_common as common
from transformers import BertForQuestionAnswering, BertTokenizerFast
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1


class Question(NamedTuple):
    """A question; answers are (text, where it begins in the context)."""

    text: str
    context: str
    answers: list[tuple[str, int]]


class Window(NamedTuple):
    """A part of a context, after its question.

    Attributes:
      question: the number of the question.
      before: tokens before the part: [CLS] question [SEP].
      offsets: (start, end) of its tokens in the context's characters.
      is_own: for each token whether no other window shows more around it.
    """

    question: int
    before: int
    offsets: list[tuple[int, int]]
    is_own: list[bool]


def read_questions(path: str) -> list[Question]:
    """Returns the questions of SQuAD's JSON."""
    with open(path, encoding="utf8") as file:
        articles = json.load(file)["data"]
    found = []
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        for asked in paragraph["qas"]:
            answers = [(answer["text"], answer["answer_start"]) for answer in asked["answers"]]
            if not answers:
                raise SystemExit(f"{path}: question {asked['id']} has no answer; this peer reads SQuAD v1.1 only")
            found.append(Question(asked["question"], paragraph["context"], answers))
    return found


def cut(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Returns (start, end) of windows of at most `size` tokens over a context, as run_squad.py's loop.

    >>> cut(10, 6, 3)
    [(0, 6), (3, 9), (6, 10)]
    """
    found = [(0, min(size, length))]
    while found[-1][1] < length:
        start = found[-1][0] + min(size, stride)
        found.append((start, min(start + size, length)))
    return found


def owner(spans: Sequence[tuple[int, int]], token: int) -> int:
    """Returns the window that shows most around a token, as run_squad.py's `_check_is_max_context`."""
    scores = [
        min(token - start, end - 1 - token) + 0.01 * (end - start) if start <= token < end else -1.0 for start, end in spans
    ]
    return int(np.argmax(scores))


def encoded(
    questions: Sequence[Question], tokenizer: BertTokenizerFast, max_length: int, max_question: int, stride: int
) -> tuple[list[dict[str, Any]], list[Window]]:
    """Returns the windows over all questions' contexts: {"input_ids", "token_type_ids", "start_positions", "end_positions"}."""
    examples, windows = [], []
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    contexts: dict[str, Any] = {}
    for number, question in enumerate(questions):
        if question.context not in contexts:
            contexts = {question.context: tokenizer(question.context, add_special_tokens=False, return_offsets_mapping=True)}
        ids, offsets = (contexts[question.context][name] for name in ("input_ids", "offset_mapping"))
        asked = tokenizer(question.text, add_special_tokens=False)["input_ids"][:max_question]
        text, begun = question.answers[0]
        touched = [i for i, (start, end) in enumerate(offsets) if start < begun + len(text) and end > begun]
        before = len(asked) + 2
        spans = cut(len(ids), max_length - 3 - len(asked), stride)
        owners = [owner(spans, token) for token in range(len(ids))] if len(spans) > 1 else [0] * len(ids)
        for place, (start, end) in enumerate(spans):
            is_inside = start <= touched[0] and touched[-1] < end
            examples.append(
                {
                    "input_ids": [cls_id, *asked, sep_id, *ids[start:end], sep_id],
                    "token_type_ids": [0] * before + [1] * (end - start + 1),
                    "start_positions": before + touched[0] - start if is_inside else 0,
                    "end_positions": before + touched[-1] - start if is_inside else 0,
                }
            )
            windows.append(Window(number, before, offsets[start:end], [who == place for who in owners[start:end]]))
    return examples, windows


def spans_of(window: Window, starts: np.ndarray, ends: np.ndarray, n_best: int, max_answer: int) -> list[tuple]:
    """Returns (score, start, end) of a window's candidates, start and end in characters of the context.

    Source: `write_predictions` of run_squad.py. The n_best starts and ends are those of the whole window, question included;
    what cannot be an answer is left out afterwards.
    """
    length = window.before + len(window.offsets) + 1  # padding behind
    best = [np.argsort(-logits[:length], kind="stable")[:n_best] for logits in (starts, ends)]
    found = []
    for first in best[0] - window.before:
        for last in best[1] - window.before:
            is_context = 0 <= first <= last < len(window.offsets)
            if is_context and last - first < max_answer and window.is_own[first]:
                score = float(starts[first + window.before] + ends[last + window.before])
                found.append((score, window.offsets[first][0], window.offsets[last][1]))
    return found


def main() -> None:
    """Trains and scores once."""
    parser = common.parser_of(__doc__, epochs=3, batch_size=16, learning_rate=2e-4, max_seq_length=384)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--stride", type=int, default=128, help="tokens between the starts of two windows")
    parser.add_argument("--max_question_tokens", type=int, default=64)
    parser.add_argument("--max_answer_tokens", type=int, default=30)
    parser.add_argument("--n_best", type=int, default=20)
    options = parser.parse_args()

    tokenizer = common.begin(options)
    lengths = (options.max_seq_length, options.max_question_tokens, options.stride)
    train = read_questions(options.train)[: options.max_train_rows]
    test = read_questions(options.test)[: options.max_test_rows]
    examples, _ = encoded(train, tokenizer, *lengths)
    test_examples, windows = encoded(test, tokenizer, *lengths)
    model = BertForQuestionAnswering.from_pretrained(options.encoder, attn_implementation=options.attention)

    def evaluate() -> dict[str, Any]:
        candidates: list[list[tuple]] = [[] for _ in test]
        outputs = common.outputs_of(model, test_examples, ["start_logits", "end_logits"], batch_size=32)
        for window, (starts, ends) in zip(windows, outputs, strict=True):
            candidates[window.question] += spans_of(window, starts, ends, options.n_best, options.max_answer_tokens)
        exact, overlap = [], []
        for question, found in zip(test, candidates, strict=True):
            _, start, end = max(found, key=lambda span: span[0], default=(0.0, 0, 0))
            predicted = question.context[start:end]
            exact.append(max(compute_exact(answer, predicted) for answer, _ in question.answers))
            overlap.append(max(compute_f1(answer, predicted) for answer, _ in question.answers))
        means = {"exact_match": float(np.mean(exact)), "f1": float(np.mean(overlap))}
        return {"questions": len(test), "windows": len(windows), **means}

    common.train(model, examples, options, evaluate)


if __name__ == "__main__":
    main()
