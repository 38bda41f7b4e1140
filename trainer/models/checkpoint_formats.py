"""Reads BERT weights of every layout that is out there into one: {TFBertModel variable name: array}.

The common names are TFBertModel's without their prefix: "encoder/layer_._0/attention/self/query/kernel"; kernels are
[input, output]. The heads of pre-training are named as `models.heads.PretrainingHeads` names them: "cls/predictions/bias",
"cls/seq_relationship/kernel". Other heads' weights ("classifier/...") keep a name that no variable of the encoder has.
"""

import re
from collections.abc import Callable, Iterator

import numpy as np
from transformers import BertConfig

from trainer import files
from trainer.errors import UserError
from trainer.runtime.checkpoints import unescaped

Weights = dict[str, np.ndarray]


def read_weights(folder: str, bert_config: BertConfig) -> tuple[Weights, str]:
    """Reads the weights in an encoder's folder.

    Args:
      folder: holds model.safetensors (PyTorch or TensorFlow layout), tf_model.h5, or a Google checkpoint (TF1 or TF2).
      bert_config: transformers' BertConfig, for the shapes that TF2 checkpoints store split by heads.

    Returns:
      (weights, the file they came from).

    Raises:
      UserError: no weights there, or only in a format that needs PyTorch.
    """
    for name, reader in _READERS.items():
        for found in [entry for entry in files.list_dir(folder) if re.fullmatch(name, entry)]:
            path = files.join(folder, found)
            return dict(reader(path, bert_config)), path
    if "pytorch_model.bin" in files.list_dir(folder):
        raise UserError(
            f"{folder}: pytorch_model.bin needs PyTorch to be read; convert it once, where PyTorch is installed, with "
            "BertModel.from_pretrained(folder).save_pretrained(folder), which writes model.safetensors"
        )
    there = ", ".join(files.list_dir(folder)[:8]) or "nothing"
    raise UserError(
        f"encoder.init_from: {folder} holds no weights; expected model.safetensors, tf_model.h5 or a Google checkpoint "
        f"(bert_model.ckpt.index), found {there}"
    )


def _read_safetensors(path: str, _) -> Iterator[tuple[str, np.ndarray]]:
    import safetensors.numpy

    with files.open_binary(path) as file:
        tensors = safetensors.numpy.load(file.read())
    is_tensorflow = any(name.endswith(":0") or "/" in name for name in tensors)
    for name, array in tensors.items():
        yield (_keras_name(name), array) if is_tensorflow else _from_pytorch(name, array)


