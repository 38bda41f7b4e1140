import pytest
import tensorflow as tf

from tests.conftest import tiny_config
from trainer.models.encoder import BertEncoder, Pooler, check_fits


def test_freezing_stops_the_embeddings_and_the_lower_layers():
    encoder = BertEncoder(tiny_config())
    assert encoder.freeze(0) == []
    assert encoder.freeze(1) == ["embeddings", "layer 0"]
    names = [variable.name for variable in encoder.trainable_variables]
    assert not [name for name in names if "/embeddings/" in name or "layer_._0/" in name]
    assert [name for name in names if "layer_._1/" in name] and [name for name in names if "pooler" in name]
    with pytest.raises(ValueError, match="3 is more than the encoder has: 2"):
        encoder.freeze(3)
    assert encoder.freeze(-1) == ["the whole encoder"] and encoder.trainable_variables == []


def test_the_top_layers_begin_anew():
    encoder = BertEncoder(tiny_config(num_hidden_layers=3))
    for variable in encoder.model.weights:
        variable.assign(tf.fill(variable.shape, 7.0))
    encoder.reinitialize(2)
    for variable in encoder.model.weights:
        is_kept = "/embeddings/" in variable.name or "layer_._0/" in variable.name
        values = variable.numpy()
        if is_kept:
            assert (values == 7).all(), variable.name
        elif "gamma" in variable.name or "beta" in variable.name or "bias" in variable.name:
            assert (values == float("gamma" in variable.name)).all(), variable.name
        else:
            assert 0.01 < values.std() < 0.03 and abs(values.mean()) < 0.01, variable.name
    with pytest.raises(ValueError, match="4 is more than the encoder has: 3"):
        encoder.reinitialize(4)


def test_depths_rise_from_the_embeddings_to_the_head():
    encoder = BertEncoder(tiny_config())
    depths = {encoder.depth_of(variable.name) for variable in encoder.variables}
    assert depths == {0, 1, 2, 3} and encoder.depth_of("head/dense/kernel:0") == 3


def test_the_encoder_owns_the_poolers_weights():
    assert Pooler(BertEncoder(tiny_config())).trainable_variables == []


def test_vocabulary_length_and_token_types_must_fit():
    assert check_fits(tiny_config(), 30522, 128, 2) is None
    assert "the tokenizer has 30523 ids, the encoder embeddings for 30522" in check_fits(tiny_config(), 30523, 128, 2)
    assert "set data.max_seq_length to 128 or less" in check_fits(tiny_config(max_position_embeddings=128), 30522, 129, 2)
    assert check_fits(tiny_config(type_vocab_size=1), 30522, 128, 1) is None
    assert "the encoder's type_vocab_size is 1; choose" in check_fits(tiny_config(type_vocab_size=1), 30522, 128, 2)
