"""Reads BERT weights of every layout that is out there into one: {TFBertModel variable name: array}.

The common names are TFBertModel's without their prefix: "encoder/layer_._0/attention/self/query/kernel"; kernels are
[input, output]. The heads of pre-training are named as `models.heads.PretrainingHeads` names them: "cls/predictions/bias",
"cls/seq_relationship/kernel". Other heads' weights ("classifier/...") keep a name that no variable of the encoder has.
"""

import re
from collections.abc import Callable, Iterator, Sequence

import ml_dtypes
import numpy as np
from transformers import BertConfig

from trainer import files
from trainer.errors import UserError
from trainer.models.pytorch_pickle import read_pytorch_weights
from trainer.runtime.checkpoints import check_folder, unescaped

Weights = dict[str, np.ndarray]


def read_weights(folder: str, bert_config: BertConfig, checkpoint: str | None = None) -> tuple[Weights, str]:
    """Reads the weights in an encoder's folder.

    Args:
      folder: holds model.safetensors (PyTorch or TensorFlow layout, whole or in shards), tf_model.h5, a Google checkpoint (TF1
        or TF2), or pytorch_model.bin.
      bert_config: transformers' BertConfig, for the shapes that TF2 checkpoints store split by heads.
      checkpoint: the prefix of the Google checkpoint to read, where it is named.

    Returns:
      (weights, the file they came from).

    Raises:
      UserError: no weights there, a damaged file, or several checkpoints of which none is named.
    """
    names = files.list_dir(folder)
    if checkpoint is not None:
        return dict(_read_google(checkpoint, bert_config)), checkpoint
    for name, read in _READERS.items():
        if name in names:
            path = files.join(folder, name)
            return _without_conflicts(path, _renamed(list(read(path)))), path
    checkpoint = _chosen_checkpoint(folder, names)
    if checkpoint is not None:
        return dict(_read_google(checkpoint, bert_config)), checkpoint
    there = ", ".join(names[:8]) or "nothing"
    if any(re.fullmatch(r".*-\d+-of-\d+\.(safetensors|bin|h5)", name) for name in names):
        raise UserError(
            f"encoder.init_from: {folder} holds shards of weights, and not the index that names them "
            f"(as model.safetensors.index.json); fetch all files of the model. Found {there}"
        )
    raise UserError(
        f"encoder.init_from: {folder} holds no weights; expected model.safetensors, tf_model.h5, pytorch_model.bin or a Google "
        f"checkpoint (bert_model.ckpt.index), found {there}"
    )


def _without_conflicts(path: str, named: Iterator[tuple[str, np.ndarray]]) -> Weights:
    weights: Weights = {}
    for name, array in named:
        if name in weights and not np.array_equal(weights[name], array):
            raise UserError(
                f"{path}: it holds several encoders: {name} is there twice, with other values; give a file with one"
            )
        weights[name] = array
    return weights


def _chosen_checkpoint(folder: str, names: list[str]) -> str | None:
    """Returns the prefix of a folder's checkpoint: the one that its file `checkpoint` names, or the only one."""
    prefixes = [name.removesuffix(".index") for name in names if re.fullmatch(r".*ckpt.*\.index", name)]
    if "checkpoint" in names and prefixes:
        found = re.search(r'^model_checkpoint_path:\s*"(.*)"', files.read_text(files.join(folder, "checkpoint")), re.MULTILINE)
        named = re.split(r"[/\\]+", found[1])[-1] if found else None
        if named in prefixes:
            return files.join(folder, named)
        if named:
            raise UserError(
                f"encoder.init_from: the file {files.join(folder, 'checkpoint')} names {named}, which is not there; there are "
                f"{', '.join(prefixes)}. Name one, as encoder.init_from={files.join(folder, prefixes[-1])}"
            )
    if len(prefixes) > 1:
        raise UserError(
            f"encoder.init_from: {folder} holds several checkpoints, and no file `checkpoint` that names one of them; name it, "
            f"as encoder.init_from={files.join(folder, prefixes[-1])}. There are {', '.join(prefixes)}"
        )
    return files.join(folder, prefixes[0]) if prefixes else None


