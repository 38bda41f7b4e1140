"""Fine-tune BERT in PyTorch to any number of labels for a text: the peer of our multi-label classification.

The head (dropout, one dense layer, BCEWithLogitsLoss) reads the mean of the tokens, or BERT's pooler, as
BertForSequenceClassification does. Thresholds are those with the best F1 on --dev, of each label or of all; the scores on
--test are scikit-learn's at these thresholds. With --evaluate_each_epoch, "scores_at_best_dev" are those of the epoch with the
best macro F1 on --dev. Runs in an environment of its own (`pip install -r benchmarks/peers/requirements.txt`):

    python benchmarks/peers/pytorch_multi_label.py --train=train.tsv --dev=dev.tsv --test=test.tsv --evaluate_each_epoch \
        --encoder=DIR --seed=1 --output=peer.jsonl
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_common as common
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_recall_curve
from transformers import BertTokenizerFast


def best_threshold(is_positive: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the threshold of the best F1, in the middle between two probabilities; of equal ones that nearest to 0.5.

    >>> best_threshold(np.array([0, 1, 1]), np.array([0.25, 0.5, 0.75]))
    0.375
    """
    if not is_positive.any():
        return 0.5
    precision, recall, lowest = precision_recall_curve(is_positive, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    middles = (np.append(0.0, lowest[:-1]) + lowest) / 2
    best = middles[np.isclose(f1[:-1], f1[:-1].max(), rtol=0, atol=1e-12)]
    return float(best[np.argmin(np.abs(best - 0.5))])


def tuned_thresholds(labels: np.ndarray, probabilities: np.ndarray, tune: str) -> np.ndarray:
    """Returns a threshold for each label, float [labels]; equal ones with "global".

    Args:
      labels, probabilities: [rows, labels].
      tune: "per_label" or "global", by micro F1.
    """
    count = labels.shape[1]
    if tune == "global":
        return np.full(count, best_threshold(labels.ravel(), probabilities.ravel()))
    return np.array([best_threshold(labels[:, i], probabilities[:, i]) for i in range(count)])


def scores_of(labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    """Returns scikit-learn's scores, a label being predicted where its probability reaches its threshold."""
    predicted = probabilities >= thresholds
    kinds = ("macro", "micro", "weighted", "samples")
    scores = {f"{kind}_f1": float(f1_score(labels, predicted, average=kind, zero_division=0)) for kind in kinds}
    present = labels.any(axis=0)
    precision = average_precision_score(labels[:, present], probabilities[:, present], average="macro")
    return {**scores, "subset_accuracy": float(accuracy_score(labels, predicted)), "macro_average_precision": float(precision)}


def read_examples(
    path: str, tokenizer: BertTokenizerFast, max_length: int, labels: int, rows: int | None
) -> list[dict[str, Any]]:
    """Returns {"input_ids", "labels": float [labels]} of a file without header: text, numbers with commas between, id."""
    table = common.read_table(path, column_names=("text", "labels", "id"))[:rows]
    ids = tokenizer([row["text"] for row in table], truncation=True, max_length=max_length)["input_ids"]
    examples = []
    for row, of_text in zip(table, ids, strict=True):
        numbers = set(map(int, row["labels"].split(",")))
        examples.append({"input_ids": of_text, "labels": [float(number in numbers) for number in range(labels)]})
    return examples


def probabilities_of(model: Any, examples: Sequence[common.Example]) -> np.ndarray:
    """Returns float64 [rows, labels]."""
    logits = np.array([logits for (logits,) in common.outputs_of(model, examples, ["logits"])], np.float64)
    return 0.5 * (1 + np.tanh(0.5 * logits))


def main() -> None:
    """Trains and scores once."""
    parser = common.parser_of(__doc__, epochs=4, batch_size=32, learning_rate=2e-4, max_seq_length=64)
    common.add_head_options(parser)
    for name in ("train", "dev", "test"):
        parser.add_argument(f"--{name}", required=True, help="a .tsv file of text, numbers of labels, id")
    parser.add_argument("--labels", type=int, default=28, help="how many there are")
    parser.add_argument("--tune", choices=("per_label", "global"), default="per_label")
    options = parser.parse_args()

    tokenizer = common.begin(options)
    reading = (tokenizer, options.max_seq_length, options.labels)
    examples = read_examples(options.train, *reading, options.max_train_rows)
    dev, test = (read_examples(path, *reading, options.max_test_rows) for path in (options.dev, options.test))
    dev_labels, test_labels = (np.array([example["labels"] for example in rows]) > 0 for rows in (dev, test))
    model = common.load_pooled(options, "multi_label_classification", options.labels)

    def evaluate() -> dict[str, Any]:
        probabilities = probabilities_of(model, dev)
        thresholds = tuned_thresholds(dev_labels, probabilities, options.tune)
        of_dev = scores_of(dev_labels, probabilities, thresholds)
        of_test = scores_of(test_labels, probabilities_of(model, test), thresholds)
        return {**of_test, **{f"dev_{name}": score for name, score in of_dev.items()}, "thresholds": thresholds.tolist()}

    common.train(model, examples, options, evaluate, best_score="dev_macro_f1")


if __name__ == "__main__":
    main()
