"""The in-graph tokenizer equals Hugging Face's, ids and offsets: all code points, generated text, (slow) all real text."""

import functools
import gzip
import itertools
import random
import unicodedata

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from trainer.errors import UserError
from trainer.models.kernels.native_library import library
from trainer.serving.native_inputs import NativeInputs
from trainer.text.in_graph_tokenizer import build_in_graph_tokenizer
from trainer.text.tokenizer import Tokenizer, from_vocabulary, load_tokenizer

VOCABULARIES = ("uncased", "cased", "chinese", "multilingual-cased")
# Text, tokens and their offsets as the uncased tokenizer has them; the rule that each shows.
OFFSETS = [
    ("Unaffable!", ["una", "##ffa", "##ble", "!"], [(0, 3), (3, 6), (6, 9), (9, 10)]),
    ("\x00a\u0301\ufffd c\u0301\u200bat\u0301", ["a", "cat"], [(1, 2), (5, 10)]),  # dropped: inside a token yes, at its ends no
    ("\u0130a\u0130", ["ia", "##i"], [(0, 2), (2, 3)]),  # lower-cased to two code points, of which one is dropped
    ("a人b", ["a", "人", "b"], [(0, 1), (1, 2), (2, 3)]),  # the spaces put around 人 come from 人
    ("각", ["ᄀ", "##ᅡ", "##ᆨ"], [(0, 1), (0, 1), (0, 1)]),  # pieces inside of one character
    ("é[MASK]é", ["e", "[MASK]", "e"], [(0, 1), (1, 7), (7, 8)]),
    ("x" * 101 + "́ y", ["[UNK]", "y"], [(0, 101), (103, 104)]),  # a word that is too long
    ("a\u0378b", ["[UNK]"], [(0, 3)]),  # a word without pieces
    ("x\u0301\u302e", ["[UNK]"], [(0, 2)]),  # U+302E moves before U+0301 and takes its place; then U+0301 is dropped
]
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
    """A Hugging Face tokenizer and its twins: of TensorFlow's operations, and of one of our own, where there is a compiler."""

    def __init__(self, reference: Tokenizer):
        self.reference = reference
        twin, signature = build_in_graph_tokenizer(reference), [tf.TensorSpec([None], tf.string)]
        self._graph = tf.function(twin, input_signature=signature)
        self._graph_with_offsets = tf.function(twin.with_offsets, input_signature=signature)
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

    def with_offsets(self, texts) -> list[tuple[list[int], list[tuple[int, int]]]]:
        found = (part.to_list() for part in self._graph_with_offsets(tf.constant(texts, tf.string)))
        return [(ids, list(zip(starts, ends, strict=True))) for ids, starts, ends in zip(*found, strict=True)]

    def check_offsets(self, texts: list[str] | list[bytes]) -> None:
        decoded = [text if isinstance(text, str) else text.decode("utf8", errors="replace") for text in texts]
        expected = self.reference.backend.encode_batch(decoded, add_special_tokens=False)
        for text, (ids, offsets), encoding in zip(texts, self.with_offsets(texts), expected, strict=True):
            assert ids == encoding.ids, f"{ascii(text)}: {ids} instead of {encoding.ids} ({encoding.tokens})"
            assert offsets == encoding.offsets, f"{ascii(text)}: {offsets} instead of {encoding.offsets} ({encoding.tokens})"


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


@pytest.mark.parametrize(("text", "tokens", "offsets"), OFFSETS)
def test_offsets_follow_these_rules(minilm, text, tokens, offsets):
    pair = pair_of("uncased", minilm)
    ids = [pair.reference.backend.token_to_id(token) for token in tokens]
    assert pair.with_offsets([text]) == [(ids, offsets)]
    assert pair.reference.encode_with_offsets(text) == (ids, offsets)


def test_offsets_of_no_text(minilm):
    assert pair_of("uncased", minilm).with_offsets([]) == []


def test_offsets_of_edge_cases(pair):
    pair.check_offsets([*EDGE_CASES, *(text for text, *_ in OFFSETS)])


def test_offsets_of_characters_among_marks(pair):
    codes = itertools.chain(range(0x3400), range(0xA000, 0xD800), range(0xE000, 0x20000), range(0x2F800, 0x2FA20))
    texts = [f"a{chr(code)}\u0301\u302e{chr(code)}\u0334b" for code in codes]
    for start in range(0, len(texts), 16384):
        pair.check_offsets(texts[start : start + 16384])


def test_offsets_of_hard_strings(pair):
    pair.check_offsets(hard_strings(2000, seed=0))


@settings(max_examples=300, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf8") | st.sampled_from("a각é\u0301\u302e\u0334\u0344\ufffd\x00 你İ")), max_size=20
    )
)
def test_offsets_of_generated_text(minilm, texts):
    for name in ("uncased", "cased-small"):
        pair_of(name, minilm).check_offsets(texts)


@settings(max_examples=300, deadline=None)
@given(data=st.lists(st.binary(max_size=40), max_size=10))
def test_offsets_count_invalid_utf8_as_python_does(minilm, data):
    pair_of("uncased", minilm).check_offsets(data)


