"""What a byte-level BPE tokenizer does, as tables: read off the Hugging Face tokenizer."""

import dataclasses
import functools
import json

import numpy as np
from tokenizers import pre_tokenizers

from trainer.text.character_tables import CODE_POINTS, PagedTable, characters, pages
from trainer.text.graph_limits import byte_pair_model
from trainer.text.tokenizer import Tokenizer

LETTER, DIGIT, SPACE, OTHER = range(4)


@dataclasses.dataclass(frozen=True)
class BytePairTables:
    """A vocabulary and its merges.

    Attributes:
      ids_of_bytes: int32 [256], the id of each byte alone.
      pairs: int64 [merges], sorted: the left id · size + the right id.
      ranks: int32 [merges], of each pair: the lowest is merged first.
      merged: int32 [merges], the id that a pair becomes.
      size: of the vocabulary.
      spaces_before, spaces_behind: int32 [size], U+0020 at the ends of each token, which offsets leave out; else zeros.
      trims_offsets: whether a token's place leaves out the spaces at its ends.
    """

    ids_of_bytes: np.ndarray
    pairs: np.ndarray
    ranks: np.ndarray
    merged: np.ndarray
    size: int
    spaces_before: np.ndarray
    spaces_behind: np.ndarray
    trims_offsets: bool


def read_byte_pairs(tokenizer: Tokenizer) -> BytePairTables:
    """Reads the tables off a tokenizer.

    Raises:
      UserError: see `graph_limits.byte_pair_model`.
    """
    vocabulary, merges = byte_pair_model(tokenizer)
    signs = signs_of_bytes()
    size = tokenizer.vocabulary_size
    pairs = np.array([vocabulary[a] * size + vocabulary[b] for a, b in merges], np.int64)
    order = np.argsort(pairs)
    merged = np.array([vocabulary[a + b] for a, b in merges], np.int32)
    spaces = np.zeros([2, size], np.int32)
    trims = _trims_offsets(tokenizer)
    if trims:
        sign = signs[ord(" ")]
        for token, number in vocabulary.items():
            spaces[:, number] = len(token) - len(token.lstrip(sign)), len(token) - len(token.rstrip(sign))
    ids_of_bytes = np.array([vocabulary[sign] for sign in signs], np.int32)
    before, behind = spaces
    ranks = order.astype(np.int32)
    return BytePairTables(ids_of_bytes, pairs[order], ranks, merged[order], size, before, behind, trims)


def _trims_offsets(tokenizer: Tokenizer) -> bool:
    step = json.loads(tokenizer.json)["post_processor"] or {}
    return step.get("type") in ("RobertaProcessing", "ByteLevel") and step.get("trim_offsets", True)


@functools.cache
def signs_of_bytes() -> list[str]:
    """Returns the character that stands for each byte in a vocabulary, as the GPT-2 encoder has them: [256].

    Printable bytes stand for themselves; the others have the code points from 256 on, in order.
    """
    plain = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


@functools.cache
def split_table() -> PagedTable:
    r"""Returns LETTER, DIGIT, SPACE or OTHER for each code point: \p{L}, \p{N}, \s and the rest of GPT-2's pattern.

    Two of a class in a row are one token to the pre-tokenizer, whatever Unicode version it has.
    """
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    table = np.full(CODE_POINTS, SPACE, np.int32)
    for page in pages(characters()):
        for kind, sign in ((OTHER, "!"), (LETTER, "a"), (DIGIT, "0")):  # most pages have one class
            if len(cut(sign + "".join(page))) == 1:
                table[[ord(character) for character in page]] = kind
                break
        else:
            for kind, sign in ((LETTER, "a"), (DIGIT, "0"), (OTHER, "!")):
                spans = [span for _, span in cut("\n".join(sign + character for character in page))]
                joined = [start // 3 for start, end in spans if end - start == 2 and start % 3 == 0]
                table[[ord(page[number]) for number in joined]] = kind
    return PagedTable.of(table)
