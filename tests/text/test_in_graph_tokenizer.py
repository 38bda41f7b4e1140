"""Which twin a tokenizer has; that the twins are exact is in test_in_graph_wordpiece.py and test_in_graph_byte_pairs.py."""

import tensorflow as tf

from tests.text.learned_tokenizers import byte_pairs
from trainer.text.in_graph_byte_pairs import InGraphBytePairs
from trainer.text.in_graph_tokenizer import build_in_graph_tokenizer, owners_of, places_within, utf8_lengths
from trainer.text.in_graph_wordpiece import InGraphWordPiece


def test_the_model_decides(tokenizer):
    assert isinstance(build_in_graph_tokenizer(tokenizer), InGraphWordPiece)
    assert isinstance(build_in_graph_tokenizer(byte_pairs()), InGraphBytePairs)


def test_elements_of_entries():
    lengths = tf.constant([2, 0, 3])
    owners = owners_of(lengths)
    assert owners.numpy().tolist() == [0, 0, 2, 2, 2]
    assert places_within(lengths, owners).numpy().tolist() == [0, 1, 0, 1, 2]


def test_bytes_of_code_points():
    text = "a\x7f\x80é\u07ff\u0800人\uffff\U00010000😀"
    assert utf8_lengths(tf.constant([ord(c) for c in text])).numpy().tolist() == [len(c.encode()) for c in text]
