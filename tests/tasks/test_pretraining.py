"""Pre-training against the contract, and against what is its own."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
import tf_keras as keras
from transformers import BertConfig, TFBertForPreTraining
from transformers.modeling_tf_pytorch_utils import load_pytorch_state_dict_in_tf2_model

from tests.commands.test_train import StopAfter
from tests.conftest import run_cli, write_csv
from tests.tasks.contract import TaskContract
from trainer.data.pipeline import Packing, packed_batches, read_records, serialized_examples
from trainer.data.records import Manifest
from trainer.data.sources import Row
from trainer.errors import UserError
from trainer.preparation import learning
from trainer.run import assembly, experiment
from trainer.runtime.checkpoints import read_variables
from trainer.tasks import pretraining

TEXT = [
    "The lobster lives on the sea floor. It has large [MASK] and eats at night.",
    "Anarchism began as a term of abuse. It is now a [MASK] label.\nThe word comes from the Greek.",
    "A short one with a [MASK] in it.\nAnd a second sentence after it.",
    "Nobody knows [MASK] the bread was sold out so early.\nThe baker did not say.\nThen it rained.",
]


class TestNextSentence(TaskContract):
    name = "pretraining"
    config = {"masked_lm_prob": 0.2}
    rows = [{"text": text} for text in TEXT]


@pytest.mark.slow
class TestMaskedAlone(TaskContract):
    name = "pretraining"
    config = {"sentence_objective": "none", "masking": "whole_word"}
    rows = [{"text": text} for text in TEXT]


@pytest.mark.slow
class TestReplacedTokens(TaskContract):
    is_variant = True
    name = "pretraining"
    config = {
        "sentence_objective": "none", "replaced_tokens": True, "generator_size": 0.5, "mask_token_prob": 0.85,
        "random_token_prob": 0.0, "masked_lm_prob": 0.2,
    }  # fmt: skip
    rows = [{"text": text} for text in TEXT]


@pytest.mark.slow
class TestSentenceOrder(TaskContract):
    name = "pretraining"
    config = {"sentence_objective": "sop", "masking": "span", "segmented_words": True, "static_masks": True}
    rows = [{"text": text} for text in TEXT]


def test_accumulation_equals_the_large_batch(tokenizer):
    """Both parts of the loss are divided by what the whole batch holds, however it is cut."""
    contract = TestNextSentence()
    task = pretraining.Task(pretraining.Config(masked_lm_prob=0.2), tokenizer, 32)
    records = contract.records(task)
    packing = Packing(32, 4, row_multiple=2)
    (batch,) = packed_batches(serialized_examples(lambda: records), task.features(), 100, packing, work=task.batch_work())
    found = []
    for steps in (1, 2):
        model = contract.build(task)
        model.prepare_training(task, seed=1, gradient_accumulation_steps=steps)
        model.compile(optimizer=keras.optimizers.SGD(1.0))
        model.optimizer.build(model.trainable_variables)
        specs = {name: tf.TensorSpec([None, None], value.dtype) for name, value in batch.items()}
        logs = tf.function(model.train_step, input_signature=[specs])(batch)
        found.append(({name: float(value) for name, value in logs.items()}, model.get_weights()))
    (logs, weights), (cut_logs, cut_weights) = found
    assert cut_logs == pytest.approx(logs, rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["masked_lm_loss"] + logs["sentence_loss"], rel=1e-6)
    assert max(np.abs(a - b).max() for a, b in zip(weights, cut_weights, strict=True)) < 2e-6


SIZES = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "vocab_size": 1,
}
SAMPLE = "configs/tiny/sotu"
SHORT = (
    "train.precision=float32",
    "train.steps=12",
    "train.batch_size=8",
    "data.max_seq_length=48",
    "runtime.checkpoint_every_steps=5",
)


def given(folder, *more):
    """The flags of a short run on the sample."""
    (folder / "sizes.json").write_text(json.dumps(SIZES))
    keys = ("task.split_sentences=false", f"encoder.config_path={folder}/sizes.json", *SHORT, *more)
    return ("--config=configs/tiny/pretraining.yaml", *[f"--set={key}" for key in keys])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a finished, exported run; read it, do not change it."""
    folder = tmp_path_factory.mktemp("pretraining")
    assert run_cli("train", *given(folder), f"--workdir={folder}/run") == 0
    assert run_cli("export", f"--workdir={folder}/run") == 0
    return folder / "run"


def stored(workdir, pointer="latest.json"):
    name = json.loads((workdir / "checkpoints" / pointer).read_text())["name"]
    return read_variables(str(workdir / "checkpoints" / name / "weights"))


