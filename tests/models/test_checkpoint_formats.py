"""Every layout of BERT weights gives the same arrays; each is written here as its own tool writes it."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from tests.conftest import tiny_config
from trainer.errors import UserError
from trainer.models.checkpoint_formats import read_weights
from trainer.models.encoder import BertEncoder
from trainer.models.initialization import variable_key

CONFIG = tiny_config(vocab_size=50)


@pytest.fixture(scope="module")
def encoder():
    return BertEncoder(CONFIG)


@pytest.fixture(scope="module")
def expected(encoder):
    return {variable_key(variable.name): variable.numpy() for variable in encoder.model.weights}


def assert_reads(folder, expected, file_name):
    found, source = read_weights(str(folder), CONFIG)
    assert source.endswith(file_name)
    assert set(expected) <= set(found)
    assert all(np.array_equal(found[name], value) for name, value in expected.items())
    return found


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_pytorch_layout(tmp_path, expected, prefix):
    from trainer.serving.hugging_face import pytorch_name

    tensors = {
        prefix + pytorch_name(name): np.ascontiguousarray(value.T) if name.endswith("kernel") else value
        for name, value in expected.items()
    }
    tensors["cls.predictions.bias"] = np.zeros(3, "float32")
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    found = assert_reads(tmp_path, expected, "model.safetensors")
    assert "cls/predictions/bias" in found


def test_old_pytorch_names_of_layer_norm(tmp_path):
    tensors = {"bert.embeddings.LayerNorm.gamma": np.ones(2), "bert.embeddings.LayerNorm.beta": np.zeros(2)}
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    assert set(read_weights(str(tmp_path), CONFIG)[0]) == {"embeddings/LayerNorm/gamma", "embeddings/LayerNorm/beta"}


def test_tensorflow_layouts_as_transformers_writes_them(tmp_path, encoder, expected):
    encoder.model.save_pretrained(tmp_path / "safetensors", safe_serialization=True)
    assert_reads(tmp_path / "safetensors", expected, "model.safetensors")
    encoder.model.save_pretrained(tmp_path / "h5", safe_serialization=False)
    assert_reads(tmp_path / "h5", expected, "tf_model.h5")


def test_google_tf1_checkpoint(tmp_path, expected):
    names = {
        "embeddings/word_embeddings/weight": "embeddings/word_embeddings",
        "embeddings/position_embeddings/embeddings": "embeddings/position_embeddings",
        "embeddings/token_type_embeddings/embeddings": "embeddings/token_type_embeddings",
    }
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in expected.items():
            google = "bert/" + names.get(name, name).replace("layer_._", "layer_")
            tf.compat.v1.get_variable(google, initializer=value)
            tf.compat.v1.get_variable(f"{google}/adam_m", initializer=value)
        tf.compat.v1.get_variable("global_step", initializer=7)
        tf.compat.v1.get_variable("cls/predictions/output_bias", initializer=[0.0])
        tf.compat.v1.get_variable("cls/predictions/transform/LayerNorm/gamma", initializer=[1.0])
        tf.compat.v1.get_variable("cls/seq_relationship/output_weights", initializer=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        tf.compat.v1.get_variable("cls/seq_relationship/output_bias", initializer=[7.0, 8.0])
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "bert_model.ckpt"))
    found = assert_reads(tmp_path, expected, "bert_model.ckpt")
    heads = {name: value.tolist() for name, value in found.items() if name not in expected}
    assert heads == {
        "cls/predictions/bias": [0.0],
        "cls/predictions/transform/LayerNorm/gamma": [1.0],
        "cls/seq_relationship/kernel": [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]],
        "cls/seq_relationship/bias": [7.0, 8.0],
    }


def holder(**values):
    """An object with these attributes, arrays as variables, as Model Garden's layers are saved."""
    module = tf.Module()
    for name, value in values.items():
        setattr(module, name, tf.Variable(value) if isinstance(value, np.ndarray) else value)
    return module


