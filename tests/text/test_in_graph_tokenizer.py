"""The in-graph tokenizer equals Hugging Face's: over all code points, generated text and (slow) all real text at hand."""

import gzip
import random

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import UserError
from trainer.models.kernels.native_library import library
from trainer.serving.native_inputs import NativeInputs
from trainer.text.in_graph_tokenizer import InGraphTokenizer
from trainer.text.tokenizer import Tokenizer, from_vocabulary, load_tokenizer

VOCABULARIES = ("uncased", "cased", "chinese", "multilingual-cased")
EDGE_CASES = [
    "", " ", "Hello, World!", "ÀÉÎõü ß İI ﬁ ﬂ ½ ² … Ǆ ſ", "你好world。한국어 ひらがな", "a\u200bb\u0000c\ufeff\u00ad", "\U0001f600👩‍👩‍👧 ok",
    "[MASK]x[CLS] [SEP][UNK][PAD]", "[MASK", "[mask]", "[[MASK]]", "[MA\u200bSK]", "a" * 100, "a" * 101, "é" * 100, "é" * 101,
    "##ing [unused1]", "e\u0301\u0334", "a\u302e\u0323\U0001d165\u1b44b", "\u0e31a\u0323", "\ufffd", "\ue000\uf8ff", "\u0378",
    "x" * 60 + "é" * 50, "don't e-mail: a@b.c", "\t\n\r\x0b\x0c\x1c\x85\u2028", "\U0010ffff\uffff\ufdd0", "ᄀ가", "İSTANBUL", "ǅ",
]  # fmt: skip


def texts_of(packed, places) -> list[list[int]]:
    """Returns the ids of packed texts, without [CLS] and [SEP]."""
    ids, segments, slots = packed["input_ids"].numpy(), packed["segment_ids"].numpy(), packed["cls_positions"].shape[1]
    begins = segments != np.pad(segments, [[0, 0], [1, 0]])[:, :-1]  # where a text begins, in the order of rows and slots
    pieces = np.split(ids[segments > 0], np.flatnonzero(begins[segments > 0])[1:])
    rank = np.argsort(np.argsort(places.numpy()))
    assert places.numpy().max(initial=0) < len(ids) * slots
    return [pieces[i][1:-1].tolist() for i in rank]


class Pair:
    """A Hugging Face tokenizer and its twins: of TensorFlow's operations, and of one of our own, where that can be had."""

    def __init__(self, reference: Tokenizer):
        self.reference = reference
        self._graph = tf.function(InGraphTokenizer(reference), input_signature=[tf.TensorSpec([None], tf.string)])
        self._native = NativeInputs(reference, 1 << 30) if library("inference").operations else None

    def in_graph(self, texts) -> list[list[int]]:
        found = self._graph(tf.constant(texts, tf.string)).to_list()
        if self._native is not None:
            packed, places = self._native(tf.constant(texts, tf.string))
            assert texts_of(packed, places) == found
        return found

    def check(self, texts: list[str]) -> None:
        expected = self.reference.backend.encode_batch(texts, add_special_tokens=False)
        for text, found, encoding in zip(texts, self.in_graph(texts), expected, strict=True):
            assert found == encoding.ids, f"{ascii(text)}: {found} instead of {encoding.ids} ({encoding.tokens})"


_pairs: dict[str, Pair] = {}


def pair_of(name: str, minilm, shared_data=None) -> Pair:
    if name not in _pairs:
        if name == "uncased":
            reference = load_tokenizer(str(minilm))
        elif name == "cased-small":
            ids = load_tokenizer(str(minilm)).backend.get_vocab()
            words = sorted(ids, key=ids.get)[:4000]
            special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            reference = from_vocabulary(special + sorted(set(words) - set(special)), lowercase=False)
        else:
            vocabulary = (shared_data / f"vocab/bert-base-{name}-vocab.txt").read_text(encoding="utf8")
            reference = from_vocabulary(vocabulary.rstrip("\n").split("\n"))
        _pairs[name] = Pair(reference)
    return _pairs[name]


@pytest.fixture(params=["uncased", "cased-small"])
def pair(request, minilm):
    return pair_of(request.param, minilm)


