"""The encoders of BERT's family: BERT with other positions, without token types, with narrow embeddings, or with shared layers.

transformers' TF class of each owns the weights. What the kernels read, `EncoderKernels.encode`'s `bert`, has TFBertMainLayer's
names; where a class has others, a view gives its layers these names. DeBERTa and MobileBERT compute otherwise than BERT: their
own class runs them, a text a row.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import tf_keras as keras
import transformers
from transformers import (
    AlbertConfig,
    BertConfig,
    CamembertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    MobileBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)


class NamedDistilBertConfig(DistilBertConfig):
    """DistilBERT's config, readable by BERT's names."""

    attribute_map = {
        **DistilBertConfig.attribute_map,
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    }
    layer_norm_eps = 1e-12
    type_vocab_size = 1


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of encoder.

    Attributes:
      config_class: transformers'.
      prefix: of the names of its classes, as "Roberta" in RobertaModel.
      attribute: of its main layer in the TF model, and its name in the weights' names.
      view: gives the main layer TFBertMainLayer's names; None where it has them.
      has_types: whether token types tell two texts apart; False: only the separators do.
      has_pooler: whether there is a pooler to read.
      first_position: the number of the first token's position embedding.
      packs: whether our kernels compute it, so that rows can hold several texts; False: its own class does.
      classifiers: heads that its transformers classes have as BERT's, as "ForTokenClassification"; BERT has all.
    """

    config_class: type[transformers.PretrainedConfig]
    prefix: str
    attribute: str
    view: Callable[[Any, Any], Any] | None = None
    has_types: bool = True
    has_pooler: bool = True
    first_position: int = 0
    packs: bool = True
    classifiers: Sequence[str] = ("ForTokenClassification", "ForQuestionAnswering")

    def build(self, config: Any) -> transformers.TFPreTrainedModel:
        """Returns the TF model with random weights, named as `from_pretrained` names them."""
        model = getattr(transformers, f"TF{self.prefix}Model")(config, name=f"tf_{self.attribute}_model")
        model.build_in_name_scope()
        return model

    def main_layer(self, model: transformers.TFPreTrainedModel) -> Any:
        """Returns what the kernels read, with TFBertMainLayer's names."""
        main = getattr(model, self.attribute)
        return main if self.view is None else self.view(main, model.config)

    def positions(self, config: Any) -> int:
        """Returns the tokens that a text may have."""
        return config.max_position_embeddings - self.first_position

    def architecture(self, berts: str) -> str | None:
        """Returns the name of the class that is to this family what one is to BERT; None where it has another head.

        >>> family_of(RobertaConfig()).architecture("BertForTokenClassification"), FAMILIES["electra"].architecture("BertModel")
        ('RobertaForTokenClassification', 'ElectraModel')
        """
        kind = berts.removeprefix("Bert")
        has_it = self.prefix == "Bert" or kind in ("Model", *self.classifiers)
        return f"{self.prefix}{kind}" if has_it else None


def _layer_view(query, key, value, output, output_norm, inner, outer, norm) -> SimpleNamespace:
    """Returns a layer's parts by TFBertLayer's names."""
    attention = SimpleNamespace(
        self_attention=SimpleNamespace(query=query, key=key, value=value),
        dense_output=SimpleNamespace(dense=output, LayerNorm=output_norm),
    )
    bert_output = SimpleNamespace(dense=outer, LayerNorm=norm)
    return SimpleNamespace(attention=attention, intermediate=SimpleNamespace(dense=inner), bert_output=bert_output)


def _distilbert_view(main: Any, config: Any) -> SimpleNamespace:
    import tensorflow as tf

    layers = []
    for block in main.transformer.layer:
        attention, inner = block.attention, block.ffn
        parts = (attention.q_lin, attention.k_lin, attention.v_lin, attention.out_lin, block.sa_layer_norm)
        layers.append(_layer_view(*parts, inner.lin1, inner.lin2, block.output_layer_norm))
    given = main.embeddings
    embeddings = SimpleNamespace(
        weight=given.weight,
        position_embeddings=given.position_embeddings,
        token_type_embeddings=tf.zeros([1, config.hidden_size]),
        LayerNorm=given.LayerNorm,
        owner=given,
    )
    return SimpleNamespace(
        config=config, embeddings=embeddings, encoder=SimpleNamespace(layer=layers), owners=main.transformer.layer
    )


def _albert_view(main: Any, config: Any) -> SimpleNamespace:
    """Layers are shared by groups: the same weights come again and again."""
    groups = main.encoder.albert_layer_groups
    of_group = len(groups) / config.num_hidden_layers
    layers = []
    for number in range(config.num_hidden_layers):
        for layer in groups[int(number * of_group)].albert_layers:
            own = layer.attention
            parts = (own.query, own.key, own.value, own.dense, own.LayerNorm)
            layers.append(_layer_view(*parts, layer.ffn, layer.ffn_output, layer.full_layer_layer_norm))
    return SimpleNamespace(
        config=config,
        embeddings=main.embeddings,
        embeddings_project=main.encoder.embedding_hidden_mapping_in,
        encoder=SimpleNamespace(layer=layers),
        pooler=SimpleNamespace(dense=main.pooler),
        owners=[],
    )


def _roberta(config_class: type[transformers.PretrainedConfig], prefix: str) -> Family:
    """Returns a RoBERTa: one token type, and positions from 2 on, for 0 and 1 are kept for padding."""
    return Family(config_class, prefix, "roberta", has_types=False, first_position=2)


def _deberta(config_class: type[transformers.PretrainedConfig], prefix: str) -> Family:
    """Returns a DeBERTa: its attention reads how far apart two tokens are (He et al. 2021, arXiv:2006.03654)."""
    return Family(config_class, prefix, "deberta", has_types=False, has_pooler=False, packs=False)


FAMILIES: Mapping[str, Family] = {
    # config.json's model_type → what it is
    "bert": Family(BertConfig, "Bert", "bert"),
    "roberta": _roberta(RobertaConfig, "Roberta"),
    "xlm-roberta": _roberta(XLMRobertaConfig, "XLMRoberta"),
    "camembert": _roberta(CamembertConfig, "Camembert"),
    "distilbert": Family(
        NamedDistilBertConfig, "DistilBert", "distilbert", _distilbert_view, has_types=False, has_pooler=False
    ),
    "electra": Family(
        ElectraConfig,
        "Electra",
        "electra",
        has_pooler=False,
        classifiers=("ForTokenClassification", "ForQuestionAnswering", "ForPreTraining"),
    ),
    "albert": Family(
        AlbertConfig,
        "Albert",
        "albert",
        _albert_view,
        classifiers=("ForTokenClassification", "ForQuestionAnswering", "ForSequenceClassification"),
    ),
    "deberta": _deberta(DebertaConfig, "Deberta"),
    "deberta-v2": _deberta(DebertaV2Config, "DebertaV2"),
    # Its pooler is [CLS] itself.
    "mobilebert": Family(MobileBertConfig, "MobileBert", "mobilebert", has_pooler=False, packs=False),
}


def family_of(config: Any) -> Family:
    """Returns the family of a config."""
    return FAMILIES[config.model_type]


def trainable_layers(main: Any) -> tuple[keras.layers.Layer, Sequence[keras.layers.Layer]]:
    """Returns (the embeddings, the layers) of a `main_layer` as Keras layers; no layers where they are shared."""
    embeddings = getattr(main.embeddings, "owner", main.embeddings)
    return embeddings, main.owners if hasattr(main, "owners") else main.encoder.layer