def model_garden_layers(expected):
    """Model Garden's layers by their place, attention split by heads: (embeddings and norm, transformer layers, pooler)."""

    def dense(prefix, shape=None, bias_shape=None):
        kernel, bias = expected[f"{prefix}/kernel"], expected[f"{prefix}/bias"]
        return holder(kernel=kernel.reshape(shape or kernel.shape), bias=bias.reshape(bias_shape or bias.shape))

    def norm(prefix):
        return holder(gamma=expected[f"{prefix}/gamma"], beta=expected[f"{prefix}/beta"])

    heads, size = CONFIG.num_attention_heads, CONFIG.hidden_size // CONFIG.num_attention_heads
    split, split_bias, merge = (heads * size, heads, size), (heads, size), (heads, size, heads * size)
    embeddings = [
        holder(embeddings=expected["embeddings/word_embeddings/weight"]),
        holder(embeddings=expected["embeddings/position_embeddings/embeddings"]),
        holder(embeddings=expected["embeddings/token_type_embeddings/embeddings"]),
        norm("embeddings/LayerNorm"),
    ]
    transformer = []
    for number in range(CONFIG.num_hidden_layers):
        prefix = f"encoder/layer_._{number}"
        attention = holder(
            _query_dense=dense(f"{prefix}/attention/self/query", split, split_bias),
            _key_dense=dense(f"{prefix}/attention/self/key", split, split_bias),
            _value_dense=dense(f"{prefix}/attention/self/value", split, split_bias),
            _output_dense=dense(f"{prefix}/attention/output/dense", merge),
        )
        transformer.append(
            holder(
                _attention_layer=attention,
                _attention_layer_norm=norm(f"{prefix}/attention/output/LayerNorm"),
                _intermediate_dense=dense(f"{prefix}/intermediate/dense"),
                _output_dense=dense(f"{prefix}/output/dense"),
                _output_layer_norm=norm(f"{prefix}/output/LayerNorm"),
            )
        )
    return embeddings, transformer, dense("pooler/dense")


def test_google_tf2_checkpoint(tmp_path, expected):
    """BertEncoder's: layers with weights by number."""
    embeddings, transformer, pooler = model_garden_layers(expected)
    layers = [*embeddings, *transformer, pooler]
    model = tf.train.Checkpoint(**{f"layer_with_weights-{i}": layer for i, layer in enumerate(layers)})
    tf.train.Checkpoint(model=model).write(str(tmp_path / "bert_model.ckpt"))
    assert_reads(tmp_path, expected, "bert_model.ckpt")


@pytest.mark.parametrize("root", ["items", "model"])
def test_google_tf2_pretrainer(tmp_path, expected, root):
    """BertPretrainerV2's: BertEncoderV2's layers by name, and its heads; as checkpoint items, or inside a trainer's model.

    As Model Garden 2.20 writes them: the word embeddings under the head's name, and a pooler of the encoder that nothing uses.
    """
    (words, positions, types, norm), transformer, pooler = model_garden_layers(expected)
    encoder = holder(
        _embedding_layer=words,
        _position_embedding_layer=positions,
        _type_embedding_layer=types,
        _embedding_norm_layer=norm,
        _transformer_layers=transformer,
        _pooler_layer=holder(kernel=np.zeros([32, 32]), bias=np.zeros(32)),
    )
    generator = np.random.default_rng(3)
    transform, pair = (holder(kernel=generator.random((32, n)), bias=generator.random(n)) for n in (32, 2))
    masked_lm = holder(
        dense=transform,
        layer_norm=holder(gamma=generator.random(32), beta=generator.random(32)),
        embedding_table=words.embeddings,
    )
    bias = tf.Variable(generator.random(50))
    setattr(masked_lm, "output_bias/bias", bias)
    if root == "items":
        items = {"encoder": encoder, "masked_lm": masked_lm, "next_sentence.pooler_dense": pooler}
        tf.train.Checkpoint(**items).write(str(tmp_path / "ckpt-1"))
    else:
        heads = [holder(dense=pooler, out_proj=pair)]
        model = holder(encoder_network=encoder, masked_lm=masked_lm, classification_heads=heads)
        tf.train.Checkpoint(model=model).write(str(tmp_path / "ckpt-1"))
    found = assert_reads(tmp_path, expected, "ckpt-1")
    assert np.array_equal(found["cls/predictions/transform/dense/kernel"], transform.kernel.numpy())
    assert np.array_equal(found["cls/predictions/transform/LayerNorm/beta"], masked_lm.layer_norm.beta.numpy())
    assert np.array_equal(found["cls/predictions/bias"], bias.numpy())
    assert root == "items" or np.array_equal(found["cls/seq_relationship/kernel"], pair.kernel.numpy())


