"""Fine-tune BERT in PyTorch on a text or a pair: the peer of our regression, and of our classification on GLUE.

The head (dropout, one dense layer) reads the mean of the tokens, or BERT's pooler, as BertForSequenceClassification does. With
--task=regression the target is standardized by its mean and deviation in --train, and the loss is the squared error. Runs in an
environment of its own (`pip install -r benchmarks/peers/requirements.txt`):

    python benchmarks/peers/pytorch_pairs.py --task=regression --train=STS-B/train.tsv --test=STS-B/dev.tsv \
        --text_columns sentence1 sentence2 --target_column=score --encoder=DIR --seed=1 --output=peer.jsonl
    python benchmarks/peers/pytorch_pairs.py --task=classification --train=MRPC/train.tsv --test=MRPC/dev.tsv \
        --text_columns '#1 String' '#2 String' --target_column=Quality --positive=1 --encoder=DIR --seed=1 --output=peer.jsonl
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_common as common
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import BertTokenizerFast


def encoded(
    rows: Sequence[Mapping[str, str]], columns: Sequence[str], tokenizer: BertTokenizerFast, max_length: int
) -> list[dict[str, Any]]:
    """Returns {"input_ids", "token_type_ids"} of each row's text or pair, the longer text cut first."""
    texts = [[row[column] for row in rows] for column in columns]
    parts = tokenizer(*texts, truncation=True, max_length=max_length)
    return [{name: parts[name][row] for name in ("input_ids", "token_type_ids")} for row in range(len(rows))]


def regression_scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Returns the correlations and the mean squared error, of float [rows]."""
    correlations = {"pearson": float(pearsonr(true, predicted)[0]), "spearman": float(spearmanr(true, predicted)[0])}
    return {**correlations, "mean_squared_error": float(np.mean((true - predicted) ** 2))}


def classification_scores(true: Sequence[str], predicted: Sequence[str], positive: str) -> dict[str, float]:
    """Returns accuracy and Matthews' correlation; with a positive class also its F1."""
    scores = {"accuracy": float(accuracy_score(true, predicted)), "matthews": float(matthews_corrcoef(true, predicted))}
    is_true, is_predicted = np.array(true) == positive, np.array(predicted) == positive
    return scores | ({"f1": float(f1_score(is_true, is_predicted))} if positive else {})


def main() -> None:
    """Trains and scores once."""
    parser = common.parser_of(__doc__, epochs=4, batch_size=32, learning_rate=1e-4, max_seq_length=128)
    common.add_head_options(parser)
    parser.add_argument("--task", choices=("regression", "classification"), required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--text_columns", nargs="+", required=True, help="one or two")
    parser.add_argument("--target_column", required=True)
    parser.add_argument("--column_names", nargs="+", default=[], help="of files without a header")
    parser.add_argument("--quoting", choices=("none", "standard"), default="none")
    parser.add_argument("--positive", default="", help="the class that F1 is of")
    options = parser.parse_args()

    tokenizer = common.begin(options)
    rows, test_rows = (common.read_table(path, options.quoting, options.column_names) for path in (options.train, options.test))
    rows, test_rows = rows[: options.max_train_rows], test_rows[: options.max_test_rows]
    examples, test = (encoded(some, options.text_columns, tokenizer, options.max_seq_length) for some in (rows, test_rows))
    targets, true = ([row[options.target_column] for row in some] for some in (rows, test_rows))
    if options.task == "regression":
        numbers = np.array(targets, np.float64)
        mean, deviation = numbers.mean(), numbers.std()
        labels = ((numbers - mean) / deviation).tolist()
        model = common.load_pooled(options, "regression", 1)
    else:
        names = sorted(set(targets))
        labels = [names.index(target) for target in targets]
        model = common.load_pooled(options, "single_label_classification", len(names))
    examples = [example | {"labels": label} for example, label in zip(examples, labels, strict=True)]

    def evaluate() -> dict[str, Any]:
        logits = np.array([logits for (logits,) in common.outputs_of(model, test, ["logits"])], np.float64)
        if options.task == "regression":
            return regression_scores(np.array(true, np.float64), logits[:, 0] * deviation + mean)
        return classification_scores(true, [names[number] for number in logits.argmax(-1)], options.positive)

    common.train(model, examples, options, evaluate)


if __name__ == "__main__":
    main()
