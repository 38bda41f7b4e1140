"""The run as Hugging Face files: what transformers' from_pretrained loads, in PyTorch and in TensorFlow."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer import files
from trainer.models.encoder import BertEncoder
from trainer.models.initialization import variable_key
from trainer.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import BertConfig, TFEncoderDecoderModel

    from trainer.models.decoder import BertDecoder

Weights = Mapping[str, np.ndarray]  # by PyTorch's names


def write_hugging_face(
    folder: str,
    encoder: BertEncoder,
    tokenizer: Tokenizer,
    architecture: str,
    head: Weights,
    class_names: Sequence[str],
    problem_type: str | None = None,
    others: Mapping[str, Any] | None = None,
    decoder: BertDecoder | None = None,
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
      decoder: of an encoder and a decoder, transformers' EncoderDecoderModel; the head is the decoder's then.
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
    weights = pytorch_weights(encoder.model.weights)
    model = encoder.model
    if decoder is not None:
        model, weights = _encoder_decoder(config, weights, decoder, head)
        config = model.config
    elif head:
        weights = {**{f"{encoder.family.attribute}.{name}": array for name, array in weights.items()}, **head}
    with tempfile.TemporaryDirectory() as local:
        model.save_pretrained(local, safe_serialization=False)  # tf_model.h5
        safetensors.numpy.save_file(weights, files.join(local, "model.safetensors"), {"format": "pt"})
        config.save_pretrained(local)
        files.make_dirs(folder)
        for name in files.list_dir(local):
            files.copy(files.join(local, name), files.join(folder, name))
    for path, content in (others or {}).items():
        files.write_json(files.join(folder, path), content)
    tokenizer.save(folder)


def _encoder_decoder(
    encoder_config: BertConfig, encoder_weights: Weights, decoder: BertDecoder, head: Weights
) -> tuple[TFEncoderDecoderModel, dict[str, np.ndarray]]:
    """Returns transformers' TF model of an encoder and a decoder, and the weights of both by PyTorch's names."""
    from transformers import TFBertLMHeadModel, TFBertModel, TFEncoderDecoderModel

    decoder_config = type(decoder.bert_config).from_dict(decoder.bert_config.to_dict())
    encoder_config.architectures, decoder_config.architectures = ["BertModel"], ["BertLMHeadModel"]
    words = {"embeddings.word_embeddings.weight": decoder.bert.embeddings.weight.numpy()}  # maybe owned by the encoder
    decoder_weights = {**words, **pytorch_weights(decoder.model.weights)}
    encoder, language_model = TFBertModel(encoder_config, name="encoder"), TFBertLMHeadModel(decoder_config, name="decoder")
    model = TFEncoderDecoderModel(encoder=encoder, decoder=language_model)
    model.build_in_name_scope()
    model.config.architectures = ["EncoderDecoderModel"]
    weights = {f"encoder.{name}": array for name, array in encoder_weights.items()}
    weights |= {f"decoder.bert.{name}": array for name, array in decoder_weights.items()}
    weights |= {f"decoder.{name}": array for name, array in head.items()}
    for variable in model.weights:
        # tf_encoder_decoder_model/encoder/bert/..., .../decoder/bert/..., .../decoder/mlm___cls/...; PyTorch's BertModel has
        # no "bert." before its weights, its BertLMHeadModel has.
        name = variable.name.removesuffix(":0").partition("/")[2].replace("mlm___", "")
        array = weights[pytorch_name(re.sub("^encoder/bert/", "encoder/", name))]
        variable.assign(array.T if variable.name.endswith("kernel:0") else array)
    return model, weights


def pytorch_weights(variables: Iterable[Any]) -> dict[str, np.ndarray]:
    """Returns the values of variables by PyTorch's names, as PyTorch lays them out."""
    return {pytorch_name(variable_key(variable.name)): pytorch_array(variable) for variable in variables}


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
