"""Vectors against sentence-transformers' (figures of version 5.1.2 on PyTorch in sentence_vectors.json) and transformers' own."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import run_cli
from trainer.errors import UserError
from trainer.run.embedding import Asked, Embedder, TokenEmbedder, is_same, probe

GOLDEN = json.loads(Path(__file__).with_name("sentence_vectors.json").read_text(encoding="utf8"))
TEXTS = [*GOLDEN["texts"][:2], "word " * 400]


@pytest.mark.parametrize("pooling", ["mean", "max", "weighted_mean", "cls"])
def test_vectors_are_those_of_sentence_transformers(minilm, pooling):
    embedder = Embedder(str(minilm), Asked(pooling, normalize=False), ["data.max_seq_length=64"])
    assert embedder.dimensions == 384
    assert np.allclose(embedder.vectors(TEXTS)[:, :6], GOLDEN["vectors"][pooling], atol=2e-4)


def test_a_folder_says_how_its_vectors_are_made(minilm):
    embedder = Embedder("sentence-transformers/all-MiniLM-L6-v2", overrides=["data.max_seq_length=64"])
    found = embedder.vectors(TEXTS)
    assert np.allclose(found[:, :6], GOLDEN["vectors"]["normalized"], atol=2e-5)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert is_same(embedder, probe(embedder)) and not is_same(embedder, np.add(probe(embedder), 0.1))
    assert embedder.vectors([]).shape == (0, 384)


@pytest.fixture
def two_layers(minilm, tmp_path):
    """A folder of a tiny BERT with more layers than one, and transformers' own outputs of it for a text."""
    from tests.conftest import tiny_config
    from trainer.models.encoder import BertEncoder
    from trainer.serving.hugging_face import write_hugging_face
    from trainer.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(minilm))
    encoder = BertEncoder(tiny_config(num_hidden_layers=5))
    write_hugging_face(str(tmp_path), encoder, tokenizer, "BertModel", {}, ())
    ids = [tokenizer.cls_id, *tokenizer.encode(TEXTS[0]), tokenizer.sep_id]
    states = encoder.model(tf.constant([ids]), output_hidden_states=True).hidden_states
    return str(tmp_path), np.stack([state[0].numpy() for state in states], axis=1)  # [tokens, 1 + layers, hidden]


def test_any_layer_and_the_last_four(two_layers):
    folder, states = two_layers
    for layer, expected in ((None, states[:, 5]), (2, states[:, 2]), (-2, states[:, 4])):
        found = Embedder(folder, Asked("mean", layer, normalize=False)).vectors(TEXTS[:1])[0]
        assert np.allclose(found, expected.mean(0), atol=1e-5)
    found = Embedder(folder, Asked("last_four", normalize=False)).vectors(TEXTS[:2])[0]
    assert np.allclose(found, states[:, 2:].mean((0, 1)), atol=1e-5)
    cut = Embedder(folder, Asked("cls", dimensions=8)).vectors(TEXTS[:1])[0]
    assert np.allclose(cut, states[0, 5, :8] / np.linalg.norm(states[0, 5, :8]), atol=1e-5)


def test_tokens_of_several_layers(two_layers):
    folder, states = two_layers
    embedder = TokenEmbedder(folder, layers=[-1, -3, 1])
    (tokens, found), (_, other) = embedder.tokens(TEXTS[:2])
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and tokens[1:4] == ["a", "man", "is"]
    assert found.shape == (len(tokens), 3, 32) and np.allclose(found, states[:, [5, 3, 1]], atol=1e-5)
    assert len(other) != len(found), "cut to its own tokens"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(layer=3), r"layer 3: the encoder has layers 1 to 1, or -1 to -1"),
        (Asked(dimensions=33), "--dimensions=33: this encoder's vectors have 32"),
        (Asked("last_four"), "--pooling=last_four: there are only 1 layers"),
    ],
)
def test_what_an_encoder_has_not(tiny_encoder, asked, message):
    with pytest.raises(UserError, match=message):
        Embedder(str(tiny_encoder), asked)
    with pytest.raises(UserError, match="encoder.init_from: no folder /nowhere"):
        Embedder("/nowhere")


def test_a_runs_encoder(finished_run, tiny_encoder, tmp_path):
    """Of similarity with its own pooling and prompts; of another task its trained encoder, by the mean."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"query": f"what is {n}", "positive": f"it is {n}"}) + "\n" for n in range(8)))
    keys = {"task.name": "similarity", "task.pooling": "cls", "task.query_prompt": '"query: "', "data.train": rows}
    keys |= {"encoder.init_from": tiny_encoder, "train.steps": 2, "train.batch_size": 8, "data.max_seq_length": 32}
    assert run_cli("train", f"--workdir={tmp_path}/run", *[f"--set={k}={v}" for k, v in keys.items()]) == 0
    embedder = Embedder(str(tmp_path / "run"))
    trained = embedder.vectors(TEXTS[:1], as_queries=True)
    assert np.allclose(trained, Embedder(str(tmp_path / "run"), Asked("cls")).vectors([f"query: {TEXTS[0]}"]), atol=1e-5)
    assert not np.allclose(trained, embedder.vectors(TEXTS[:1]), atol=1e-5)
    other = Embedder(str(finished_run)).vectors(TEXTS[:1])
    assert not np.allclose(other, Embedder(str(tiny_encoder)).vectors(TEXTS[:1]), atol=1e-5), "the trained weights"