def _from_pytorch(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Renames one PyTorch parameter; dense kernels are [output, input] there."""
    parts = name.removeprefix("bert.").split(".")
    # ["encoder", "layer", "0", ...] → ["encoder", "layer_._0", ...]
    if parts[:2] == ["encoder", "layer"]:
        parts[1:3] = [f"layer_._{parts[2]}"]
    is_norm = "LayerNorm" in parts
    if parts[-1] in ("weight", "gamma") and is_norm:
        parts[-1] = "gamma"
    elif parts[-1] in ("bias", "beta") and is_norm:
        parts[-1] = "beta"
    elif parts[0] == "embeddings" and parts[-1] == "weight":
        parts[-1] = "weight" if parts[1] == "word_embeddings" else "embeddings"
    elif parts[-1] == "weight":
        parts[-1], array = "kernel", array.T
    return "/".join(parts), array


def _keras_name(name: str) -> str:
    """Drops the model's prefixes and ":0": "tf_bert_model/bert/pooler/dense/bias:0" → "pooler/dense/bias"."""
    name = name.removesuffix(":0")
    found = re.search(r"(?:^|/)((?:embeddings|encoder|pooler)/.*)", name)
    if not found:  # transformers calls the heads' layers mlm___cls and nsp___cls
        found = re.search(r"(?:^|/)(?:mlm___|nsp___)?(cls/(?:predictions|seq_relationship)/.*)", name)
    return found.group(1) if found else name


def _read_h5(path: str, _) -> Iterator[tuple[str, np.ndarray]]:
    import h5py

    with files.open_binary(path) as raw, h5py.File(raw, "r") as file:
        found: list[tuple[str, np.ndarray]] = []
        file.visititems(lambda name, item: found.append((name, item[()])) if isinstance(item, h5py.Dataset) else None)
    for name, array in found:
        yield _keras_name(name), array


def _read_google(path: str, bert_config) -> Iterator[tuple[str, np.ndarray]]:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(path.removesuffix(".index"))
    shapes = reader.get_variable_to_shape_map()
    rename: Callable = _from_google_tf2 if "_CHECKPOINTABLE_OBJECT_GRAPH" in shapes else _from_google_tf1
    bookkeeping = re.compile(r"adam_[mv]$|optimizer|OPTIMIZER|global_step|save_counter|_CHECKPOINTABLE|_power$")
    # A pre-trainer's pooler is its sentence head's; its encoder has another, which nothing trained: read first, and replaced.
    for name in sorted(shapes, key=lambda name: ("classification_heads" in name or "pooler_dense" in name, name)):
        if not bookkeeping.search(name):
            yield rename(name, reader.get_tensor(name), bert_config)


def _from_google_tf1(name: str, array: np.ndarray, _) -> tuple[str, np.ndarray]:
    name = re.sub(r"/layer_(\d+)/", r"/layer_._\1/", name.removeprefix("bert/"))
    endings = {
        "embeddings/word_embeddings": "embeddings/word_embeddings/weight",
        "embeddings/position_embeddings": "embeddings/position_embeddings/embeddings",
        "embeddings/token_type_embeddings": "embeddings/token_type_embeddings/embeddings",
        "cls/predictions/output_bias": "cls/predictions/bias",
        "cls/seq_relationship/output_weights": "cls/seq_relationship/kernel",
        "cls/seq_relationship/output_bias": "cls/seq_relationship/bias",
    }
    return endings.get(name, name), array.T if name == "cls/seq_relationship/output_weights" else array


def _from_google_tf2(name: str, array: np.ndarray, bert_config) -> tuple[str, np.ndarray]:
    """Renames one variable of Model Garden's object-based checkpoints, of a BertEncoder, BertEncoderV2 or pre-trainer.

    BertEncoder numbers its layers: word, position and type embeddings, LayerNorm, the transformer layers, the pooler.
    BertEncoderV2 calls them by name, and so does the pre-trainer (BertPretrainerV2) its heads.
    """
    path = unescaped(name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"))
    layers = bert_config.num_hidden_layers
    numbered = re.fullmatch(r"(?:\w+/)?layer_with_weights-(\d+)/(.*)", path)
    named = re.search(r"(?:^|/)(_transformer_layers/\d+|_\w+_layer)/(.*)", path)
    if numbered and int(numbered.group(1)) <= layers + 4:
        layer, rest = int(numbered.group(1)), numbered.group(2)
    elif named and named.group(1) in _TF2_LAYERS:
        layer, rest = _TF2_LAYERS.index(named.group(1)), named.group(2)
    elif named and named.group(1).startswith("_transformer_layers/"):
        layer, rest = 4 + int(named.group(1).rpartition("/")[2]), named.group(2)
    elif named and named.group(1) == "_pooler_layer":
        layer, rest = layers + 4, named.group(2)
    else:
        return _tf2_head(path), array
    tables = ["word_embeddings/weight", "position_embeddings/embeddings", "token_type_embeddings/embeddings"]
    if layer < len(tables):
        return f"embeddings/{tables[layer]}", array
    if layer == 3:
        return f"embeddings/LayerNorm/{rest}", array
    if layer == layers + 4:
        return f"pooler/dense/{rest.removeprefix('dense/')}", array
    part, _, ending = rest.rpartition("/")
    if part.startswith("_attention"):  # kernels [H, heads, size] or [heads, size, H], biases [heads, size]
        hidden = bert_config.hidden_size
        array = array.reshape([hidden, hidden] if ending == "kernel" else [hidden])
    return f"encoder/layer_._{layer - 4}/{_TF2_PARTS.get(part, part)}/{ending}", array


_TF2_LAYERS = ["_embedding_layer", "_position_embedding_layer", "_type_embedding_layer", "_embedding_norm_layer"]
_TF2_PARTS = {
    "_attention_layer/_query_dense": "attention/self/query",
    "_attention_layer/_key_dense": "attention/self/key",
    "_attention_layer/_value_dense": "attention/self/value",
    "_attention_layer/_output_dense": "attention/output/dense",
    "_attention_output_dense": "attention/output/dense",
    "_attention_layer_norm": "attention/output/LayerNorm",
    "_intermediate_dense": "intermediate/dense",
    "_output_dense": "output/dense",
    "_output_layer_norm": "output/LayerNorm",
}
_TF2_HEADS = {
    "masked_lm/dense/kernel": "cls/predictions/transform/dense/kernel",
    "masked_lm/dense/bias": "cls/predictions/transform/dense/bias",
    "masked_lm/layer_norm/gamma": "cls/predictions/transform/LayerNorm/gamma",
    "masked_lm/layer_norm/beta": "cls/predictions/transform/LayerNorm/beta",
    "masked_lm/output_bias/bias": "cls/predictions/bias",
    "masked_lm/embedding_table": "embeddings/word_embeddings/weight",  # shared: kept under the first name that is found
    "next_sentence.pooler_dense/kernel": "pooler/dense/kernel",
    "next_sentence.pooler_dense/bias": "pooler/dense/bias",
    "classification_heads/0/dense/kernel": "pooler/dense/kernel",
    "classification_heads/0/dense/bias": "pooler/dense/bias",
    "classification_heads/0/out_proj/kernel": "cls/seq_relationship/kernel",
    "classification_heads/0/out_proj/bias": "cls/seq_relationship/bias",
}


def _tf2_head(path: str) -> str:
    return _TF2_HEADS.get(path.removeprefix("model/"), path)


_READERS = {
    r"model\.safetensors": _read_safetensors,
    r"tf_model\.h5": _read_h5,
    r".*ckpt.*\.index": _read_google,
}
