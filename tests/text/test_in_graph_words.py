import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.text.learned_tokenizers import byte_pairs
from trainer.text.in_graph_tokenizer import build_in_graph_tokenizer
from trainer.text.in_graph_words import graph_continues_word, graph_without_spaces, graph_word_starts
from trainer.text.words import RULES, continues_word, without_spaces, word_starts

TEXTS = ["We (U.S.) won't.", "", "我在Berlin吃饭。", "... ok?!", "a\u200b.b  unaffableness", "[MASK]- x"]


@pytest.fixture(scope="module")
def in_graph(tokenizer):
    tokenize = build_in_graph_tokenizer(tokenizer)
    continues = tf.constant([token.startswith("##") for token in tokenizer.tokens()])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def starts(texts):
        ids, starts, ends = tokenize.with_offsets(texts)
        points = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        flags = ids.with_flat_values(tf.gather(continues, ids.flat_values))
        found = [graph_word_starts(points, starts, ends, flags, name).flat_values for name in RULES]
        return ids.with_flat_values(tf.stack(found, axis=-1))

    return lambda texts: starts(tf.constant(texts)).to_list()


def check(tokenizer, in_graph, texts):
    found = in_graph(texts)
    for row, text in enumerate(texts):
        ids, offsets = tokenizer.encode_with_offsets(text)
        continues = [tokenizer.backend.id_to_token(number).startswith("##") for number in ids]
        for place, rule in enumerate(RULES):
            expected = word_starts(text, offsets, continues, rule).tolist()
            assert [token[place] for token in found[row]] == expected, (text, rule)


def test_the_graph_cuts_as_the_rules_say(tokenizer, in_graph):
    check(tokenizer, in_graph, TEXTS)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="ab1.,'(-$ 中あ\u0301é\u200b\n😀", max_size=20), min_size=1, max_size=5))
def test_any_text(tokenizer, in_graph, texts):
    check(tokenizer, in_graph, texts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="ab1.,'(-$ 中あ\u0301é\u3000\n😀", max_size=20), min_size=1, max_size=5))
def test_places_without_spaces_and_what_continues_a_word(texts):
    tokenizer = byte_pairs()
    for row, (ids, starts, ends, continues) in enumerate(zip(*_of_byte_pairs(tf.constant(texts)), strict=True)):
        expected_ids, offsets = tokenizer.encode_with_offsets(texts[row])
        places = without_spaces(texts[row], offsets)
        kept = [(number, *place) for number, place in zip(expected_ids, places, strict=True) if place[0] < place[1]]
        assert list(zip(ids, starts, ends, strict=True)) == kept
        assert continues == continues_word(texts[row], [place for _, *place in kept]).tolist()


def _of_byte_pairs(texts):
    ids, *places = build_in_graph_tokenizer(byte_pairs()).with_offsets(texts)
    points = tf.strings.unicode_decode(texts, "UTF-8")
    starts, ends = graph_without_spaces(points, *places)
    ids, starts, ends = (tf.ragged.boolean_mask(values, starts < ends) for values in (ids, starts, ends))
    return [part.to_list() for part in (ids, starts, ends, graph_continues_word(points, starts, ends))]
