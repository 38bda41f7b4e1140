"""Classification scores from labels and probabilities, as scikit-learn defines them."""

from collections.abc import Sequence

import numpy as np

from trainer.metrics.statistics import mean_of_known, ranks


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (true class, predicted class) pairs.

    Args:
      labels, predicted: int [examples].
      classes: how many there are.

    Returns:
      int64 [classes, classes], a row for each true class.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    cells = np.asarray(labels, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def precision_recall_f1(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns precision, recall and F1 of each class, float64 [classes]; 0 where undefined, as scikit-learn's default."""
    hits = np.diag(confusion).astype(np.float64)
    precision = _ratio(hits, confusion.sum(axis=0))
    recall = _ratio(hits, confusion.sum(axis=1))
    return precision, recall, _ratio(2 * precision * recall, precision + recall)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    numerator = np.asarray(numerator, np.float64)
    denominator = np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def matthews_correlation(confusion: np.ndarray) -> float:
    """Returns the multi-class Matthews correlation (Gorodkin 2004, R_K); 0 where undefined."""
    total, hits = confusion.sum(), np.trace(confusion)
    true, predicted = confusion.sum(axis=1).astype(np.float64), confusion.sum(axis=0).astype(np.float64)
    covariance = hits * total - true @ predicted
    spread = np.sqrt(float(total) ** 2 - predicted @ predicted) * np.sqrt(float(total) ** 2 - true @ true)
    return float(covariance / spread) if spread else 0.0


def roc_auc(is_positive: np.ndarray, scores: np.ndarray) -> float | None:
    """Returns the area under the ROC curve by the rank-sum statistic, ties counted half; None with one class only.

    Args:
      is_positive: bool [examples].
      scores: float [examples], higher means more positive.
    """
    is_positive = np.asarray(is_positive, bool)
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if not positives or not negatives:
        return None
    return float((ranks(scores)[is_positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(is_positive: np.ndarray, scores: np.ndarray) -> float | None:
    """Returns the sum of precision times the gain in recall over all thresholds; None without positives."""
    is_positive = np.asarray(is_positive, bool)
    if not is_positive.any():
        return None
    order = np.argsort(-np.asarray(scores), kind="stable")
    sorted_scores, hits = np.asarray(scores)[order], np.cumsum(is_positive[order])
    is_threshold = np.append(np.diff(sorted_scores) != 0, True)
    hits_at, chosen_at = hits[is_threshold], np.flatnonzero(is_threshold) + 1
    gained = np.diff(hits_at, prepend=0) / hits[-1]
    return float(np.sum(gained * hits_at / chosen_at))


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Returns the mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017, equation 3).

    Args:
      labels: int [examples].
      probabilities: float [examples, classes].
      bins: of equal width over (0, 1].
    """
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=hit - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def classification_scores(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], predicted: np.ndarray | None = None
) -> dict:
    """Returns every score of a classification, JSON-able.

    Args:
      labels: int [examples].
      probabilities: float [examples, classes].
      class_names: the names, in class order.
      predicted: int [examples], where a threshold decides; the most probable class by default.

    Returns:
      {"accuracy", "matthews_correlation", "roc_auc", "average_precision", "expected_calibration_error", "macro",
      "micro", "weighted": {"precision", "recall", "f1"}, "per_class": {name: {..., "support"}}, "confusion_matrix"}.
      ROC-AUC and average precision are of the second class when there are two, else the mean of one against the rest.
    """
    classes = len(class_names)
    labels = np.asarray(labels)
    predicted = probabilities.argmax(axis=1) if predicted is None else np.asarray(predicted)
    confusion = confusion_matrix(labels, predicted, classes)
    precision, recall, f1 = precision_recall_f1(confusion)
    support = confusion.sum(axis=1)
    accuracy = float(np.trace(confusion) / max(len(labels), 1))
    present = support / max(support.sum(), 1)
    scored = [1] if classes == 2 else range(classes)
    return {
        "examples": len(labels),
        "accuracy": accuracy,
        "matthews_correlation": matthews_correlation(confusion),
        "roc_auc": mean_of_known([roc_auc(labels == c, probabilities[:, c]) for c in scored]),
        "average_precision": mean_of_known([average_precision(labels == c, probabilities[:, c]) for c in scored]),
        "expected_calibration_error": expected_calibration_error(labels, probabilities),
        "macro": _averaged(precision, recall, f1, np.full(classes, 1 / classes)),
        "micro": {"precision": accuracy, "recall": accuracy, "f1": accuracy},
        "weighted": _averaged(precision, recall, f1, present),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for name, p, r, f, n in zip(class_names, precision, recall, f1, support, strict=True)
        },
        "confusion_matrix": confusion.tolist(),
    }


def _averaged(precision, recall, f1, weights) -> dict[str, float]:
    return {"precision": float(precision @ weights), "recall": float(recall @ weights), "f1": float(f1 @ weights)}