def test_the_log_tells_the_parts_of_the_loss(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (train,) = [line for line in lines if line["kind"] == "train"]
    assert train["loss"] == pytest.approx(train["masked_lm_loss"] + train["sentence_loss"], rel=1e-5)
    assert {"masked_lm_accuracy", "sentence_accuracy", "tokens_per_second", "model_flops_utilization"} <= set(train)
    (validation,) = [line for line in lines if line["kind"] == "validation"]
    assert validation["perplexity"] == pytest.approx(np.exp(validation["masked_lm_loss"]), rel=1e-5)


def test_evaluation_masks_are_the_same_each_time(cli, run):
    assert cli("evaluate", f"--workdir={run}")[0] == 0
    first = json.loads((run / "evaluation/validation.json").read_text())
    assert cli("evaluate", f"--workdir={run}")[0] == 0
    assert json.loads((run / "evaluation/validation.json").read_text()) == first
    assert first["masked_lm_accuracy"] == json.loads((run / "checkpoints/best.json").read_text())["score"]


def test_predict_fills_masks(cli, run, tmp_path):
    lines = ["The Congress of the United [MASK] has [MASK].", "no mask at all", "[MASK] " * 33, '{"text": "We [MASK]."}']
    (tmp_path / "in.txt").write_text("\n".join(lines[:3]) + "\n")
    status, _, log = cli("predict", f"--workdir={run}", f"--input={tmp_path}/in.txt", f"--output={tmp_path}/out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert status == 0 and "2 row(s) could not be predicted" in log
    first, second = found[0]["masks"]
    assert len(first) == len(second) == 5 and all(entry["token"] for entry in first)
    shares = [entry["probability"] for entry in first]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    assert "the text has no [MASK] to fill in its first 48 tokens" in found[1]["error"]
    assert "the text has 33 [MASK] tokens, over the 32 that can be" in found[2]["error"]


def head_and_encoder(run):
    return safetensors.numpy.load_file(run / "huggingface/model.safetensors")


def test_transformers_gives_the_same_logits(run):
    """The exported files in TFBertForPreTraining, loaded without PyTorch."""
    config = BertConfig.from_pretrained(run / "huggingface")
    assert config.architectures == ["BertForPreTraining"]
    reference = TFBertForPreTraining(config)
    reference(reference.dummy_inputs)
    load_pytorch_state_dict_in_tf2_model(reference, head_and_encoder(run), allow_missing_keys=True)
    restored = assembly.restore(str(run))
    ids = tf.constant([restored.assembled.task.examples(Row({"text": "The [MASK] of peace."}, "f", 1))[0]["input_ids"]])
    places = tf.range(ids.shape[1])[None]
    batch = {"input_ids": ids, "token_type_ids": tf.zeros_like(ids), "position_ids": places, "segment_ids": tf.ones_like(ids)}
    found = restored.assembled.model.outputs_for(
        {**batch, "masked_positions": places, "cls_positions": tf.zeros([1, 1], tf.int32)}
    )
    expected = reference(ids)
    assert np.abs(found["masked_lm_logits"] - expected.prediction_logits).max() < 1e-4
    assert np.abs(found["sentence_logits"][:, 0] - expected.seq_relationship_logits).max() < 1e-4


def test_pytorch_gives_the_same_logits(run, pytorch_python):
    restored = assembly.restore(str(run))
    (example,) = restored.assembled.task.examples(Row({"text": "The [MASK] of peace."}, "f", 1))
    script = (
        "import sys, json, torch; from transformers import BertForPreTraining; "
        "model = BertForPreTraining.from_pretrained(sys.argv[1]).eval(); "
        "out = model(torch.tensor([json.loads(sys.argv[2])])); "
        "print(json.dumps([out.prediction_logits[0].tolist(), out.seq_relationship_logits[0].tolist()]))"
    )
    command = [pytorch_python, "-c", script, str(run / "huggingface"), json.dumps(example["input_ids"])]
    logits, pair = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ids = tf.constant([example["input_ids"]])
    places = tf.range(ids.shape[1])[None]
    batch = {"input_ids": ids, "token_type_ids": tf.zeros_like(ids), "position_ids": places, "segment_ids": tf.ones_like(ids)}
    found = restored.assembled.model.outputs_for(
        {**batch, "masked_positions": places, "cls_positions": tf.zeros([1, 1], tf.int32)}
    )
    assert np.abs(found["masked_lm_logits"][0] - logits).max() < 1e-4
    assert np.abs(found["sentence_logits"][0, 0] - pair).max() < 1e-4


@pytest.mark.parametrize("source", ["run", pytest.param("huggingface", marks=pytest.mark.slow)])
def test_a_second_phase_begins_with_encoder_and_heads(cli, run, tmp_path, source):
    start = run if source == "run" else run / "huggingface"
    keys = ("encoder.config_path=null", f"encoder.init_from={start}", "encoder.vocabulary_path=null", "data.max_seq_length=64")
    status, _, log = cli("train", *given(tmp_path, *keys, "train.learning_rate=1e-12"), f"--workdir={tmp_path}/second")
    assert status == 0, log
    before, after = stored(run, "best.json"), stored(tmp_path / "second")
    for name in ("cls/predictions/bias", "cls/seq_relationship/kernel", "cls/predictions/transform/dense/kernel"):
        assert np.allclose(before[name], after[name], atol=1e-6), name


def test_an_encoder_without_heads_gets_them_and_is_told(cli, tmp_path, tiny_encoder):
    keys = ("encoder.config_path=null", f"encoder.init_from={tiny_encoder}", "encoder.vocabulary_path=null")
    status, _, log = cli("train", *given(tmp_path, *keys, "train.steps=1"), f"--workdir={tmp_path}/run")
    assert status == 0 and "not in the file, left random: cls/predictions/transform/dense/kernel" in log


def test_more_words_and_positions_for_a_known_encoder(cli, tmp_path, run):
    vocabulary = (run / "tokenizer/vocab.txt").read_text().rstrip("\n").split("\n")
    (tmp_path / "more.txt").write_text("\n".join([*vocabulary, "tachycardia", "zebrafish"]))
    keys = (
        "encoder.config_path=null",
        f"encoder.init_from={run}",
        f"encoder.vocabulary_path={tmp_path}/more.txt",
        "encoder.extend_vocabulary=true",
        "encoder.max_position_embeddings=100",
        "data.max_seq_length=100",
        "train.learning_rate=1e-12",
    )
    status, _, log = cli("train", *given(tmp_path, *keys), f"--workdir={tmp_path}/longer")
    assert status == 0, log
    weights, old = stored(tmp_path / "longer"), stored(run, "best.json")
    (words,), (known,) = (
        [value for name, value in w.items() if "word_embeddings" in name and "optimizer" not in name] for w in (weights, old)
    )
    (places,) = [v for name, v in weights.items() if "position_embeddings" in name and "optimizer" not in name]
    assert words.shape[0] == len(vocabulary) + 2 and places.shape[0] == 100
    assert np.allclose(words[: len(vocabulary)], known, atol=1e-6) and np.allclose(places[64:], places[:36], atol=1e-6)
    fewer = given(tmp_path, *keys[:4], "encoder.max_position_embeddings=10", "data.max_seq_length=10")
    status, _, error = cli("train", *fewer, f"--workdir={tmp_path}/x")
    assert (
        status == 1 and "encoder.max_position_embeddings=10, but" in error and "has 64; leave it out, or ask for more" in error
    )


@pytest.mark.parametrize("step", [7, *[pytest.param(step, marks=pytest.mark.slow) for step in (1, 2, 4, 5, 8, 9, 10, 11, 3)]])
def test_a_stopped_run_goes_on_bit_for_bit_with_its_masks(cli, run, tmp_path, step):
    with StopAfter(step):
        status, _, log = cli("train", *given(tmp_path), f"--workdir={tmp_path}/run")
    assert status == 143 and f"stopped by SIGTERM at step {step} of 12" in log
    # The same sizes file is named: another path would be another config
    status, _, log = cli("train", f"--workdir={tmp_path}/run")
    assert status == 0 and f"resumed from step {step} of 12" in log
    expected, found = stored(run), stored(tmp_path / "run")
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_static_masks_and_googles_records_go_round(cli, tmp_path):
    """Prepared with masks, written as Google's, read back: the same examples; and they train."""
    keys = ("task.static_masks=true", "task.dupe_factor=2", "task.max_predictions=8")
    flags = given(tmp_path, *keys)
    status, out, log = cli("prepare", *flags, f"--workdir={tmp_path}/own", f"--google_records={tmp_path}/google")
    assert status == 0 and f"google-research/bert's records: {tmp_path}/google/train-00000-of-0000" in out, log
    sources = (f"data.train={tmp_path}/google/train-*.tfrecord", f"data.validation={tmp_path}/google/validation-*.tfrecord")
    assert cli("prepare", *given(tmp_path, *keys, *sources), f"--workdir={tmp_path}/run")[0] == 0

    def targets(folder):
        manifest = Manifest.load(str(folder / "records"))
        wanted = {name: tf.io.RaggedFeature(tf.int64) for name in ("input_ids", "masked_lm_targets", "token_type_ids")}
        parsed = tf.io.parse_example(list(read_records(manifest.paths("train")).as_numpy_iterator()), wanted)
        return sorted(zip(*[value.to_list() for value in parsed.values()], strict=True))

    own = targets(tmp_path / "own")
    assert own == targets(tmp_path / "run") and len(own) > 100
    assert max(sum(target > 0 for target in entry[1]) for entry in own) == 7  # round(0.15 · 48)
    status, _, error = cli("prepare", *given(tmp_path), f"--workdir={tmp_path}/x", f"--google_records={tmp_path}/g")
    assert status == 1 and "--google_records: these are records of task.name=pretraining with task.static_masks=true" in error
    status, _, error = cli("prepare", *given(tmp_path, *sources), f"--workdir={tmp_path}/x")
    assert status == 1 and "Google's records hold their masks: set task.static_masks=true" in error
    both = ("task.segmented_words=true", *keys)
    status, _, error = cli("prepare", *given(tmp_path, *both, *sources), f"--workdir={tmp_path}/x")
    assert status == 1 and "Google's records tell neither words nor languages" in error


def test_languages_are_drawn_by_their_exponent(cli, tmp_path, tokenizer):
    for name, count in (("de", 300), ("en", 30)):
        rows = [f"{name} {i} one sentence here.\nAnd {i} another." for i in range(count)]
        (tmp_path / f"{name}.txt").write_text("\n\n".join(rows))
    keys = ("task.sampling_exponent=0.5", f"data.train={tmp_path}/*.txt", f"data.validation={SAMPLE}/validation.txt")
    flags = given(tmp_path, *keys)
    assert cli("prepare", *flags, f"--workdir={tmp_path}/run")[0] == 0
    saved = learning.learned(experiment.load("configs/tiny/pretraining.yaml", [flag[6:] for flag in flags[1:]]))
    assert [Path(path).name for path in saved.task.languages] == ["de.txt", "en.txt"]

    def from_records(folder):
        sets = [keys[0], f"data.records_dir={folder}/records", "data.train=null", "data.validation=null"]
        return learning.learned(experiment.load("configs/tiny/pretraining.yaml", sets))

    assert from_records(tmp_path / "run").task.languages == saved.task.languages
    assert cli("prepare", *given(tmp_path, *keys[1:]), f"--workdir={tmp_path}/as-it-is")[0] == 0
    with pytest.raises(UserError, match="as-it-is/records do not state task.languages, and no rows are named to learn it from"):
        from_records(tmp_path / "as-it-is")
    manifest = Manifest.load(str(tmp_path / "run/records"))
    counts = manifest.splits["train"]["values"]
    sampling, numbers = saved.build_task(tokenizer).sampling(counts), counts["language_number"]
    drawn = {0: 0, 1: 0}
    for epoch in range(5):
        for record in sampling.sampled(read_records(manifest.paths("train")), 7, tf.constant(epoch, tf.int64)):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            drawn[features["language_number"].int64_list.value[0]] += 1
    expected = (numbers["0"] / numbers["1"]) ** 0.5
    assert drawn[0] / drawn[1] == pytest.approx(expected, rel=0.1)
    alone = ("task.sampling_exponent=0.5", f"data.train={tmp_path}/de.txt", "data.validation=null")
    status, _, error = cli("prepare", *given(tmp_path, *alone), f"--workdir={tmp_path}/x")
    assert status == 1 and "task.sampling_exponent=0.5 needs a file for each language, and data.train names 1" in error


def test_what_a_config_cannot_be(cli, tmp_path):
    for key, message in {
        "task.masked_lm_prob=0": "task.masked_lm_prob: must be between 0 and 1, got 0",
        "task.random_token_prob=0.5": "task.random_token_prob: with mask_token_prob it makes 1.3; both together are 1 at most",
        "task.dupe_factor=0": "task.dupe_factor: must be 1 or more, got 0",
        "task.sampling_exponent=2": "task.sampling_exponent: must be in [0, 1], got 2",
        "task.max_predictions=-1": "task.max_predictions: must be 0 or more, got -1",
        "task.sentence_objective=npt": "'npt' is not one of nsp, sop, none; did you mean 'nsp'?",
        "encoder.extend_vocabulary=true": "encoder.extend_vocabulary: needs encoder.init_from, the encoder, and",
        "encoder.config_path=/no/such.json": "encoder.config_path: no file /no/such.json",
        "task.text_columns=[a, b]": "task.text_columns: pre-training reads one column, got a, b",
    }.items():
        status, _, error = cli("train", *given(tmp_path, key), f"--workdir={tmp_path}/x")
        assert status == 1 and message in error, error


def test_what_a_corpus_cannot_give_is_told(cli, tmp_path):
    (tmp_path / "lines.txt").write_text("\n\n".join(f"Only one line of document {i}." for i in range(50)))
    (tmp_path / "alone.txt").write_text("\n".join(f"Line {i} of the only document." for i in range(50)))
    (tmp_path / "one.txt").write_text("a")
    own = ("data.validation=null",)
    _, _, log = cli("prepare", *given(tmp_path, *own, f"data.train={tmp_path}/lines.txt"), f"--workdir={tmp_path}/1")
    assert "data.train: nearly all second parts are random or swapped: there is little to learn from pairs" in log
    _, _, log = cli("prepare", *given(tmp_path, *own, f"data.train={tmp_path}/alone.txt"), f"--workdir={tmp_path}/2")
    assert "pairs found no other document for a random second part; the true next part was taken" in log
    status, _, log = cli("prepare", *given(tmp_path, *own, f"data.train={tmp_path}/one.txt"), f"--workdir={tmp_path}/3")
    assert status == 1 and "data.train: 1 row(s) gave not one example; " in log and "one_token_documents: 1" in log


@pytest.mark.parametrize("recipe", sorted(Path("configs/pretraining").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_load(recipe):
    loaded = experiment.load(str(recipe))
    assert loaded.task.name == "pretraining" and loaded.train.steps
    if loaded.encoder.config_path:
        assert Path(loaded.encoder.config_path).exists()
    assert f"--config={recipe}" in recipe.read_text()


def test_replaced_tokens_from_training_to_fine_tuning(cli, tmp_path, reviews):
    """An ELECTRA: trained, scored, exported for transformers; and a classifier from it, with no weight of the generator."""
    sizes = SIZES | {"model_type": "electra", "embedding_size": 16}
    keys = [f"task.{key}={value}" for key, value in TestReplacedTokens.config.items()]
    flags = given(tmp_path, *keys)
    (tmp_path / "sizes.json").write_text(json.dumps(sizes))
    status, _, log = cli("train", *flags, f"--workdir={tmp_path}/run")
    assert status == 0 and "replaced_accuracy" in log and "best validation replaced_f1" in log, log
    assert cli("evaluate", f"--workdir={tmp_path}/run")[0] == 0
    scores = json.loads((tmp_path / "run/evaluation/validation.json").read_text())
    assert scores["replaced_f1"] == pytest.approx(json.loads((tmp_path / "run/checkpoints/best.json").read_text())["score"])
    assert {"replaced_precision", "replaced_recall", "replaced_accuracy", "masked_lm_accuracy"} <= set(scores)
    status, _, error = cli("train", *flags, f"--workdir={tmp_path}/x", "--set=task.sentence_objective=nsp")
    assert status == 1 and "task.replaced_tokens: goes with task.sentence_objective=none" in error
    # transformers' names
    run = assembly.restore(str(tmp_path / "run"))
    from trainer.commands.export import export_hugging_face

    export_hugging_face(run, str(tmp_path / "run"))
    tensors = head_and_encoder(tmp_path / "run")
    assert json.loads((tmp_path / "run/huggingface/config.json").read_text())["architectures"] == ["ElectraForPreTraining"]
    assert {"discriminator_predictions.dense.weight", "discriminator_predictions.dense_prediction.bias"} <= set(tensors)
    own = run.assembled.encoder.model.electra.encoder.layer[0].attention.self_attention.query.kernel.numpy()
    np.testing.assert_array_equal(tensors["electra.encoder.layer.0.attention.self.query.weight"], own.T)
    # a classifier
    rows = write_csv(tmp_path / "rows.csv", reviews[:20])
    keys = ("task.name=classification", "task.pooling=mean", f"data.train={rows}", "train.epochs=1", "train.learning_rate=1e-9")
    flags = [f"--set={key}" for key in (*keys, f"encoder.init_from={tmp_path}/run", "data.max_seq_length=32")]
    assert cli("train", *flags, f"--workdir={tmp_path}/classifier")[0] == 0
    found = stored(tmp_path / "classifier")["tf_electra_model/electra/encoder/layer_._0/attention/self/query/kernel"]
    assert np.allclose(found, own, atol=1e-6)
