"""Tables over all Unicode code points, read off a Hugging Face tokenizer: what it does to each character.

A BERT tokenizer works character by character before WordPiece: clean-up, spaces around CJK, accent stripping and
lower-casing map one code point to zero or more; whitespace and punctuation then split. So a table over all code points,
filled by asking the tokenizer itself, equals it by construction, whatever its options and its Unicode version.
Only one step looks at neighbours: canonical reordering of combining marks in NFD (Unicode, section 3.11). The combining
classes that it sorts by are read off the library, too.
"""

import dataclasses
import functools
import unicodedata
from collections.abc import Iterator

import numpy as np
from tokenizers import normalizers, pre_tokenizers

from trainer.errors import UserError
from trainer.text.graph_limits import check_character_steps
from trainer.text.tokenizer import Tokenizer

CODE_POINTS = 0x110000
PAGE = 256
WORD, SPACE, PUNCTUATION = 0, 1, 2
_SEPARATOR = "|"  # no normalizer here makes it of another character, and marks do not move across it


@dataclasses.dataclass(frozen=True)
class PagedTable:
    """A table over all code points, equal pages of 256 stored once.

    Attributes:
      page_of: int32 [4352], the page of each block of 256 code points.
      pages: int32 [number of distinct pages, 256].
    """

    page_of: np.ndarray
    pages: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "PagedTable":
        """Pages an int32 [0x110000] table."""
        pages, page_of = np.unique(values.reshape(-1, PAGE), axis=0, return_inverse=True)
        return cls(page_of.reshape(-1).astype(np.int32), pages.astype(np.int32))


@dataclasses.dataclass(frozen=True)
class ReplacementTable:
    """For each code point, the zero or more that replace it.

    Attributes:
      entry: 0 = the code point stays itself, else 1 + its place among the distinct outputs.
      values: int32 [total], the distinct outputs, one after another.
      starts: int32 [outputs + 1], where each begins.
    """

    entry: PagedTable
    values: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, outputs: list[str]) -> "ReplacementTable":
        """Builds the table from an output for each of `characters()`."""
        places = {" ": 1}  # an output that stands even where the normalizer changes nothing: no array may be empty
        entry = np.zeros(CODE_POINTS, np.int32)
        for character, output in zip(characters(), outputs, strict=True):
            if output != character:
                entry[ord(character)] = places.setdefault(output, len(places) + 1)
        values = np.array([ord(c) for output in places for c in output], np.int32)
        starts = np.cumsum([0, *map(len, places)]).astype(np.int32)
        return cls(PagedTable.of(entry), values, starts)


@dataclasses.dataclass(frozen=True)
class MarkTables:
    """What canonical reordering needs to know.

    Attributes:
      starters: for each code point that goes in, how many code points of combining class 0 NFD makes of it; each opens
        a new run for canonical reordering.
      order: for each code point that NFD makes, its rank among combining classes, 0 for starters.
      decomposition: what clean-up, spaces around CJK and NFD make of a code point, before accents and case are dropped.
        Offsets need it: reordering counts the marks that the tokenizer drops afterwards.
    """

    starters: PagedTable
    order: PagedTable
    decomposition: ReplacementTable


@dataclasses.dataclass(frozen=True)
class CharacterTables:
    """What a tokenizer does to each code point.

    Attributes:
      replacement: what the normalizer makes of each code point.
      kind: for each code point that comes out, WORD, SPACE or PUNCTUATION.
      marks: None where the tokenizer keeps accents, so applies no NFD.
    """

    replacement: ReplacementTable
    kind: PagedTable
    marks: MarkTables | None


def read_tables(tokenizer: Tokenizer) -> CharacterTables:
    """Reads the tables off a tokenizer.

    Raises:
      UserError: a tokenizer with another normalizer or pre-tokenizer than BERT's.
    """
    check_character_steps(tokenizer)
    normalizer = tokenizer.backend.normalizer
    return _tables(normalizer.clean_text, normalizer.handle_chinese_chars, normalizer.strip_accents, normalizer.lowercase)


@functools.cache  # some seconds; all that a vocabulary does not say
def _tables(clean_text: bool, handle_chinese_chars: bool, strip_accents: bool | None, lowercase: bool) -> CharacterTables:
    options = {"clean_text": clean_text, "handle_chinese_chars": handle_chinese_chars}
    outputs = _outputs(normalizers.BertNormalizer(**options, strip_accents=strip_accents, lowercase=lowercase))
    strips = strip_accents if strip_accents is not None else lowercase
    keeping = normalizers.BertNormalizer(**options, strip_accents=False, lowercase=False)
    marks = _mark_tables(keeping) if strips else None
    return CharacterTables(ReplacementTable.of(outputs), kind_table(), marks)


@functools.cache
def characters() -> list[str]:
    """Returns every code point that a string can hold: all but the surrogates."""
    return [chr(c) for c in range(CODE_POINTS) if not 0xD800 <= c <= 0xDFFF]


