"""Vectors of texts, by any encoder: that of a run, of a sentence-transformers folder, or plain BERT. Nothing is trained."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainer import files
from trainer.data.sources import Row
from trainer.errors import UserError
from trainer.models.encoder import one_a_row
from trainer.models.encoder_folders import find_encoder, is_workdir
from trainer.models.families import family_of
from trainer.models.initialization import read_bert_config
from trainer.models.sentence_transformers import read_recipe
from trainer.run import assembly, experiment, kernels
from trainer.run.inference import Predictor
from trainer.tasks import similarity

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from trainer.models.encoder import BertEncoder
    from trainer.tasks import base

TextPooling = Literal["cls", "mean", "max", "weighted_mean", "pooler", "last_four"]
LAST_FOUR = 4  # Devlin et al. 2019, table 7, find that several of the last layers together make the best features
LONGEST = 512  # tokens of a text where nothing says it
TOKENS_AT_A_TIME = 4096


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of vectors, besides the encoder.

    Attributes:
      pooling: what a vector is made of; None: what the run or the folder says, else the mean of the tokens. last_four: the mean
        over the tokens and the last four layers.
      layer: whose output is read, from 1, or from -1 for the last backwards; the graph ends there. None: the last.
      normalize: to length 1; None: what the run or the folder says, else yes.
      dimensions: the first so many of a vector; None: all.
    """

    pooling: TextPooling | None = None
    layer: int | None = None
    normalize: bool | None = None
    dimensions: int | None = None


