"""Writes family_outputs.json: what PyTorch's models of the family give for weights that a rule makes of their names.

Runs where torch and transformers are: `python tests/models/family_golden.py`. The test makes the same weights.
"""

import json
import zlib
from pathlib import Path

import numpy as np

SMALL = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
DISTANCES = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0}
CONFIGS = {
    "roberta": {**SMALL, "max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": {**SMALL, "max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "camembert": {**SMALL, "max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "distilbert": {"vocab_size": 120, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40},
    "electra": {**SMALL, "embedding_size": 16, "max_position_embeddings": 40},
    "albert": {**SMALL, "embedding_size": 16, "max_position_embeddings": 40, "num_hidden_groups": 1},
    "deberta": {**SMALL, **DISTANCES, "max_position_embeddings": 40},
    "deberta-v2": {
        **SMALL,
        **DISTANCES,
        "max_position_embeddings": 40,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
    "mobilebert": {
        **SMALL,
        "embedding_size": 16,
        "max_position_embeddings": 40,
        "intra_bottleneck_size": 16,
        "num_feedforward_networks": 2,
        "num_hidden_layers": 1,  # without LayerNorm, numbers grow from layer to layer
        "use_bottleneck": True,
    },
}
IDS = [[0, 5, 17, 118, 33, 2], [0, 99, 2, 1, 1, 1]]  # two texts, the second padded by 1


def values_of(name, shape):
    """Returns a weight's values: a function of its name."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    spread = draw.normal(size=shape).astype(np.float32) * 0.3
    return 1.0 + 0.2 * spread if "norm" in name.lower() and name.endswith("weight") else spread


def main():
    """Computes every model's outputs."""
    import torch
    from transformers import AutoConfig, AutoModel

    found = {}
    for kind, config in CONFIGS.items():
        model = AutoModel.from_config(AutoConfig.for_model(kind, **config)).eval()
        state = model.state_dict()
        names = [name for name in state if not name.endswith(("position_ids", "token_type_ids"))]
        weights = {name: torch.tensor(values_of(name, tuple(state[name].shape))) for name in names}
        model.load_state_dict(weights, strict=False)
        with torch.no_grad():
            each = [model(torch.tensor([ids])).last_hidden_state[0, :, :4] for ids in (IDS[0], IDS[1][:3])]
        shapes = {name: list(state[name].shape) for name in names}
        found[kind] = {"shapes": shapes, "outputs": [outputs.numpy().round(6).tolist() for outputs in each]}
    Path(__file__).with_name("family_outputs.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
