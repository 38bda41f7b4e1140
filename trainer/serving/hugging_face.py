"""The run as Hugging Face files: what transformers' from_pretrained loads, in PyTorch and in TensorFlow."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer import files
from trainer.models.encoder import BertEncoder
from trainer.models.initialization import variable_key
from trainer.text.tokenizer import Tokenizer


def write_hugging_face(
    folder: str,
    encoder: BertEncoder,
    tokenizer: Tokenizer,
    architecture: str,
    head: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    problem_type: str | None = None,
    others: Mapping[str, Any] | None = None,
) -> None:
    """Writes config, tokenizer and weights.

    `model.safetensors` has PyTorch's layout, which is what the Hub's tools read; `tf_model.h5` is for TensorFlow without
    PyTorch: `TFBertModel.from_pretrained(folder, use_safetensors=False)`.

    Args:
      folder: local or remote.
      encoder: its weights and config.
      tokenizer: the run's.
      architecture: the transformers class that the weights are of, "BertForSequenceClassification"; "BertModel" without a head.
        For another encoder of the family its own, which is written without the head where that differs from ours.
      head: the head's weights by PyTorch's names, as {"classifier.weight": [classes, hidden], ...}.
      class_names: of a classifier's head; others have two unnamed ones, as transformers' question answering.
      problem_type: of a classifier: how transformers reads its logits.
      others: {path: JSON} of further files.
    """
    import safetensors.numpy

    config = type(encoder.bert_config).from_dict(encoder.bert_config.to_dict())
    known = encoder.family.architecture(architecture)
    if known is None:  # transformers' class has another head than ours
        known, head = f"{encoder.family.prefix}Model", {}
    config.architectures = [known]
    names = list(class_names) if head and class_names else ["LABEL_0", "LABEL_1"]  # not those of the encoder's own past
    config.id2label, config.label2id = dict(enumerate(names)), {name: number for number, name in enumerate(names)}
    config.problem_type = problem_type
    prefix = f"{encoder.family.attribute}." if head else ""
    weights = {prefix + pytorch_name(variable_key(v.name)): pytorch_array(v) for v in encoder.model.weights}
    with tempfile.TemporaryDirectory() as local:
        encoder.model.save_pretrained(local, safe_serialization=False)  # tf_model.h5
        safetensors.numpy.save_file({**weights, **head}, files.join(local, "model.safetensors"), {"format": "pt"})
        config.save_pretrained(local)
        files.make_dirs(folder)
        for name in files.list_dir(local):
            files.copy(files.join(local, name), files.join(folder, name))
    for path, content in (others or {}).items():
        files.write_json(files.join(folder, path), content)
    tokenizer.save(folder)


def pytorch_name(key: str) -> str:
    """Returns PyTorch's name of an encoder variable.

    >>> pytorch_name("encoder/layer_._0/attention/self/query/kernel")
    'encoder.layer.0.attention.self.query.weight'
    """
    endings = {"kernel": "weight", "gamma": "weight", "beta": "bias", "embeddings": "weight"}
    *path, last = key.replace("_._", "/").split("/")
    return ".".join([*path, endings.get(last, last)])


def pytorch_array(variable: Any) -> np.ndarray:
    """Returns a variable's value as PyTorch lays it out: dense kernels [output, input]."""
    array = variable.numpy()
    return np.ascontiguousarray(array.T) if variable.name.endswith("kernel:0") else array