class Embedder:
    """Turns texts into vectors.

    Args:
      encoder: an earlier workdir, a folder of sentence-transformers or of a plain encoder, a checkpoint, or a Hub id.
      asked: of the vectors.
      overrides: changes of config keys, as ["data.max_seq_length=64"].

    Attributes:
      settings: the config keys that were set, by which the same vectors can be made again.
      dimensions: of a vector.

    Raises:
      UserError: no such encoder; a layer, dimensions or a kind of pooling that it has not.
    """

    def __init__(self, encoder: str, asked: Asked = Asked(), overrides: Sequence[str] = ()):
        self.asked = asked
        folder = find_encoder(encoder)
        bert_config = read_bert_config(folder)
        count, size = bert_config.num_hidden_layers, bert_config.hidden_size
        layers, is_of_four = _cut(count, asked.layer), asked.pooling == "last_four"
        if asked.dimensions is not None and not 1 <= asked.dimensions <= size:
            raise UserError(f"--dimensions={asked.dimensions}: this encoder's vectors have {size}")
        if is_of_four and (layers or count) < LAST_FOUR:
            raise UserError(f"--pooling=last_four: there are only {layers or count} layers")
        self.dimensions = asked.dimensions or size
        pooling = None if is_of_four else asked.pooling
        known = {"task.pooling": pooling, "task.normalize": asked.normalize, "encoder.layers": layers}
        found = _settings_of(folder) | {key: value for key, value in known.items() if value is not None}
        self.settings = [f"{key}={json.dumps(value)}" for key, value in found.items()] + list(overrides)
        restored, self._task = _restored(encoder, self.settings, _LastFour if is_of_four else similarity.Task)
        self._embed = _embedding_function(restored.assembled)

    def vectors(self, texts: Sequence[str], as_queries: bool = False) -> np.ndarray:
        """Returns a vector for each text: float32 [texts, dimensions].

        Args:
          texts: not empty, each.
          as_queries: with the prompt and the length of queries, where the encoder tells them from other texts.
        """
        found = np.zeros([len(texts), self.dimensions], np.float32)
        ids = [self._task.ids_of(text, as_queries) for text in texts]
        # Sorted by length, a text a row: nothing is to be packed, and hardly anything is padding.
        order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
        start = 0
        while start < len(order):
            width = len(ids[order[start]])
            places = order[start : start + max(TOKENS_AT_A_TIME // width, 1)]
            found[places] = self._embed(_padded([ids[place] for place in places], width))[:, : self.dimensions]
            start += len(places)
        if self.asked.dimensions is not None and self._task.config.normalize:
            found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return found


def _padded(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Returns ids with -1 after them: int32 [rows, width]."""
    found = np.full([len(rows), width], -1, np.int32)
    for row, ids in zip(found, rows, strict=True):
        row[: len(ids)] = ids
    return found


def _embedding_function(assembled: assembly.Assembled) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what embeds texts: int32 [texts, length], -1 where there is no token, to float32 [texts, hidden]."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)], autograph=False)
    def embed(ids: tf.Tensor) -> tf.Tensor:
        inputs = one_a_row(tf.maximum(ids, 0), tf.cast(ids >= 0, tf.int32))
        outputs = assembled.model.outputs_for(inputs)
        return assembled.task.results(inputs, outputs, labelled=False)["embedding"][:, 0]

    return lambda ids: embed(tf.constant(ids)).numpy()


class TokenEmbedder:
    """Turns texts into a vector for each token and layer, as google-research/bert's extract_features.py.

    Args:
      encoder, overrides: as of Embedder.
      layers: from 1, or from -1 for the last backwards, as extract_features' --layers.

    Raises:
      UserError: no such encoder, or no such layer.
    """

    def __init__(self, encoder: str, layers: Sequence[int] = (-1,), overrides: Sequence[str] = ()):
        folder = find_encoder(encoder)
        count = read_bert_config(folder).num_hidden_layers
        wanted = [_cut(count, layer) or count for layer in layers]
        read = sorted(set(wanted))
        self._places = [read.index(layer) for layer in wanted]
        settings = [f"{key}={json.dumps(value)}" for key, value in _settings_of(folder).items()] + list(overrides)
        restored, self._task = _restored(encoder, settings, functools.partial(_Tokens, read))
        self._predictor = Predictor(restored)

    def tokens(self, texts: Sequence[str]) -> list[tuple[list[str], np.ndarray]]:
        """Returns each text's tokens, [CLS] and [SEP] among them, and their vectors: float32 [tokens, layers, hidden]."""
        examples = [self._task.example_of(text, is_query=False) for text in texts]
        rows = [(Row({}, "", number), [example]) for number, example in enumerate(examples)]
        found = []
        for row, windows in self._predictor.windows_of(rows):
            names = [str(self._task.tokenizer.backend.id_to_token(number)) for number in examples[row.line]["input_ids"]]
            found.append((names, windows[0].outputs["states"][:, self._places]))
        return found


def _restored(
    encoder: str, settings: Sequence[str], task_class: Callable[..., similarity.Task]
) -> tuple[assembly.Restored, similarity.Task]:
    """Returns (an encoder with its weights and a task on it, as a run that was read back; the task)."""
    keys = ["task.name=similarity", f"encoder.init_from={json.dumps(encoder)}", "data.max_examples_per_row=1"]
    asked = experiment.load(None, [*keys, *settings])
    tokenizer, bert_config = assembly.asked_encoder(asked)
    task = task_class(asked.task, tokenizer, asked.data.max_seq_length)
    chosen = kernels.for_inference(asked.train, bert_config)
    assembled = assembly.build(asked, tokenizer, bert_config, chosen, task)
    assembly.initialize_encoder(asked, assembled)
    return assembly.Restored(asked, tokenizer, assembled, step=0), task


class _LastFour(similarity.Task):
    """Similarity that reads the mean of the last four layers."""

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        """Returns the model: the mean over tokens and layers."""
        from trainer.models.pooling import PoolMean

        count = encoder.bert_config.num_hidden_layers

        def pooled(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            import tensorflow as tf

            states = encoder.layer_outputs(inputs, range(count - LAST_FOUR + 1, count + 1))
            mean = tf.reduce_mean(tf.cast(states, tf.float32), axis=2)
            return {"embedding": PoolMean()(mean, inputs["segment_ids"], inputs["cls_positions"])}

        return _model_of(encoder, pooled)


class _Tokens(similarity.Task):
    """Similarity that hands back the layers' outputs for each token."""

    token_outputs = {"states": ""}

    def __init__(self, layers: Sequence[int], *others: Any):
        super().__init__(*others)
        self._layers = layers

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        """Returns the model: float32 [rows, length, layers, hidden]."""
        return _model_of(encoder, lambda inputs: {"states": encoder.layer_outputs(inputs, self._layers)})

    def results(self, batch: base.Tensors, outputs: base.Tensors, labelled: bool) -> dict[str, tf.Tensor]:
        """Returns the model's outputs as they are."""
        return dict(outputs)


def _model_of(encoder: BertEncoder, function: Any) -> keras.Model:
    """Returns a model that owns the encoder's weights and computes a function of its inputs."""
    import tf_keras as keras

    from trainer.models.encoder import packed_inputs
    from trainer.models.task_model import TaskModel

    class Computed(keras.layers.Layer):
        """The function as a layer."""

        def __init__(self):
            super().__init__(name="computed", dtype="float32")
            self.encoder = encoder

        def call(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return function(inputs)

    inputs = packed_inputs()
    return TaskModel(inputs, Computed()(inputs), name="embedding")


def _settings_of(folder: str) -> dict[str, Any]:
    """Returns the config keys that an encoder's folder decides."""
    found: dict[str, Any] = {"encoder.allow_missing": ["pooler/*"]}
    if is_workdir(folder):
        saved = experiment.load_workdir(folder)
        found["data.max_seq_length"], found["train.precision"] = saved.data.max_seq_length, saved.train.precision
        if isinstance(saved.task, similarity.Config):
            kept = ("pooling", "normalize", "query_prompt", "document_prompt", "max_query_tokens")
            found |= {f"task.{name}": getattr(saved.task, name) for name in kept}
        return found
    bert_config = read_bert_config(folder)
    positions = family_of(bert_config).positions(bert_config)
    recipe = read_recipe(folder)
    if recipe is None:
        return {**found, "data.max_seq_length": min(LONGEST, positions)}
    found |= {"task.pooling": recipe.pooling, "task.normalize": recipe.normalize}
    found |= {"task.query_prompt": recipe.query_prompt, "task.document_prompt": recipe.document_prompt}
    return {**found, "data.max_seq_length": min(recipe.max_seq_length or LONGEST, positions)}


def _cut(count: int, layer: int | None) -> int | None:
    """Returns the number of layers up to one that is named from either end; None for all.

    >>> _cut(12, -2), _cut(12, 3), _cut(12, None)
    (11, 3, None)
    """
    if layer is None:
        return None
    number = count + 1 + layer if layer < 0 else layer
    if not 1 <= number <= count:
        raise UserError(f"layer {layer}: the encoder has layers 1 to {count}, or -{count} to -1")
    return number


def probe(embedder: Embedder) -> list[float]:
    """Returns some numbers by which an encoder is known again: the first of the vector of a fixed text."""
    return embedder.vectors(["The encoder that made these vectors."])[0, :8].tolist()


def is_same(embedder: Embedder, numbers: Sequence[float]) -> bool:
    """Returns whether an encoder gives the numbers of a `probe`, but for rounding."""
    return bool(np.allclose(probe(embedder), numbers, atol=0.02))


def folder_of(path: str) -> str:
    """Returns an encoder's folder in full, so that it is found from anywhere; a Hub id as it is."""
    return files.absolute(path) if files.exists(path) else path
