"""How texts are cut and laid out; that their ids are Hugging Face's is in tests/text/test_in_graph_wordpiece.py."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.serving import native_inputs
from trainer.serving.native_inputs import NativeInputs
from trainer.serving.text_inputs import GraphInputs, cut_pairs
from trainer.text.sequences import pair_lengths, pair_sequence, single_sequence

WORDS = ["good", "unbelievable", "[MASK]", "Ünïcödé", "42", "\udcff".encode("utf8", "surrogateescape"), "…"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=6), st.integers(2, 20))
def test_pairs_are_cut_in_graph_as_in_preparation(lengths, budget):
    first, second = (
        tf.ragged.constant([list(range(row[i])) for row in lengths], dtype=tf.int32, ragged_rank=1) for i in (0, 1)
    )
    kept = cut_pairs(first, second, budget)
    found = list(zip(*[part.row_lengths().numpy().tolist() for part in kept], strict=True))
    assert found == [pair_lengths(a, b, budget) for a, b in lengths]
    assert all(row == list(range(len(row))) for row in kept[0].to_list()), "the beginning is what stays"


@pytest.fixture(scope="module", params=[GraphInputs, NativeInputs])
def inputs_of(request, tokenizer):
    """Returns what lays out texts of up to 12 tokens, in rows of about 64."""
    if request.param is NativeInputs:
        request.getfixturevalue("native_inference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_inputs, "PIECE_TOKENS", 64)
        return request.param(tokenizer, 12)


def example_of(packed, place):
    """Returns (input_ids, token_type_ids) of a text, found through its slot alone."""
    row, slot = divmod(int(place), packed["cls_positions"].shape[1])
    start = int(packed["cls_positions"][row, slot])
    segments = packed["segment_ids"][row].numpy()
    cells = np.flatnonzero(segments == segments[start])
    assert np.array_equal(cells, np.arange(start, start + len(cells))), "side by side, and the [CLS] first"
    assert packed["position_ids"].numpy()[row, cells].tolist() == list(range(len(cells)))
    return packed["input_ids"].numpy()[row, cells].tolist(), packed["token_type_ids"].numpy()[row, cells].tolist()


TEXTS = st.lists(st.sampled_from(WORDS), max_size=9).map(
    lambda words: b" ".join(word if isinstance(word, bytes) else word.encode() for word in words)
)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(TEXTS, max_size=30))
def test_each_text_is_the_sequence_of_preparation(inputs_of, tokenizer, texts):
    packed, places = inputs_of(tf.constant(texts, tf.string))
    for text, place in zip(texts, places.numpy(), strict=True):
        expected = single_sequence(tokenizer.encode(text.decode(errors="replace")), tokenizer, 12)
        assert example_of(packed, place) == (expected, [0] * len(expected))
    assert packed["input_ids"].shape[1] <= 64 + 12, "about 64: one text more at the most"
    assert not packed["input_ids"].numpy()[packed["segment_ids"].numpy() == 0].any()
    assert len(set(places.numpy().tolist())) == len(texts)


@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), max_size=20))
def test_each_pair_is_the_sequence_of_preparation(inputs_of, tokenizer, pairs):
    columns = [tf.constant([pair[i] for pair in pairs], tf.string) for i in (0, 1)]
    packed, places = inputs_of(*columns)
    for pair, place in zip(pairs, places.numpy(), strict=True):
        ids = [tokenizer.encode(text.decode(errors="replace")) for text in pair]
        assert example_of(packed, place) == pair_sequence(*ids, tokenizer, 12)