@pytest.mark.slow
def test_offsets_with_every_option_and_an_added_token(minilm):
    texts = [text.replace("[SEP]", "<e1>") for text in hard_strings(4000, seed=1)]
    names = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    for values in itertools.product([True, False], [True, False], [True, False, None], [True, False]):
        reference = Tokenizer(load_tokenizer(str(minilm)).json)
        reference.backend.normalizer = normalizers.BertNormalizer(**dict(zip(names, values, strict=True)))
        reference.backend.add_special_tokens(["<e1>"])
        Pair(Tokenizer(reference.backend.to_str())).check_offsets(texts)


def test_offsets_in_one_very_long_text_among_many_short_ones(minilm):
    pair_of("uncased", minilm).check_offsets(["wórd, " * 100_000, *["short"] * 4000, "[MASK]" * 20_000])


def test_one_very_long_text_among_many_short_ones(minilm):
    pair_of("uncased", minilm).check(["word, " * 200_000, *["short"] * 4000, "[MASK]" * 50_000])


def test_special_tokens_that_could_overlap_are_refused(tokenizer):
    other = Tokenizer(tokenizer.json)
    other.backend.add_special_tokens(["]x["])
    with pytest.raises(UserError, match="can overlap in a text; rename one of them"):
        build_in_graph_tokenizer(other)


def test_added_tokens_with_options_are_refused(tokenizer):
    other = Tokenizer(tokenizer.json)
    other.backend.add_tokens(["covid"])
    with pytest.raises(UserError, match="does not reproduce the added token 'covid', which is normalized"):
        build_in_graph_tokenizer(other)


def test_other_word_limits_are_refused(tokenizer):
    other = Tokenizer(tokenizer.json.replace('"max_input_chars_per_word":100', '"max_input_chars_per_word":50'))
    with pytest.raises(UserError, match="WordPiece with words up to 100 characters"):
        build_in_graph_tokenizer(other)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", VOCABULARIES)
def test_offsets_of_every_line_of_every_real_text(name, minilm, shared_data):
    pair = pair_of(name, minilm, shared_data)
    paths = sorted(path for path in shared_data.rglob("*") if path.is_file())
    lines, count = itertools.chain.from_iterable(map(lines_of, paths)), 0
    while batch := list(itertools.islice(lines, 4096)):
        pair.check_offsets(batch)
        count += len(batch)
    print(f"{name}: {count:,} lines of {len(paths)} files, no difference in offsets")


@functools.cache
def _parts_of_hard_strings() -> list[list[str]]:
    """Kinds of what is hard for offsets: a string is drawn from some of the kinds, some of each."""
    marks = [chr(code) for code in range(0x300, 0x1E950) if _combining(chr(code))]
    return [
        [chr(code) for code in range(33, 127)],
        marks,
        [mark for mark in marks if unicodedata.category(mark) != "Mn"] + marks[:30],  # marks that are not dropped can move
        ["[MASK]", "[SEP]", "[CLS]", "[UNK]", "[PAD]", "[MASK", "[mask]", "##"],
        [chr(code) for code in range(0xAC00, 0xD7A4)],
        [chr(code) for code in range(0x4E00, 0xA000)],
        list("éÀİıßﬁ½²ǅſẛΐ豈") + ["\u0344", "\u0958", "\u0f73", "\u0f75", "\u0f81", "\u1e69", "\U0001d15e", "\U0001d160"],
        list("\x00\x01\x7f\xad\u200b\u200d\u2060\ue000\ufeff\ufffd"),
        [character * count for character in "aé가İ" for count in range(95, 106)],
        list(" \t\n\u3000\xa0.,!?-_'$。"),
        [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000],
        ["running", "unaffable", "Straße", "naïve", "İstanbul", "мир", "ελληνικά", "हिन्दी", "עִבְרִית", "العَرَبِيَّة", "ไทย", " "],
    ]


def hard_strings(count: int, seed: int) -> list[str]:
    """Strings that mix scripts, marks, special tokens, characters that disappear or grow, and long words."""
    generator, parts = random.Random(seed), _parts_of_hard_strings()
    chosen = (generator.choices(parts, k=generator.randint(0, 12)) for _ in range(count))
    ends = ("", " ")
    return [
        "".join("".join(generator.choices(kind, k=generator.randint(1, 8))) + generator.choice(ends) for kind in kinds)
        for kinds in chosen
    ]


def damaged(text: str, generator: random.Random) -> bytes:
    """Returns a text's UTF-8 with a byte lost or changed."""
    data = bytearray(text.encode())
    if data:
        place = generator.randrange(len(data))
        data[place : place + 1] = generator.randbytes(generator.randint(0, 2))
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", VOCABULARIES)
def test_offsets_of_two_hundred_thousand_hard_strings(name, minilm, shared_data):
    pair, generator = pair_of(name, minilm, shared_data), random.Random(7)
    for seed in range(100):
        texts = hard_strings(2000, seed)
        pair.check_offsets([damaged(text, generator) if place % 10 == 0 else text for place, text in enumerate(texts)])
    print(f"{name}: 200,000 hard strings, no difference in offsets")


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
