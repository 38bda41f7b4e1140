"""Hugging Face files of an encoder and a decoder: transformers loads them as one model, which says the same."""

import json
import subprocess

import numpy as np
import pytest
from transformers import TFEncoderDecoderModel

from tests.models.test_generation import GOLDEN, model_of
from trainer.serving.hugging_face import pytorch_weights, write_hugging_face
from trainer.tasks.generation import Config, Task

BEAMS = GOLDEN["searches"][0]


@pytest.fixture(scope="module", params=[True, False], ids=["shared", "own"])
def folder(request, tokenizer, tmp_path_factory):
    """Files of the model whose logits and searches PyTorch's generate gave the golden values for."""
    task = Task(Config(max_new_tokens=10, **BEAMS["how"]), tokenizer, 32)
    model = model_of(share_embeddings=request.param)
    if not request.param:  # like those of the shared one
        model.get_layer("decoder").bert.embeddings.weight.assign(model.get_layer("encoder").bert.embeddings.weight)
    path = tmp_path_factory.mktemp("hugging_face")
    head = pytorch_weights(model.get_layer("cls").weights)
    others = {
        name: content | {"bos_token_id": 2, "decoder_start_token_id": 2, "eos_token_id": 14, "pad_token_id": 0}
        for name, content in task.hugging_face_files(model).items()
    }
    decoder = task.hugging_face_decoder(model)
    write_hugging_face(str(path), model.get_layer("encoder"), tokenizer, "EncoderDecoderModel", head, (), None, others, decoder)
    return path


def _sources():
    longest = max(map(len, GOLDEN["sources"]))
    ids = np.array([source + [0] * (longest - len(source)) for source in GOLDEN["sources"]])
    return ids, (ids > 0).astype(int)


def _until_its_end(ids):
    """Returns a sequence without padding, which transformers fills with 14, the last token, where the padding id is 0."""
    return ids[: ids.index(14) + 1] if 14 in ids else ids


def test_tensorflow_loads_it_and_gives_the_same_logits(folder):
    model = TFEncoderDecoderModel.from_pretrained(folder, use_safetensors=False)
    ids, mask = _sources()
    for number, target in enumerate(GOLDEN["targets"]):
        said = model(
            input_ids=ids[number : number + 1], attention_mask=mask[number : number + 1], decoder_input_ids=np.array([target])
        )
        expected = np.array(GOLDEN["logits"][number])[: len(target)]
        np.testing.assert_allclose(said.logits[0, :, :8], expected, atol=2e-4)


def test_the_config_names_both_and_how_to_generate(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["EncoderDecoderModel"] and config["decoder"]["add_cross_attention"]
    assert not config["encoder"].get("is_decoder") and config["decoder"]["is_decoder"]
    assert (
        json.loads((folder / "generation_config.json").read_text()).items() >= (BEAMS["how"] | {"max_new_tokens": 10}).items()
    )


def test_pytorch_loads_it_whole_and_generates_the_same(folder, pytorch_python):
    script = (
        "import json, sys, torch; from transformers import EncoderDecoderModel\n"
        "model, report = EncoderDecoderModel.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "assert not report['missing_keys'] and not report['unexpected_keys'], report\n"
        "ids, mask = (torch.tensor(value) for value in json.loads(sys.argv[2]))\n"
        "print(json.dumps(model.eval().generate(ids, attention_mask=mask)[:, 1:].tolist()))"
    )
    sources = json.dumps([value.tolist() for value in _sources()])
    out = subprocess.run([pytorch_python, "-c", script, str(folder), sources], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]
    for found, expected in zip(json.loads(out.stdout.splitlines()[-1]), BEAMS["sequences"], strict=True):
        assert _until_its_end(found) == _until_its_end(expected)
