"""augment: more training rows, in whose texts a masked language model has put other words.

Wu et al. 2019 (arXiv:1812.06705) and Kumar et al. 2020 (arXiv:2003.02245), with a model that does not know the labels. Only
training rows are read: what is held out for validation is never changed.
"""

import logging
import random
from collections.abc import Iterator
from typing import Any

from trainer import files
from trainer.cli import Options
from trainer.data.sources import Row
from trainer.errors import UserError
from trainer.run import experiment, feeding
from trainer.run.masked_words import MaskedWords
from trainer.run.tokenizer import find_tokenizer
from trainer.run.written_rows import line_of

log = logging.getLogger(__name__)


def run(options: Options) -> None:
    """Writes each training row and behind it its copies, a JSON line each."""
    source, output = options.required("masked_lm"), options.required("output")
    if not output.endswith(".jsonl"):
        raise UserError(f"--output: the rows are written as JSON lines; name a file that ends in .jsonl, not {output}")
    if not 0 < options.word_prob <= 1:
        raise UserError(f"--word_prob: must be over 0 and up to 1, got {options.word_prob}")
    asked = experiment.load(options.config, options.set)
    asked.data.require_train()
    if asked.data.shares():
        raise UserError(
            "data.validation or data.test is a share of data.train: a row and its copies would be on both sides. Name files of "
            "their own for them"
        )
    task = asked.build_task(find_tokenizer(asked))
    problem = feeding.fixed_tokens(task)
    if problem:
        raise UserError(f"augment: {problem}; augmentation is for tasks on whole texts")
    rows, refused = [], 0
    for row in asked.rows("train"):
        if isinstance(row, Row):
            rows.append(row)
        else:
            refused += 1
    if refused:
        log.warning("%d row(s) of data.train cannot be read and are left out", refused)
    words = MaskedWords(source, asked.data.max_seq_length)
    copies = [dict(row.values) for row in rows for _ in range(options.copies)]
    draws = [random.Random(f"{asked.train.seed}/{number}") for number in range(len(copies))]
    changed = [False] * len(copies)
    for column in type(task).text_columns(asked.task):
        places = [place for place, values in enumerate(copies) if isinstance(values.get(column), str)]
        texts = [copies[place][column] for place in places]
        found = words.replaced(texts, options.word_prob, [draws[place] for place in places])
        for place, text, new in zip(places, texts, found, strict=True):
            copies[place][column] = new
            changed[place] |= new != text
    files.write_text(output, "".join(map(line_of, _in_turn(rows, copies, changed, options.copies))))
    log.info("%s row(s), %s with other words: %s", f"{len(rows):,}", f"{sum(changed):,}", output)
    print(f"to train on them: --set data.train={output}")


def _in_turn(rows: list[Row], copies: list[dict[str, Any]], changed: list[bool], count: int) -> Iterator[dict[str, Any]]:
    """Yields each row and those of its copies that differ from it."""
    for number, row in enumerate(rows):
        yield dict(row.values)
        for place in range(number * count, (number + 1) * count):
            if changed[place]:
                yield copies[place]