def test_edge_cases(pair):
    pair.check(EDGE_CASES)


def test_all_code_points(pair):
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    # Between letters, in runs of 61, and with a neighbour that reordering can touch.
    pair.check(["".join(characters[i : i + 61]) for i in range(0, len(characters), 61)])
    assigned = [c for c in characters if ord(c) < 0x3400 or 0xA000 <= ord(c) < 0x20000]
    for start in range(0, len(assigned), 16384):
        pair.check([f"a{c}b\u0323{c}" for c in assigned[start : start + 16384]])


def test_combining_marks_in_every_order(pair):
    marks = [chr(code) for code in range(0x300, 0x1E000) if _combining(chr(code)) > 0]
    generator = random.Random(5)
    parts = [*marks, *["a", "e", " ", "é", "[MASK]", "가", "\u0e31"] * 40]
    pair.check(["".join(generator.choices(parts, k=25)) for _ in range(4000)])


def _combining(character: str) -> int:
    import unicodedata

    return unicodedata.combining(character)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text(), min_size=1, max_size=20))
def test_generated_text(minilm, texts):
    for name in ("uncased", "cased-small"):
        pair_of(name, minilm).check(texts)


@settings(max_examples=200, deadline=None)
@given(data=st.lists(st.binary(max_size=40), min_size=1, max_size=10))
def test_invalid_utf8_is_replaced_then_cleaned_away(minilm, data):
    pair = pair_of("uncased", minilm)
    expected = [pair.reference.encode(value.decode("utf8", errors="replace")) for value in data]
    assert pair.in_graph(data) == expected


def test_one_very_long_text_among_many_short_ones(minilm):
    pair_of("uncased", minilm).check(["word, " * 200_000, *["short"] * 4000, "[MASK]" * 50_000])


def test_special_tokens_that_could_overlap_are_refused(tokenizer):
    other = Tokenizer(tokenizer.json)
    other.backend.add_special_tokens(["]x["])
    with pytest.raises(UserError, match="can overlap in a text; rename one of them"):
        InGraphTokenizer(other)


def test_added_tokens_with_options_are_refused(tokenizer):
    other = Tokenizer(tokenizer.json)
    other.backend.add_tokens(["covid"])
    with pytest.raises(UserError, match="does not reproduce the added token 'covid', which is normalized"):
        InGraphTokenizer(other)


def test_other_word_limits_are_refused(tokenizer):
    other = Tokenizer(tokenizer.json.replace('"max_input_chars_per_word":100', '"max_input_chars_per_word":50'))
    with pytest.raises(UserError, match="WordPiece with words up to 100 characters"):
        InGraphTokenizer(other)


def lines_of(path):
    opened = (
        gzip.open(path, "rt", encoding="utf8", errors="replace")
        if path.suffix == ".gz"
        else path.open(errors="replace", encoding="utf8")
    )
    with opened as file:
        yield from file


@pytest.mark.slow
@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_line_of_every_real_text(name, minilm, shared_data):
    pair = pair_of(name, minilm, shared_data)
    paths = sorted(path for path in shared_data.rglob("*") if path.is_file())
    count, batch = 0, []
    for path in paths:
        for line in lines_of(path):
            batch.append(line)
            if len(batch) == 4096:
                pair.check(batch)
                count += len(batch)
                batch = []
    pair.check(batch)
    print(f"{name}: {count + len(batch):,} lines of {len(paths)} files, no difference")


def generated_strings(count: int):
    """Strings that hypothesis draws, `count` of them."""
    found: list[str] = []

    @settings(max_examples=count // 100, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.text(max_size=60), min_size=100, max_size=100))
    def draw(texts):
        found.extend(texts)

    draw()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", VOCABULARIES)
def test_two_hundred_thousand_generated_strings(name, minilm, shared_data):
    pair = pair_of(name, minilm, shared_data)
    texts = generated_strings(200_000)
    assert len(texts) >= 200_000
    for start in range(0, len(texts), 4096):
        pair.check(texts[start : start + 4096])
    print(f"{name}: {len(texts):,} generated strings, no difference")
