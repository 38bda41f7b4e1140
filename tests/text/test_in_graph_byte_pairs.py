"""Byte-level BPE in the graph equals Hugging Face's, ids and offsets: all code points, generated text, real text."""

import json
import random

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import SHARED_DATA
from tests.text.learned_tokenizers import byte_pairs, corpus
from trainer.text.in_graph_byte_pairs import InGraphBytePairs
from trainer.text.tokenizer import Tokenizer

EDGE_CASES = [
    "", " ", "Hello, World!", "it's we're 'twas '' 's's don'tx I'LL 'sx", "  two  spaces \n\n new ", "x\n's y\t'll", "!'s !' 's 1's",
    "a <mask> b", " <mask><mask>  <s> </s>", "\n <mask>", "<mask", "aaaaaaa aaaa", "很好用，推荐 123 ½ ² e\u0301", "\u0130 \u200b\u00ad 👩‍👩‍👧",
    "a\u00a0b\u3000c \u2028d\x85e\x1c f", "\ufffd", "x" * 300, "=" * 299, "好" * 200,
]  # fmt: skip
ALPHABET = [*"abes'trlmdvS1२9 .!-\n\t \u00a0\u3000é人😀\u0301<>", "'s", "'re", "<mask>", " ", "  ", "</s>"]


class Twins:
    """A tokenizer, and its twin in a graph."""

    def __init__(self, tokenizer: Tokenizer):
        self._backend = tokenizer.backend
        graph, texts = InGraphBytePairs(tokenizer), [tf.TensorSpec([None], tf.string)]
        self._ids = tf.function(graph, input_signature=texts)
        self._places = tf.function(graph.with_offsets, input_signature=texts)

    def check(self, texts):
        decoded = [text if isinstance(text, str) else text.decode(errors="replace") for text in texts]
        given = tf.constant(texts, tf.string)
        found = [part.to_list() for part in self._places(given)]
        assert self._ids(given).to_list() == found[0]
        for text, encoding, ids, starts, ends in zip(
            texts, self._backend.encode_batch(decoded, add_special_tokens=False), *found, strict=True
        ):
            assert ids == encoding.ids, (text, encoding.tokens)
            assert list(zip(starts, ends, strict=True)) == encoding.offsets, (text, encoding.tokens)


@pytest.fixture(scope="module")
def twins():
    return Twins(byte_pairs())


def test_edge_cases(twins):
    twins.check(EDGE_CASES)
    twins.check([])


def test_invalid_utf8_is_replaced(twins):
    twins.check([b"ab\xff\xfec", b"\xe4\xbd", b"\xf0\x9f\x98 x", b"\xed\xa0\x80"])


def test_generated_text(twins):
    draw = random.Random(1)
    twins.check(["".join(draw.choice(ALPHABET) for _ in range(draw.randrange(30))) for _ in range(5000)])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=20), min_size=1, max_size=5))
def test_any_text(twins, texts):
    twins.check(texts)


def test_the_text_it_was_learned_from(twins):
    twins.check(corpus())


def test_offsets_that_keep_their_spaces():
    content = json.loads(byte_pairs().json)
    content["post_processor"]["trim_offsets"] = False
    Twins(Tokenizer(json.dumps(content), byte_pairs().special_tokens)).check(EDGE_CASES)


@pytest.mark.slow
def test_all_code_points(twins):
    points = [chr(number) for number in range(0x110000) if not 0xD800 <= number <= 0xDFFF]
    for start in range(0, len(points), 100_000):
        part = points[start : start + 100_000]
        twins.check(["".join(f"a{c}1!{c} {c}{c}x" for c in part[i : i + 8]) for i in range(0, len(part), 8)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["glue/SST-2/train.tsv", "zh_hotels/ChnSentiCorp_htl_all.csv", "tatoeba/cmn-eng.txt", "wikitext-2/valid.txt"]
)
def test_real_text(twins, name):
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    twins.check(path.read_text(encoding="utf8").splitlines()[:20_000])
