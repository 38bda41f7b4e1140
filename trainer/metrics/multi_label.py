"""Scores and thresholds where a row has any number of labels, as scikit-learn defines them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.metrics.classification import average_precision, roc_auc
from trainer.metrics.statistics import mean_of_known


def multi_label_scores(
    labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], thresholds: np.ndarray | Sequence[float]
) -> dict[str, Any]:
    """Returns every score of a multi-label classification, JSON-able.

    A label is predicted where its probability is at least its threshold, compared in the type of the probabilities.

    Args:
      labels: bool or int [rows, labels], 1 where the row has the label.
      probabilities: float [rows, labels], each in [0, 1].
      names: the names, in label order.
      thresholds: float [labels].

    Returns:
      {"examples", "subset_accuracy", "hamming_loss", "label_ranking_average_precision",
      "macro", "micro", "samples", "weighted": {"precision", "recall", "f1"},
      "per_label": {name: {"precision", "recall", "f1", "average_precision", "rows"}}}.
      "macro" also has "average_precision" and "roc_auc", "micro" also has "average_precision". "rows" counts the rows that
      have the label.

      Precision, recall and F1 are 0 where undefined, as with scikit-learn's `zero_division=0`. All other scores are None
      where undefined. A label without a positive row therefore counts as 0 in the macro F1, and is left out of the macro
      average precision. A label that no row or every row has is left out of the macro ROC AUC.

    Raises:
      ValueError: the shapes differ, there are no labels, a label is not 0 or 1, or a probability is not in [0, 1].

    >>> scores = multi_label_scores(np.array([[1, 0], [1, 1]]), np.array([[0.9, 0.6], [0.8, 0.7]]), ["a", "b"], [0.5, 0.5])
    >>> scores["subset_accuracy"], scores["micro"]["precision"], scores["per_label"]["b"]["precision"]
    (0.5, 0.75, 0.5)
    """
    labels, probabilities = _checked(labels, probabilities)
    thresholds = np.asarray(thresholds, probabilities.dtype)
    rows, count = labels.shape
    if len(names) != count or thresholds.shape != (count,):
        raise ValueError(
            f"{len(names)} names and thresholds of shape {thresholds.shape}; expected {count} of each, one a label"
        )
    predicted = probabilities >= thresholds
    of_labels, of_rows, of_all = (_precision_recall_f1(labels, predicted, axis) for axis in (0, 1, None))
    positives = labels.sum(axis=0)
    precisions = [average_precision(labels[:, i], probabilities[:, i]) for i in range(count)]
    return {
        "examples": rows,
        "subset_accuracy": float((labels == predicted).all(axis=1).mean()) if rows else None,
        "hamming_loss": float((labels != predicted).mean()) if rows else None,
        "label_ranking_average_precision": label_ranking_average_precision(labels, probabilities),
        "macro": {
            **_averaged(of_labels, np.full(count, 1 / count)),
            "average_precision": mean_of_known(precisions),
            "roc_auc": mean_of_known([roc_auc(labels[:, i], probabilities[:, i]) for i in range(count)]),
        },
        "micro": {
            **{score: float(value) for score, value in of_all.items()},
            "average_precision": average_precision(labels.ravel(), probabilities.ravel()),
        },
        "samples": _averaged(of_rows, np.full(rows, 1 / max(rows, 1))),
        "weighted": _averaged(of_labels, positives / max(positives.sum(), 1)),
        "per_label": {
            name: {
                **{score: float(values[i]) for score, values in of_labels.items()},
                "average_precision": precisions[i],
                "rows": int(positives[i]),
            }
            for i, name in enumerate(names)
        },
    }


def _checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels as bool and the probabilities as float, both [rows, labels]."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if labels.ndim != 2 or not labels.shape[1] or labels.shape != probabilities.shape:
        raise ValueError(
            f"labels have shape {labels.shape}, probabilities {probabilities.shape}; expected both [rows, labels], with "
            "at least one label"
        )
    wrong = labels[(labels != 0) & (labels != 1)]
    if wrong.size:
        raise ValueError(f"labels hold {wrong[0].item()}; expected 0 or 1, one column for each label")
    # Negated, because NaN fails every comparison.
    wrong = probabilities[~((probabilities >= 0) & (probabilities <= 1))]
    if wrong.size:
        raise ValueError(f"probabilities hold {wrong[0].item()}; expected values in [0, 1]; apply a sigmoid to logits")
    return labels.astype(bool), probabilities.astype(np.result_type(probabilities, np.float16))


def _precision_recall_f1(labels: np.ndarray, predicted: np.ndarray, axis: int | None) -> dict[str, np.ndarray]:
    hits, chosen, true = (np.sum(cells, axis=axis) for cells in (labels & predicted, predicted, labels))
    # Where a denominator is 0, its numerator is 0 too: dividing by 1 gives the 0 that is wanted.
    return {
        "precision": hits / np.maximum(chosen, 1),
        "recall": hits / np.maximum(true, 1),
        "f1": 2 * hits / np.maximum(chosen + true, 1),
    }


def _averaged(scores: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, float]:
    return {score: float(values @ weights) for score, values in scores.items()}


def label_ranking_average_precision(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Returns the mean over rows of the precision at each true label's rank; None without rows.

    Labels of equal probability share the last of their ranks. A row with no label or with all labels scores 1, as in
    scikit-learn. It is the average precision of Tsoumakas et al. 2010, "Mining Multi-label Data".

    Args:
      labels: bool or int [rows, labels], 1 where the row has the label.
      probabilities: float [rows, labels], each in [0, 1].

    Raises:
      ValueError: as `multi_label_scores`.

    >>> label_ranking_average_precision(np.array([[1, 0, 0]]), np.array([[0.4, 0.9, 0.1]]))
    0.5
    """
    labels, probabilities = _checked(labels, probabilities)
    rows, count = labels.shape
    if not rows:
        return None
    order = np.argsort(-probabilities, axis=1)
    is_true, ranked = np.take_along_axis(labels, order, axis=1), np.take_along_axis(probabilities, order, axis=1)
    # The last position of each run of equal probabilities, read from the right.
    is_last = np.pad(ranked[:, 1:] != ranked[:, :-1], ((0, 0), (0, 1)), constant_values=True)
    ends = np.where(is_last, np.arange(count), count)
    last = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    precision = np.take_along_axis(np.cumsum(is_true, axis=1), last, axis=1) / (last + 1)
    true = is_true.sum(axis=1)
    of_rows = np.where(true, (precision * is_true).sum(axis=1) / np.maximum(true, 1), 1.0)
    return float(of_rows.mean())