def _read_safetensors(path: str) -> Iterator[tuple[str, np.ndarray]]:
    import safetensors

    files.check_whole(path)
    try:
        with files.open_binary(path) as file:
            tensors = safetensors.deserialize(file.read())
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: no safetensors file, or one that is cut short or damaged: {error}; fetch it again") from None
    for name, tensor in tensors:
        if tensor["dtype"] not in _SAFETENSORS_DTYPES:
            raise UserError(f"{path}: {name} is of type {tensor['dtype']}; supported are {', '.join(_SAFETENSORS_DTYPES)}")
        yield name, np.frombuffer(tensor["data"], _SAFETENSORS_DTYPES[tensor["dtype"]]).reshape(tensor["shape"])


def _read_pytorch(path: str) -> Iterator[tuple[str, np.ndarray]]:
    files.check_whole(path)
    yield from read_pytorch_weights(path).items()


def _read_shards(path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Reads the files that an index of sharded weights names, each once."""
    index = files.read_json_object(path)
    if not isinstance(index.get("weight_map"), dict):
        raise UserError(f'{path}: an index of sharded weights has a "weight_map"; this one has {", ".join(index) or "nothing"}')
    folder, names = path.rpartition("/")[0], set(map(str, index["weight_map"].values()))
    for name in sorted(names):
        shard = files.join(folder, name)
        if not files.exists(shard):
            raise UserError(f"{path}: the shard {name} that it names is missing; fetch all files of the model")
        endings = {".safetensors": _read_safetensors, ".h5": _read_h5}
        yield from next((read for ending, read in endings.items() if name.endswith(ending)), _read_pytorch)(shard)


def _renamed(named: list[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Gives weights the common names, from TensorFlow's (with slashes) or PyTorch's (with dots)."""
    if any("/" in name for name, _ in named):
        yield from ((_keras_name(name), array) for name, array in named)
        return
    # Whatever wraps an encoder puts the same prefix before its word embeddings and before its other weights.
    found = {name.removesuffix(WORD_EMBEDDINGS) for name, _ in named if name.endswith(WORD_EMBEDDINGS)}
    prefixes = sorted(found, key=len, reverse=True)
    yield from (_from_pytorch(_unwrapped(name, prefixes), array) for name, array in named)


def _unwrapped(name: str, prefixes: Sequence[str] = ()) -> str:
    """Drops the prefixes of wrappers: "module.0.auto_model.encoder.layer.0.x" → "encoder.layer.0.x".

    >>> _unwrapped("_orig_mod.module.bert.pooler.dense.weight"), _unwrapped("backbone.pooler.dense.weight", ["backbone."])
    ('pooler.dense.weight', 'pooler.dense.weight')
    """
    name = name.removeprefix(next((prefix for prefix in prefixes if name.startswith(prefix)), ""))
    while found := next((prefix for prefix in _WRAPPERS if name.startswith(prefix)), None):
        name = name.removeprefix(found)
    return name


def _from_pytorch(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Renames one PyTorch parameter; dense kernels are [output, input] there."""
    # "encoder.layer.0.x" → ["encoder", "layer_._0", "x"]
    parts = re.split(r"\.(?!\d+\.)", name)
    parts = [re.sub(r"\.(\d+)$", r"_._\1", part) for part in parts]
    if parts[-2:] == ["rel_embeddings", "weight"]:  # DeBERTa's table of distances; its TF class has the dot, too
        return "/".join([*parts[:-2], "rel_embeddings.weight"]), array
    is_norm = any(part == "LayerNorm" or part.endswith("_layer_norm") for part in parts)
    if parts[-1] in ("weight", "gamma") and is_norm:
        parts[-1] = "gamma"
    elif parts[-1] in ("bias", "beta") and is_norm:
        parts[-1] = "beta"
    elif parts[0] == "embeddings" and parts[-1] == "weight" and parts[1] != "embedding_transformation":  # MobileBERT's is dense
        parts[-1] = "weight" if parts[1] == "word_embeddings" else "embeddings"
    elif parts[-1] == "weight":
        parts[-1], array = "kernel", array.T
    return "/".join(parts), array


def _keras_name(name: str) -> str:
    """Drops the model's prefixes and ":0": "tf_bert_model/bert/pooler/dense/bias:0" → "pooler/dense/bias"."""
    name = name.removesuffix(":0")
    found = re.search(r"(?:^|/)((?:embeddings|embeddings_project|encoder|transformer|pooler)/.*)", common_name(name))
    if not found:  # transformers calls the heads' layers mlm___cls and nsp___cls
        found = re.search(r"(?:^|/)(?:mlm___|nsp___)?(cls/(?:predictions|seq_relationship)/.*)", name)
    return found.group(1) if found else name


def common_name(keras_name: str) -> str:
    """Gives MobileBERT's variables, which are called as PyTorch's, the names that others have.

    >>> common_name("mobilebert/encoder/layer_._0/ffn.0/output/LayerNorm/weight")
    'mobilebert/encoder/layer_._0/ffn_._0/output/LayerNorm/gamma'
    """
    name = re.sub(r"/ffn\.(\d+)/", r"/ffn_._\1/", keras_name)
    return re.sub("/LayerNorm/(weight|bias)$", lambda found: f"/LayerNorm/{'gamma' if found[1] == 'weight' else 'beta'}", name)


def _read_h5(path: str) -> Iterator[tuple[str, np.ndarray]]:
    import h5py

    files.check_whole(path)
    found: list[tuple[str, np.ndarray]] = []
    size = files.size(path)

    def read(name, item):
        if not isinstance(item, h5py.Dataset):
            return
        # Neither other files nor more than there are bytes: sizes are checked before memory is taken.
        if item.external or item.is_virtual or item.nbytes > size or item.dtype.kind not in "fiu":
            raise ValueError(f"{name} holds no array of numbers in this file")
        found.append((name, item[()]))

    try:
        with files.open_binary(path) as raw, h5py.File(raw, "r") as file:
            file.visititems(read)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:  # what HDF5 raises depends on what is damaged
        raise UserError(f"{path}: no HDF5 file, or one that is cut short or damaged: {error}; fetch it again") from None
    yield from found


def _read_google(prefix: str, bert_config) -> Iterator[tuple[str, np.ndarray]]:
    import tensorflow as tf

    check_folder(prefix, "encoder.init_from")
    folder, _, start = prefix.rpartition("/")
    for name in files.list_dir(folder or "."):
        if name == f"{start}.index" or name.startswith(f"{start}.data-"):
            files.check_whole(files.join(folder or ".", name))
    try:
        yield from _google_weights(tf.train.load_checkpoint(prefix), bert_config)
    except (tf.errors.OpError, ValueError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{prefix}: no checkpoint, or one that is cut short or damaged: {reason}; fetch it again") from None


def _google_weights(reader, bert_config) -> Iterator[tuple[str, np.ndarray]]:
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


WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"
_MAIN_LAYERS = ("bert.", "roberta.", "distilbert.", "electra.", "albert.")
_WRAPPERS = ("module.", "_orig_mod.", "0.auto_model.", "auto_model.", "model.", *_MAIN_LAYERS)
_SAFETENSORS_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),  # safetensors' own NumPy reader lacks it
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_READERS: dict[str, Callable[[str], Iterator[tuple[str, np.ndarray]]]] = {
    # In this order: what is there as safetensors is there as the others, too.
    "model.safetensors": _read_safetensors,
    "model.safetensors.index.json": _read_shards,
    "tf_model.h5": _read_h5,
    "tf_model.h5.index.json": _read_shards,
    "pytorch_model.bin": _read_pytorch,
    "pytorch_model.bin.index.json": _read_shards,
}