def test_transformers_heads_in_tensorflow_layout(tmp_path):
    from transformers import TFBertForPreTraining

    model = TFBertForPreTraining(CONFIG)
    model(model.dummy_inputs)
    model.save_pretrained(tmp_path, safe_serialization=False)
    found, _ = read_weights(str(tmp_path), CONFIG)
    heads = {name for name in found if name.startswith("cls/")}
    assert {"cls/predictions/bias", "cls/predictions/transform/LayerNorm/gamma", "cls/seq_relationship/kernel"} <= heads
    assert found["cls/seq_relationship/kernel"].shape == (32, 2)


def pytorch_tensors(expected, prefix=""):
    """The weights as PyTorch names them and lays them out."""
    from trainer.serving.hugging_face import pytorch_name

    return {
        prefix + pytorch_name(name): np.ascontiguousarray(value.T) if name.endswith("kernel") else value
        for name, value in expected.items()
    }


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "0.auto_model.", "model.", "model.bert.", "_orig_mod.module.bert.", "0.auto_model.bert."]
    + ["encoder.", "backbone.", "base_model.model."],
)
def test_prefixes_of_wrappers(tmp_path, expected, prefix):
    safetensors.numpy.save_file(pytorch_tensors(expected, prefix), tmp_path / "model.safetensors")
    assert_reads(tmp_path, expected, "model.safetensors")


def test_two_encoders_in_one_file_are_refused(tmp_path, expected):
    both = pytorch_tensors(expected, "model.") | pytorch_tensors({k: v + 1 for k, v in expected.items()}, "bert.")
    safetensors.numpy.save_file(both, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="it holds several encoders: .* is there twice, with other values"):
        read_weights(str(tmp_path), CONFIG)


def write_safetensors(path, dtype, arrays):
    """Writes the format by hand: safetensors' NumPy writer has no bfloat16 (https://huggingface.co/docs/safetensors)."""
    header, content = {}, b""
    for name, array in arrays.items():
        end = len(content) + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(content), end]}
        content += array.tobytes()
    told = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(told)) + told + content)


@pytest.mark.parametrize(
    ("dtype", "kind", "tolerance"), [("F64", np.float64, 0), ("F16", np.float16, 1e-3), ("BF16", ml_dtypes.bfloat16, 8e-3)]
)
def test_other_float_types(tmp_path, expected, dtype, kind, tolerance):
    tensors = {name: value.astype(kind) for name, value in pytorch_tensors(expected).items()}
    write_safetensors(tmp_path / "model.safetensors", dtype, tensors)
    found, _ = read_weights(str(tmp_path), CONFIG)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].astype(np.float32), value, rtol=tolerance, atol=1e-7)


def test_shards(tmp_path, expected):
    tensors = pytorch_tensors(expected)
    weight_map = {}
    for number, names in enumerate(np.array_split(sorted(tensors), 3)):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in names}, tmp_path / file)
        weight_map |= {str(name): file for name in names}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_reads(tmp_path, expected, "model.safetensors.index.json")
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="the shard model-00002-of-00003.safetensors that it names is missing"):
        read_weights(str(tmp_path), CONFIG)
    index.write_text("{}")
    with pytest.raises(UserError, match='an index of sharded weights has a "weight_map"; this one has nothing'):
        read_weights(str(tmp_path), CONFIG)


def test_shards_without_their_index(tmp_path, expected):
    safetensors.numpy.save_file(pytorch_tensors(expected), tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match="holds shards of weights, and not the index that names them"):
        read_weights(str(tmp_path), CONFIG)


