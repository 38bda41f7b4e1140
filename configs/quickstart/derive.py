"""Derives the quick start's sentiment sample from the VADER data set's Amazon review sentences.

Each sentence has the mean of 20 human ratings from -4 to 4. Sentences with |mean| >= 1 are kept, "negative" or "positive"
by the sign. Reviews are split whole, so that no review has sentences on both sides: 500 test sentences, 200 for
validation, the rest for training.

    pip download --no-deps --no-binary=:all: vaderSentiment==3.3.2 && tar xzf vaderSentiment-3.3.2.tar.gz
    tar xzf vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz
    python configs/quickstart/derive.py hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt configs/quickstart
"""

import csv
import hashlib
import sys
from pathlib import Path

SIZES = {"test": 500, "validation": 200}


def main(source: str, folder: str) -> None:
    """Reads the ground-truth file and writes train.csv, validation.csv and test.csv."""
    reviews: dict[str, list[tuple[str, str]]] = {}
    seen = set()
    for line in Path(source).read_text(encoding="utf8").splitlines():
        number, rating, text = line.split("\t")
        text = text.strip()
        if abs(float(rating)) >= 1 and text not in seen:
            seen.add(text)
            label = "positive" if float(rating) > 0 else "negative"
            reviews.setdefault(number.partition("_")[0], []).append((text, label))
    # An order that depends on nothing but the review's own number.
    waiting = sorted(reviews, key=lambda number: hashlib.sha256(number.encode()).hexdigest())
    for split, size in SIZES.items():
        rows: list[tuple[str, str]] = []
        while len(rows) < size:
            rows += reviews[waiting.pop(0)]
        write(Path(folder, f"{split}.csv"), rows[:size])
    write(Path(folder, "train.csv"), [row for number in waiting for row in reviews[number]])


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    """Writes (text, label) rows as csv."""
    with open(path, "w", encoding="utf8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    print(f"{path}: {len(rows)} rows, {sum(label == 'positive' for _, label in rows)} positive")


if __name__ == "__main__":
    main(*sys.argv[1:3])