def pages(texts: list[str]) -> Iterator[list[str]]:
    """Yields the texts, PAGE at a time."""
    return (texts[start : start + PAGE] for start in range(0, len(texts), PAGE))


def _outputs(normalizer) -> list[str]:
    """Returns the normalizer's output for each of `characters()`."""
    return _normalized(normalizer, characters())


def _normalized(normalizer, texts: list[str]) -> list[str]:
    """Returns the normalizer's output for each of the texts that stand for `characters()`, asked page by page."""
    found: list[str] = []
    for page in pages(texts):
        joined = "".join(page)
        # What leaves a whole page as it is, as nearly all of them, leaves each of its characters as it is.
        found += page if normalizer.normalize_str(joined) == joined else _normalized_page(normalizer, page)
    return found


def _normalized_page(normalizer, texts: list[str]) -> list[str]:
    outputs = normalizer.normalize_str(_SEPARATOR.join(texts)).split(_SEPARATOR)
    if _SEPARATOR in texts:
        position = texts.index(_SEPARATOR)
        if outputs[position : position + 2] == ["", ""]:  # the separator itself was cut into two empty outputs
            outputs[position : position + 2] = [_SEPARATOR]
    if len(outputs) != len(texts):
        raise UserError(f"this tokenizer changes or makes {_SEPARATOR!r}; its character tables cannot be read")
    return outputs


@functools.cache
def kind_table() -> PagedTable:
    """Returns WORD, SPACE or PUNCTUATION for each code point, as BertPreTokenizer takes it between two letters."""
    cut = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    table = np.full(CODE_POINTS, WORD, np.int32)
    for page in pages(characters()):
        if len(cut("".join(page))) == 1:  # nearly all pages hold nothing that cuts
            continue
        spans = np.array([span for _, span in cut(" ".join(f"a{character}a" for character in page))])
        group, place = np.divmod(spans[:, 0], 4)
        kinds = np.full(len(page), SPACE, np.int32)
        kinds[group[spans[:, 1] - spans[:, 0] == 3]] = WORD
        kinds[group[place == 1]] = PUNCTUATION
        table[[ord(character) for character in page]] = kinds
    return PagedTable.of(table)


def _mark_tables(keeping) -> MarkTables:
    """Reads the tables of canonical reordering; `keeping` is the normalizer without what it does to accents and case."""
    nfd = normalizers.NFD()
    nonstarters = _nonstarters(nfd)
    decompositions = _normalized(nfd, _outputs(keeping))
    starters = np.zeros(CODE_POINTS, np.int32)
    for character, decomposed in zip(characters(), decompositions, strict=True):
        if len(decomposed) == 1:  # nearly all
            starters[ord(character)] = decomposed not in nonstarters
            continue
        count = sum(part not in nonstarters for part in decomposed)
        if any(part in nonstarters for part in decomposed[:count]):
            raise UserError(f"U+{ord(character):04X} decomposes to a mark before a letter; reordering it is not supported")
        starters[ord(character)] = count
    order = np.zeros(CODE_POINTS, np.int32)
    for character in nonstarters.intersection("".join(decompositions)):
        order[ord(character)] = _mark_rank(character, nfd)
    return MarkTables(PagedTable.of(starters), PagedTable.of(order), ReplacementTable.of(decompositions))


def _nonstarters(nfd) -> set[str]:
    """Returns the code points of combining class over 0: those that NFD moves before, or behind, a neighbouring mark."""
    candidates = [c for c, parts in zip(characters(), _outputs(nfd), strict=True) if parts == c]
    over_one = _moved(nfd, [c + "\u0334" for c in candidates])  # U+0334 has class 1, the lowest
    under_230 = _moved(nfd, ["\u0301" + c for c in candidates])  # U+0301 has class 230
    return {c for c, over, under in zip(candidates, over_one, under_230, strict=True) if over or under}


def _moved(nfd, pairs: list[str]) -> list[bool]:
    """Returns for each pair of characters whether NFD swaps it."""
    found: list[bool] = []
    for page in pages(pairs):
        text = f"a{'a'.join(page)}"
        ordered = nfd.normalize_str(text)
        if ordered == text:  # nearly all pages
            found += [False] * len(page)
        else:
            found += [ordered[3 * i + 1 : 3 * i + 3] != pair for i, pair in enumerate(page)]
    return found


@functools.cache
def _reference_marks() -> list[str]:
    """One mark of each combining class, lowest first (classes never change: Unicode's normalization stability)."""
    by_class: dict[int, str] = {}
    for character in characters():
        if unicodedata.combining(character) and not unicodedata.decomposition(character):
            by_class.setdefault(unicodedata.combining(character), character)
    return [by_class[number] for number in sorted(by_class)]


def _mark_rank(mark: str, nfd) -> int:
    return 1 + sum(_moved(nfd, [mark + reference for reference in _reference_marks()]))
