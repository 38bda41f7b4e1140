"""WikiText-2 as plain text with a blank line between articles, for held-out scores of masked language models.

    python benchmarks/wikitext.py ../shared/data/wikitext-2/valid.txt wikitext-valid.txt

WikiText is tokenized: "@-@", "@,@" and "@.@" stand for marks inside words, spaces stand around all others, and rare words are
"<unk>". The marks are put back; an unknown word becomes [UNK], which no mask ever covers.
"""

import re
import sys
from pathlib import Path


def articles(text: str) -> list[list[str]]:
    """Returns the paragraphs of each article; headings are left out."""
    found: list[list[str]] = []
    for line in text.splitlines():
        line = line.strip()
        if re.fullmatch(r"= [^=].* =", line):
            found.append([])
        elif line and not line.startswith("= "):
            found[-1].append(detokenized(line))
    return [article for article in found if article]


def plain_text(text: str) -> str:
    """Returns the articles with a blank line between them."""
    return "\n\n".join("\n".join(article) for article in articles(text)) + "\n"


def detokenized(line: str) -> str:
    """Returns a line as it is written outside of WikiText.

    >>> detokenized("the 1 @,@ 000 @-@ year <unk> , he said ( 1998 ) .")
    'the 1,000-year [UNK], he said (1998).'
    """
    line = re.sub(r" @([-,.])@ ", r"\1", line)
    line = re.sub(r" ([,.;:!?)\]'%])", r"\1", re.sub(r"([(\[$]) ", r"\1", line))
    return line.replace("<unk>", "[UNK]")


if __name__ == "__main__":
    source, target = sys.argv[1:]
    Path(target).write_text(plain_text(Path(source).read_text(encoding="utf8")), encoding="utf8")
