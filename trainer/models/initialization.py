"""Reads an encoder's config, loads its weights, and reports what became of each weight."""

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from transformers import BertConfig

from trainer import files
from trainer.errors import UserError
from trainer.models.checkpoint_formats import Weights, common_name, read_weights
from trainer.models.encoder import BertEncoder
from trainer.models.encoder_folders import is_workdir
from trainer.models.families import FAMILIES
from trainer.runtime.checkpoints import check_folder, read_variables

CONFIG_NAMES = ("config.json", "bert_config.json")
DECODER, GENERATOR = "tf_bert_decoder", "generator"  # transformers' models in a run that are not its encoder
# What the names of a checkpoint's weights begin with that an encoder does not start from: some are called as its own.
OTHERS = ("optimizer/", "start/", f"{DECODER}/", f"{GENERATOR}/")


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of every weight.

    Attributes:
      source: the file that was read.
      loaded: variables that took their value from it.
      missing: variables that it lacks; they keep their random values.
      unused: weights of the file that the model has no place for (heads).
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def lines(self) -> list[str]:
        """Returns the report for the log."""
        lines = [f"encoder weights: {len(self.loaded)} loaded from {self.source}"]
        if self.missing:
            lines.append(f"  not in the file, left random: {', '.join(self.missing)}")
        if self.unused:
            lines.append(f"  in the file, not part of this model: {', '.join(self.unused)}")
        return lines


def read_bert_config(folder: str) -> BertConfig:
    """Reads a folder's config.json, or Google's bert_config.json; or the json file that is named itself.

    Raises:
      UserError: neither is there, or it describes another architecture than BERT.
    """
    if is_workdir(folder):
        folder = files.join(folder, "checkpoints")
    candidates = [folder] if folder.endswith(".json") else [files.join(folder, name) for name in CONFIG_NAMES]
    path = next((path for path in candidates if files.exists(path)), None)
    if path is None:
        if folder.endswith(".json"):
            raise UserError(f"encoder.config_path: no file {folder}")
        raise UserError(f"encoder.init_from: {folder} has no {' or '.join(CONFIG_NAMES)}")
    stored = files.read_json_object(path)
    kind = stored.get("model_type", "bert")
    if kind not in FAMILIES:
        raise UserError(f"encoder.init_from: {path} is a {kind!r} model; supported are {', '.join(FAMILIES)}")
    if stored.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{path}: position_embedding_type {stored['position_embedding_type']!r}; BERT's is 'absolute'")
    try:
        return config_of(stored)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: no usable config of a BERT: {error}") from None


def config_of(stored: Mapping[str, Any]) -> BertConfig:
    """Returns the config that a config.json holds: a BertConfig, or that of another encoder of the family."""
    found: Any = FAMILIES[stored.get("model_type", "bert")].config_class.from_dict(dict(stored))
    return found


def load_encoder_weights(
    encoder: BertEncoder,
    folder: str,
    allow_missing: Sequence[str] = (),
    head: Sequence[tf.Variable] = (),
    extend: Callable[[Weights], Weights] = dict,
    checkpoint: str | None = None,
) -> LoadReport:
    """Loads an encoder folder's weights into an encoder.

    Args:
      encoder: takes the weights.
      folder: see `checkpoint_formats.read_weights`.
      allow_missing: patterns of variables that the file may lack, as "pooler/*".
      head: other variables that take their weights too, where the file has them.
      extend: fits the weights to more words or positions than they were trained for.
      checkpoint: the prefix of the checkpoint in the folder, where one is named.

    Raises:
      UserError: a weight of another shape, or a missing one that no pattern allows.
    """
    if is_workdir(folder):
        weights, source = _read_workdir(folder)
    else:
        weights, source = read_weights(folder, encoder.bert_config, checkpoint)
    return assign(encoder, extend(weights), source, allow_missing, head)


def _read_workdir(workdir: str) -> tuple[Weights, str]:
    """Reads the best model of an earlier run, or its latest."""
    folder = files.join(workdir, "checkpoints")
    check_folder(workdir, "encoder.init_from")
    for pointer in ("best.json", "latest.json"):
        if files.exists(files.join(folder, pointer)):
            prefix = files.join(folder, files.read_json(files.join(folder, pointer))["name"], "weights")
            try:
                stored = read_variables(prefix)
            except tf.errors.OpError as error:
                reason = str(error).strip().splitlines()[0]
                raise UserError(f"encoder.init_from: {prefix} cannot be read: {reason}") from None
            model = {name: value for name, value in stored.items() if not name.startswith(OTHERS)}
            return {variable_key(name): value for name, value in model.items()}, prefix
    raise UserError(f"encoder.init_from: the workdir {workdir} has no checkpoint yet; its training has not saved one")


def assign(
    encoder: BertEncoder, weights: Weights, source: str, allow_missing: Sequence[str], head: Sequence[tf.Variable] = ()
) -> LoadReport:
    """Assigns weights by name; see `load_encoder_weights`."""
    of_encoder = {variable_key(variable.name): variable for variable in encoder.model.weights}
    variables = of_encoder | {variable_key(variable.name): variable for variable in head}
    missing = [name for name in variables if name not in weights]
    forbidden = [
        name for name in missing if name in of_encoder and not any(fnmatch.fnmatch(name, pattern) for pattern in allow_missing)
    ]
    if forbidden:
        raise UserError(
            f"{source} lacks {len(forbidden)} of the encoder's {len(of_encoder)} weights: {', '.join(forbidden[:4])}"
            f"{', ...' if len(forbidden) > 4 else ''}; they would stay random. If that is meant, allow them by name: "
            f"--set 'encoder.allow_missing=[{forbidden[0].split('/')[0]}/*]'"
        )
    for name, variable in variables.items():
        if name in weights:
            if np.issubdtype(weights[name].dtype, np.integer):
                raise UserError(f"{source}: {name} holds integers: the weights are quantized; give the encoder that was not")
            value = np.asarray(weights[name], np.float32)
            if value.shape != tuple(variable.shape):
                raise UserError(
                    f"{source}: {name} has shape {list(value.shape)}, the encoder's config asks for {list(variable.shape)}"
                )
            variable.assign(value)
    unused = tuple(sorted(name for name in weights if name not in variables and not name.endswith("position_ids")))
    loaded = tuple(name for name in variables if name in weights)
    return LoadReport(source, loaded, tuple(missing), unused)


def variable_key(variable_name: str) -> str:
    """Returns the name that all layouts share; a head's variable keeps its own.

    >>> variable_key("tf_bert_model/bert/pooler/dense/bias:0"), variable_key("head/dense/bias")
    ('pooler/dense/bias', 'head/dense/bias')
    >>> variable_key("encoder/tf_roberta_model/roberta/embeddings/LayerNorm/beta:0")
    'embeddings/LayerNorm/beta'
    """
    name = common_name(variable_name.removesuffix(":0"))
    found = re.search(r"(?:bert|roberta|electra|deberta)/(.*)", name)  # of DistilBERT, ALBERT and MobileBERT, too
    return found[1] if found else name
