"""Fine-tune Hugging Face's PyTorch BertForTokenClassification: the peer of our tagging.

A word's label stands on its first sub-word. Sentences are cut to --max_seq_length for training and to the encoder's 512
positions for evaluation; words behind count as "O". Scores are seqeval's, micro-averaged over entities. Tags of IOB1 (as
WikiGold's) become IOB2. Runs in an environment of its own (`pip install -r benchmarks/peers/requirements.txt seqeval`):

    python benchmarks/peers/pytorch_tagging.py --train=snips/train.jsonl --test=snips/valid.jsonl \
        --encoder=DIR --seed=1 --output=peer.jsonl
    python benchmarks/peers/pytorch_tagging.py --train=wikigold.conll --holdout=documents \
        --encoder=DIR --seed=1 --output=peer.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytorch_common as common
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from transformers import BertForTokenClassification, BertTokenizerFast

DOCUMENT_START = "-DOCSTART-"
HELD_OUT = 5  # every fifth document
POSITIONS = 512


class Sentence(NamedTuple):
    """A sentence.

    Attributes:
      words, tags: of the same number; tags are IOB2.
      document: how many "-DOCSTART-" lines stand before it.
    """

    words: list[str]
    tags: list[str]
    document: int


def read_sentences(path: str) -> list[Sentence]:
    """Returns the sentences of a .jsonl file of "tokens" and "tags", or of a CoNLL file: a word and its tag on each line."""
    with open(path, encoding="utf8", newline="\n") as file:
        if path.endswith(".jsonl"):
            rows = [json.loads(line) for line in file if line.strip()]
            return [Sentence(row["tokens"], iob2(row["tags"]), row.get("document", 0)) for row in rows]
        return _conll_sentences(file.read().split("\n"))


def _conll_sentences(lines: Sequence[str]) -> list[Sentence]:
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    document = 0
    for line in [*lines, ""]:
        line = line.rstrip(" \t\r")  # no other space: a no-break space may be a word
        is_start = line.startswith(DOCUMENT_START)
        if words and (is_start or not line):
            sentences.append(Sentence(words, iob2(tags), document))
            words, tags = [], []
        document += is_start
        if line and not is_start:
            columns = line.split("\t" if "\t" in line else " ")
            words.append(columns[0])
            tags.append(columns[-1])
    return sentences


def iob2(tags: Sequence[str]) -> list[str]:
    """Returns tags of IOB1 or IOB2 as IOB2: an I that does not continue an entity of its type becomes B.

    >>> iob2(["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-ORG"])
    ['B-PER', 'I-PER', 'B-PER', 'O', 'B-LOC', 'B-ORG']
    """
    found, before = [], "O"
    for tag in tags:
        begins = tag.startswith("I") and (before == "O" or before[1:] != tag[1:])
        found.append("B" + tag[1:] if begins else tag)
        before = tag
    return found


def encoded(
    sentences: Sequence[Sentence], tokenizer: BertTokenizerFast, max_length: int, names: Sequence[str]
) -> tuple[list[dict[str, Any]], list[list[int | None]]]:
    """Returns ({"input_ids", "labels"} of each sentence, the word that each of its tokens begins: None for none).

    Args:
      sentences: any; tags that are not in names get no label.
      tokenizer: the encoder's.
      max_length: sentences are cut to it.
      names: the tags, in the order of their numbers.
    """
    numbers = {name: number for number, name in enumerate(names)}
    parts = tokenizer(
        [sentence.words for sentence in sentences], is_split_into_words=True, truncation=True, max_length=max_length
    )
    examples, begun = [], []
    for row, sentence in enumerate(sentences):
        of_tokens = parts.word_ids(row)
        first = [word if word != before else None for before, word in zip([None, *of_tokens], of_tokens, strict=False)]
        labels = [common.IGNORED if word is None else numbers.get(sentence.tags[word], common.IGNORED) for word in first]
        examples.append({"input_ids": parts["input_ids"][row], "labels": labels})
        begun.append(first)
    return examples, begun


def main() -> None:
    """Trains and scores once."""
    parser = common.parser_of(__doc__, epochs=5, batch_size=32, learning_rate=3e-4, max_seq_length=128)
    common.add_head_options(parser, has_pooling=False)
    parser.add_argument("--train", required=True, help=".jsonl with tokens and tags, else CoNLL")
    parser.add_argument("--test", help="as --train")
    parser.add_argument("--holdout", choices=("documents",), help="instead of --test: every fifth document of --train")
    parser.add_argument("--holdout_documents", type=int, nargs="+", help="these: -DOCSTART- lines before each")
    options = parser.parse_args()

    tokenizer = common.begin(options)
    train, test = read_sentences(options.train), read_sentences(options.test) if options.test else []
    if not options.test:
        documents = sorted({sentence.document for sentence in train})
        held_out = set(options.holdout_documents or documents[HELD_OUT - 1 :: HELD_OUT])
        if not (options.holdout or options.holdout_documents) or not 0 < len(held_out & {*documents}) < len(documents):
            parser.error("give --test, or --holdout=documents where --train has several documents")
        test = [sentence for sentence in train if sentence.document in held_out]
        train = [sentence for sentence in train if sentence.document not in held_out]
    train, test = train[: options.max_train_rows], test[: options.max_test_rows]
    names = sorted({tag for sentence in train for tag in sentence.tags} | {"O"})
    examples, _ = encoded(train, tokenizer, options.max_seq_length, names)
    test_examples, first_words = encoded(test, tokenizer, POSITIONS, names)
    model = BertForTokenClassification.from_pretrained(
        options.encoder,
        num_labels=len(names),
        classifier_dropout=options.head_dropout_rate,
        attn_implementation=options.attention,
    )

    def evaluate() -> dict[str, Any]:
        true, predicted = [sentence.tags for sentence in test], []
        outputs = common.outputs_of(model, test_examples, ["logits"])
        for sentence, first, (logits,) in zip(test, first_words, outputs, strict=True):
            tags = ["O"] * len(sentence.words)
            for token, word in enumerate(first):
                if word is not None:
                    tags[word] = names[int(logits[token].argmax())]
            predicted.append(tags)
        scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score, "token_accuracy": accuracy_score}
        found: dict[str, Any] = {name: float(score(true, predicted)) for name, score in scores.items()}
        found["strict_f1"] = float(f1_score(true, predicted, mode="strict", scheme=IOB2))
        words = sum(word is not None for first in first_words for word in first)
        return {"sentences": len(test), "words_without_token": sum(map(len, true)) - words, **found}

    common.train(model, examples, options, evaluate, common.PADDING | {"labels": common.IGNORED})


if __name__ == "__main__":
    main()
