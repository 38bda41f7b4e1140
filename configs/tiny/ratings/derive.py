"""Derives sentences with ratings from the VADER data set's Amazon review sentences, as configs/quickstart/derive.py does.

Each sentence has the mean of 20 human ratings from -4 (negative) to 4 (positive). No review has sentences in both files.

    python configs/tiny/ratings/derive.py hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt configs/tiny/ratings
"""

import csv
import hashlib
import sys
from pathlib import Path

SIZES = {"validation": 200, "train": 800}


def main(source: str, folder: str) -> None:
    """Reads the ground-truth file and writes train.csv and validation.csv."""
    reviews: dict[str, list[tuple[str, str]]] = {}
    for line in Path(source).read_text(encoding="utf8").splitlines():
        number, rating, text = line.split("\t")
        reviews.setdefault(number.partition("_")[0], []).append((text.strip(), f"{float(rating):g}"))
    waiting = sorted(reviews, key=lambda number: hashlib.sha256(number.encode()).hexdigest())
    for split, size in SIZES.items():
        rows: list[tuple[str, str]] = []
        while len(rows) < size:
            rows += reviews[waiting.pop(0)]
        with open(Path(folder, f"{split}.csv"), "w", encoding="utf8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("text", "rating"), *rows[:size]])


if __name__ == "__main__":
    main(*sys.argv[1:3])
