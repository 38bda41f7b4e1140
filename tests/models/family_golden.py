"""Writes family_outputs.json: what PyTorch's models of the family give for weights that a rule makes of their names.

Runs where torch and transformers are: `python tests/models/family_golden.py`. The test makes the same weights.
"""

import json
import zlib
from pathlib import Path

import numpy as np

SMALL = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
CONFIGS = {
    "roberta": {**SMALL, "max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": {**SMALL, "max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "camembert": {**SMALL, "max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "distilbert": {"vocab_size": 120, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40},
    "electra": {**SMALL, "embedding_size": 16, "max_position_embeddings": 40},
    "albert": {**SMALL, "embedding_size": 16, "max_position_embeddings": 40, "num_hidden_groups": 1},
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
        mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
        with torch.no_grad():
            outputs = model(torch.tensor(IDS), attention_mask=mask).last_hidden_state.numpy()
        shapes = {name: list(state[name].shape) for name in names}
        found[kind] = {"shapes": shapes, "outputs": [outputs[0, :, :4].round(6).tolist(), outputs[1, :3, :4].round(6).tolist()]}
    Path(__file__).with_name("family_outputs.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
