"""How large a run is: parameters, examples, and model FLOPs of a step."""

from trainer.data.records import Manifest, mean_tokens
from trainer.run.assembly import Assembled


def describe_size(assembled: Assembled) -> str:
    """Returns the model's size for the header: "22.7 M parameters (22.7 M train)"."""
    total = sum(variable.shape.num_elements() for variable in assembled.model.weights)
    trained = sum(variable.shape.num_elements() for variable in assembled.model.trainable_weights)
    return f"{total / 1e6:.1f} M parameters ({trained / 1e6:.1f} M train)"


def training_flops_per_token(assembled: Assembled, mean_length: float) -> float:
    """Returns the model FLOPs of a training step for each token: matrix products only, backward twice the forward.

    Source: Chowdhery et al. 2022 (PaLM), appendix B: 6 FLOPs a weight, and 12 · layers · hidden · length for attention;
    embeddings and the pooler do not count, a head where the task says so (`Task.head_flops_per_token`). What padding or a
    wider row costs is no model FLOP; what reading a few tokens only saves in the last layer still counts, so that figures
    compare with those of other programs.

    Args:
      assembled: the task and its model.
      mean_length: tokens of an example.
    """
    bert_config = assembled.encoder.bert_config
    hidden, inner, layers = bert_config.hidden_size, bert_config.intermediate_size, bert_config.num_hidden_layers
    weights = layers * (4 * hidden * hidden + 2 * hidden * inner)
    return 6.0 * weights + 12.0 * layers * hidden * mean_length + assembled.task.head_flops_per_token(bert_config)


def mean_length(manifest: Manifest, split: str) -> float:
    """Returns the mean tokens of a split's examples."""
    return mean_tokens(manifest.splits[split])


def split_summary(manifest: Manifest, split: str) -> str:
    """Returns a split's size for the header: "10,003 examples of 16.2 tokens"."""
    summary = manifest.splits[split]
    return f"{summary['examples']:,} examples of {mean_tokens(summary):.1f} tokens on average"