def test_shards_of_other_formats(tmp_path, encoder, expected):
    encoder.model.save_pretrained(tmp_path, safe_serialization=False, max_shard_size="20KB")
    assert len(list(tmp_path.glob("tf_model-*.h5"))) > 1
    assert_reads(tmp_path, expected, "tf_model.h5.index.json")


def test_of_several_checkpoints_the_named_one(tmp_path):
    variable = tf.Variable([0.0])
    for step in (0, 1000, 20000):
        variable.assign([float(step)])
        tf.train.Checkpoint(x=variable).write(str(tmp_path / f"model.ckpt-{step}"))
    name = "x"
    with pytest.raises(
        UserError, match="holds several checkpoints, and no file `checkpoint` that names one of them; name it, as"
    ):
        read_weights(str(tmp_path), CONFIG)
    found, source = read_weights(str(tmp_path), CONFIG, str(tmp_path / "model.ckpt-1000"))
    assert source.endswith("model.ckpt-1000") and found[name] == [1000.0]
    # Google's files name the folder of another machine.
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/home/other/model.ckpt-20000"\n')
    found, source = read_weights(str(tmp_path), CONFIG)
    assert source.endswith("model.ckpt-20000") and found[name] == [20000.0]
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"\n')
    with pytest.raises(UserError, match="names model.ckpt-7, which is not there; there are model.ckpt-0, model.ckpt-1000"):
        read_weights(str(tmp_path), CONFIG)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "C:\\\\other\\\\model.ckpt-1000"\n')
    assert read_weights(str(tmp_path), CONFIG)[1].endswith("model.ckpt-1000")
    (tmp_path / "model.ckpt-1000.index").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="model.ckpt-1000.index: this is a git-lfs pointer"):
        read_weights(str(tmp_path), CONFIG)


@pytest.mark.parametrize("name", ["model.safetensors", "tf_model.h5", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs.*git lfs pull"),
        (b"", "the file is empty; fetch it again"),
        (b"\x10\x00\x00\x00", "cut short or damaged|or a damaged one"),
        (b"<html>404: not found</html>", "cut short or damaged|or a damaged one"),
    ],
)
def test_damaged_weights_name_their_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: .*({message})"):
        read_weights(str(tmp_path), CONFIG)


def test_a_damaged_checkpoint_names_itself(tmp_path):
    (tmp_path / "bert_model.ckpt.index").write_bytes(b"nothing")
    with pytest.raises(UserError, match="bert_model.ckpt: no checkpoint, or one that is cut short or damaged"):
        read_weights(str(tmp_path), CONFIG)


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UserError, match=r"holds no weights; expected model.safetensors, .* found nothing"):
        read_weights(str(tmp_path), CONFIG)
    write_safetensors(tmp_path / "model.safetensors", "I16", {"x": np.zeros(1, np.int16)})
    with pytest.raises(UserError, match="x is of type I16; supported are F64, F32"):
        read_weights(str(tmp_path), CONFIG)


def test_h5_files_that_are_damaged_or_reach_elsewhere(tmp_path):
    import h5py

    path, secret = tmp_path / "tf_model.h5", tmp_path / "secret"
    secret.write_bytes(bytes(4000))
    told = r"tf_model.h5: no HDF5 file, or one that is cut short or damaged: .*; fetch it again"
    with h5py.File(path, "w") as file:
        file.create_dataset("bert/pooler/dense/bias:0", data=np.ones(4, np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=told):
        read_weights(str(tmp_path), CONFIG)
    shapes = [{"external": [(str(secret), 0, 4000)], "shape": (1000,)}, {"shape": (10**12,), "chunks": (1000,)}]
    for shape in shapes:
        with h5py.File(path, "w") as file:
            file.create_dataset("bert/pooler/dense/bias:0", dtype="f4", **shape)
        with pytest.raises(UserError, match="bert/pooler/dense/bias:0 holds no array of numbers in this file"):
            read_weights(str(tmp_path), CONFIG)