def best_thresholds(labels: np.ndarray, probabilities: np.ndarray, per_label: bool) -> np.ndarray:
    """Returns the thresholds with the best F1 on these rows, usually the validation split.

    The search is exact. It tries the midpoint between every two neighbouring distinct probabilities, where 0 counts as the
    lowest neighbour, so that "predict every row" is tried too. Among equally good thresholds, the one nearest to 0.5 wins,
    then the lower one. Where no row has the label, the threshold is 0.5.

    Midpoints are computed in the type of the probabilities: a model that compares in float32 predicts what was searched.

    Args:
      labels: bool or int [rows, labels], 1 where the row has the label.
      probabilities: float [rows, labels], each in [0, 1].
      per_label: whether each label gets the threshold with its own best F1. Otherwise all labels get the one threshold with
        the best micro F1, which suits labels with too few rows for a threshold of their own.

    Returns:
      float64 [labels], predict a label where its probability is at least its threshold.

    Raises:
      ValueError: as `multi_label_scores`.

    >>> best_thresholds(np.array([[1, 0], [0, 1]]), np.array([[0.75, 0.125], [0.25, 0.25]]), per_label=True).tolist()
    [0.5, 0.1875]
    """
    labels, probabilities = _checked(labels, probabilities)
    count = labels.shape[1]
    if per_label:
        return np.array([_best_threshold(labels[:, i], probabilities[:, i]) for i in range(count)])
    return np.full(count, _best_threshold(labels.ravel(), probabilities.ravel()))


def _best_threshold(is_positive: np.ndarray, probabilities: np.ndarray) -> float:
    positives = int(is_positive.sum())
    if not positives:
        return 0.5
    order = np.argsort(probabilities)
    distinct, starts = np.unique(probabilities[order], return_index=True)
    # Counts of the rows from each distinct probability upwards.
    hits = np.cumsum(is_positive[order][::-1])[::-1][starts]
    predicted = len(order) - starts
    f1 = 2 * hits / (predicted + positives)
    lower = np.insert(distinct[:-1], 0, 0)
    midpoints = (lower + distinct) / 2
    # Between adjacent floats the midpoint can round down, and would then include the lower probability.
    thresholds = np.where(midpoints > lower, midpoints, distinct)[f1 == f1.max()]
    return float(thresholds[np.argmin(np.abs(thresholds - 0.5))])
