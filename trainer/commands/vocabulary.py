"""vocabulary: raw text → WordPiece vocabulary → judged on documents held out → a tokenizer's folder."""

import dataclasses
import itertools
import logging
from collections.abc import Iterator

from trainer import files
from trainer.cli import Options
from trainer.data.sources import Row, SourceFormat, read_rows
from trainer.errors import UserError
from trainer.models.encoder_folders import find_encoder
from trainer.run.tokenizer import tokenizer_of
from trainer.text.tokenizer import from_vocabulary
from trainer.text.vocabulary import Coverage, coverage, extended_vocabulary, train_vocabulary

log = logging.getLogger(__name__)
HELD_OUT_EVERY = 100  # of so many documents one is not trained on
MOST_HELD_OUT = 2000  # documents that the vocabulary is judged on


def run(options: Options) -> None:
    """Writes vocab.txt, tokenizer.json and coverage.json into --output."""
    source, folder = options.required("source"), options.required("output")
    held_out: list[str] = []

    def texts() -> Iterator[str]:
        held_out.clear()
        return _training_texts(source, options.column, held_out)

    base = tokenizer_of(find_encoder(options.extend), None) if options.extend else None
    lowercase = base.lowercase if base else options.lowercase
    vocabulary = train_vocabulary(texts, options.size, lowercase, options.unused, options.min_frequency)
    if not held_out:
        raise UserError(f"--from: {source} has no text in column {options.column!r}; name the column with --column")
    if base:
        vocabulary = extended_vocabulary(base.tokens(), vocabulary, options.size)
        added = len(vocabulary) - base.vocabulary_size
        if added <= 0:
            raise UserError(f"--size: {options.extend} has {base.vocabulary_size:,} tokens already; ask for more than that")
        log.info("%s tokens of %s keep their ids, %s are new", f"{base.vocabulary_size:,}", options.extend, f"{added:,}")
    tokenizer = base.with_tokens(vocabulary) if base else from_vocabulary(vocabulary, lowercase)
    judged = coverage(tokenizer, held_out)
    tokenizer.save(folder)
    case = "lower-cased" if lowercase else "cased"
    files.write_json(files.join(folder, "coverage.json"), {"documents": len(held_out), **dataclasses.asdict(judged)})
    print("\n".join(_lines(vocabulary, case, len(held_out), judged)))
    print(f"tokenizer: {folder}\nuse it: --set encoder.vocabulary_path={folder}")


def _training_texts(source: str, column: str, held_out: list[str]) -> Iterator[str]:
    """Yields the documents to train on; every HELD_OUT_EVERY-th goes to `held_out`, the only one to both."""
    rows = read_rows(source, "--from", SourceFormat(txt_as="documents"))
    texts = (row.values[column] for row in rows if isinstance(row, Row) and isinstance(row.values.get(column), str))
    first = list(itertools.islice(texts, HELD_OUT_EVERY))
    if first:
        held_out.append(first[-1])
    yield from first[:-1] if len(first) > 1 else first
    for number, text in enumerate(texts, start=1):
        if number % HELD_OUT_EVERY == 0 and len(held_out) < MOST_HELD_OUT:
            held_out.append(text)
        else:
            yield text


def _lines(vocabulary: list[str], case: str, documents: int, judged: Coverage) -> list[str]:
    slots = sum(token.startswith("[unused") for token in vocabulary)
    return [f"{len(vocabulary):,} tokens, {case}, {slots} of them unused slots", f"on {documents} held-out document(s):"] + [
        f"  {line}" for line in judged.lines()
    ]
