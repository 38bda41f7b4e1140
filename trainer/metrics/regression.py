"""Scores of numbers against numbers, as scipy and scikit-learn define them."""

import numpy as np

from trainer.metrics.statistics import ranks


def regression_scores(targets: np.ndarray, values: np.ndarray) -> dict[str, float | None]:
    """Returns the scores of one target; None where one is undefined, as a correlation with a constant.

    Args:
      targets, values: float [examples], true and predicted.

    >>> regression_scores(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0]))["mean_absolute_error"]
    0.3333333333333333
    """
    targets, values = np.asarray(targets, np.float64), np.asarray(values, np.float64)
    errors = values - targets
    spread = float(np.sum((targets - targets.mean()) ** 2))
    return {
        "pearson": pearson(targets, values),
        "spearman": pearson(ranks(targets), ranks(values)),
        "r2": 1.0 - float(errors @ errors) / spread if spread else None,
        "mean_squared_error": float(np.mean(errors**2)),
        "mean_absolute_error": float(np.mean(np.abs(errors))),
    }


def pearson(first: np.ndarray, second: np.ndarray) -> float | None:
    """Returns Pearson's correlation; None where one side is constant, or there are fewer than two numbers."""
    first, second = (np.asarray(one, np.float64) - np.mean(one) for one in (first, second))
    norm = float(np.sqrt((first @ first) * (second @ second)))
    return float(np.clip((first @ second) / norm, -1.0, 1.0)) if norm else None
