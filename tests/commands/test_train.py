"""train on the command line: log, files, resume, stops, and every way it can be refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import ROOT, run_cli, subprocess_environment, write_config, write_csv
from trainer.commands import train as train_command
from trainer.errors import UserError
from trainer.runtime.checkpoints import read_variables

NO_DROPOUT = ("--set=encoder.dropout_rate=0", "--set=encoder.attention_dropout_rate=0", "--set=task.head_dropout_rate=0")


def weights(workdir, step):
    stored = read_variables(f"{workdir}/checkpoints/step-{step:08d}/weights")
    return {name: value for name, value in stored.items() if not name.startswith("optimizer/")}


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def assert_equal(left, right, tolerance=0.0):
    assert set(left) == set(right)
    assert all(np.abs(left[name] - right[name]).max() <= tolerance for name in left)


def test_a_run_leaves_what_the_design_says(cli, config_file, tmp_path):
    status, _, log = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run")
    assert status == 0
    run = tmp_path / "run"
    for name in ("config.yaml", "versions.json", "tokenizer/vocab.txt", "checkpoints/latest.json", "checkpoints/best.json",
                 "metrics.jsonl", "tensorboard", "records/manifest.json", "records/rejected.jsonl"):  # fmt: skip
        assert (run / name).exists(), name
    for text in ("device: the CPU (auto: ", "encoder weights: 23 loaded from", "model: 1.0 M parameters", "length: 12 steps",
                 "batch: 8 examples over 1 replica(s)", "step 4/12  loss ", "tokens/s", "useful", "validation at step 8: ",
                 "best validation accuracy: ", "first step done ", "% MFU  ", "% waiting for data  "):  # fmt: skip
        assert text in log, text
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (start,) = [line for line in lines if line["kind"] == "start"]
    phases = ["imports_seconds", "config_seconds", "records_seconds", "model_seconds", "first_step_seconds"]
    assert list(start) == ["step", "kind", *phases] and start["first_step_seconds"] > 0
    for line in lines:
        if line["kind"] == "train":
            assert 0 < line.get("model_flops_utilization", 0.5) <= 1 and 0 <= line["data_wait_fraction"] < 1
    assert sorted(losses(run)) == [4, 8, 12]
    status, _, log = cli("train", f"--workdir={run}")
    assert status == 0 and "the run is complete: step 12 of 12" in log, "the workdir is enough to go on"


REGULARIZED = (
    *("train.r_drop_alpha=1", "train.mixout_prob=0.3", "train.adversarial_epsilon=0.5"),
    *("train.swa_start=0.25", "train.swa_every_steps=2", "train.unfreeze_every_epochs=0.3"),
)


@pytest.mark.parametrize("changes", [(), pytest.param(REGULARIZED, marks=pytest.mark.slow)], ids=["plain", "regularized"])
def test_resumed_equals_undisturbed_bit_for_bit_with_dropout(cli, config_file, tmp_path, changes):
    sets = [f"--set={change}" for change in changes]
    assert cli("train", f"--config={config_file}", f"--workdir={tmp_path}/whole", *sets)[0] == 0
    stopping = StopAfter(7)
    with stopping:
        status, _, log = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/cut", *sets)
    assert (
        status == 143 and "stopped by SIGTERM at step 7 of 12; a checkpoint is saved. Rerun the same command to resume" in log
    )
    status, _, log = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/cut", *sets)
    assert status == 0 and "resumed from step 7 of 12" in log
    assert_equal(weights(tmp_path / "whole", 12), weights(tmp_path / "cut", 12))


class StopAfter:
    """Sends this process SIGTERM once a step is done."""

    def __init__(self, step):
        self.step = step

    def __enter__(self):
        self._before = train_command.TrainingRhythm.on_train_batch_end
        original, step = self._before, self.step

        def stop(rhythm, batch, logs=None):
            if batch + 1 == step:
                os.kill(os.getpid(), signal.SIGTERM)
            original(rhythm, batch, logs)

        train_command.TrainingRhythm.on_train_batch_end = stop

    def __exit__(self, *_):
        train_command.TrainingRhythm.on_train_batch_end = self._before


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory, tiny_encoder, reviews):
    """The workdir of a run without dropout, to compare others with."""
    folder = tmp_path_factory.mktemp("plain")
    config = write_config(folder, tiny_encoder, reviews)
    assert run_cli("train", f"--config={config}", f"--workdir={folder}/run", *NO_DROPOUT) == 0
    return folder / "run"


@pytest.mark.parametrize(
    "changes",
    [
        ("runtime.cpu_devices=2",),
        ("data.max_examples_per_row=1",),
        ("train.gradient_accumulation_steps=2",),
        ("train.steps_per_execution=3",),
        ("runtime.static_rows=8",),
        pytest.param(
            ("train.recompute_activations=true", "train.gradient_accumulation_steps=2", "runtime.cpu_devices=2"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=" ".join,
)
def test_the_same_run_however_it_is_cut(cli, config_file, tmp_path, plain_run, changes):
    arguments = [f"--set={change}" for change in changes]
    assert cli("train", f"--config={config_file}", f"--workdir={tmp_path}/other", *NO_DROPOUT, *arguments)[0] == 0
    assert_equal(weights(plain_run, 12), weights(tmp_path / "other", 12), 5e-4)
    if "steps_per_execution" not in changes[0]:
        assert list(losses(plain_run).values()) == pytest.approx(list(losses(tmp_path / "other").values()), abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        ["train.precision=bfloat16", "train.ema_decay=0.9", "train.schedule=cosine", "task.balance=class_weights"],
        pytest.param(
            ["train.precision=float16", "train.layerwise_lr_decay=0.8", "encoder.freeze_layers=1", "task.focal_gamma=2.0"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [
                "train.jit_compile=true",
                "task.balance=sampling",
                "data.max_examples_per_row=1",
                "train.recompute_activations=true",
            ],
            marks=pytest.mark.slow,  # a minute of compiling
        ),
        [
            "data.length_buckets=true",
            "data.max_examples_per_row=1",
            "train.recompute_activations=true",
            "encoder.freeze_layers=-1",
        ],
    ],
    ids=lambda changes: changes[0],
)
def test_options_train_evaluate_and_resume(cli, config_file, tmp_path, changes):
    sets = [f"--set={change}" for change in changes]
    with StopAfter(5):
        assert cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run", *sets)[0] == 143
    status, _, log = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run", *sets)
    assert status == 0 and "resumed from step 5" in log
    best = json.loads((tmp_path / "run/checkpoints/best.json").read_text())
    assert cli("evaluate", f"--workdir={tmp_path}/run")[0] == 0
    scores = json.loads((tmp_path / "run/evaluation/validation.json").read_text())
    assert scores["accuracy"] == pytest.approx(best["score"])


def test_ctrl_c_in_a_real_process_saves_and_goes_on(tmp_path, config_file):
    command = [sys.executable, "-m", "trainer", "train", f"--config={config_file}", f"--workdir={tmp_path}/run",
               "--set=train.steps=100000", "--set=runtime.log_every_steps=1"]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, env=subprocess_environment(), stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("step 3/"):
            break
    other = subprocess.run(command, cwd=ROOT, env=subprocess_environment(), capture_output=True, text=True)
    assert other.returncode == 1 and f"is in use by process {process.pid} on " in other.stderr
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130 and "stopped by SIGINT at step " in rest and "Traceback" not in rest
    assert (tmp_path / "run/checkpoints/latest.json").exists()


def test_nan_stops_with_the_steps_and_what_to_try(cli, config_file, tmp_path):
    status, _, error = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run", "--set=train.learning_rate=1e30")
    assert status == 1 and "Traceback" not in error
    assert "error: the loss is nan at step " in error and "Try a smaller train.learning_rate than 1e+30" in error


def test_a_model_whose_loss_is_nan_is_never_the_best(cli, config_file, tmp_path):
    sets = ["--set=train.learning_rate=1e30", "--set=train.validate_every_steps=3", "--set=runtime.log_every_steps=100"]
    status, _, error = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run", *sets)
    assert status == 1 and "the loss is nan" in error
    assert not (tmp_path / "run/checkpoints/best.json").exists()


def test_a_run_from_the_start_forgets_the_best_of_the_one_before(cli, config_file, run_copy, tmp_path):
    run = tmp_path / "run"
    assert cli("train", f"--config={config_file}", f"--workdir={run}")[0] == 0
    best = run / "checkpoints/best.json"
    best.write_text(json.dumps({**json.loads(best.read_text()), "score": 2.0}))
    (run / "checkpoints/latest.json").unlink()
    for folder in (run / "checkpoints").glob("step-*"):
        (folder / "state.json").unlink()
    assert cli("train", f"--config={config_file}", f"--workdir={run}", "--set=train.seed=2")[0] == 0
    assert json.loads(best.read_text())["score"] <= 1.0


def test_averages_are_the_model_even_without_validation(cli, config_file, tmp_path):
    sets = ["--set=data.validation=null", "--set=train.ema_decay=0.5"]
    assert cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run", *sets)[0] == 0
    best = read_variables(f"{tmp_path}/run/checkpoints/best-00000012/weights")
    latest = read_variables(f"{tmp_path}/run/checkpoints/step-00000012/weights")
    assert np.array_equal(best["head/dense/kernel"], latest["optimizer/average/head/dense/kernel"])
    assert not np.array_equal(best["head/dense/kernel"], latest["head/dense/kernel"])


def refused(cli, config_file, tmp_path, *sets):
    status, _, error = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run", *[f"--set={s}" for s in sets])
    assert status == 1 and "Traceback" not in error, error
    return error.splitlines()[-1] if error.count("error: ") == 0 else error[error.index("error: ") :]


def test_bad_input_is_told(cli, config_file, tmp_path, reviews):
    one_class = write_csv(tmp_path / "one.csv", [{"text": "a b", "label": "x"}] * 4)
    (tmp_path / "empty.csv").write_text("text,label\n")
    unseen = write_csv(tmp_path / "unseen.csv", [{"text": "a", "label": "new"}] * 3)
    cases = {
        ("data.train=/no/file.csv",): "error: data.train: no file /no/file.csv",
        ("task.label_column=lable",): "no column 'lable' (task.label_column); the columns are 'text', 'label'",
        ("task.text_columns=[txt]",): "64 × no column 'txt'; the row has 'text', 'label'",
        (f"data.train={one_class}",): "data.train: one class only, 'x'; a classifier needs at least two",
        (
            f"data.train={tmp_path}/empty.csv",
        ): "error: data.train: no row has a label in column 'label', so class names cannot be learned; the source has no rows",
        (f"data.validation={unseen}",): "data.validation: 3 of 3 rows rejected",
        (
            f"data.validation={unseen}",
            "data.max_rejected_fraction=1",
        ): "data.validation: every row was rejected; there is nothing",
        (f"data.validation={tmp_path}/empty.csv",): "data.validation: no rows: the source is empty, or holds only a header",
        ("data.max_seq_length=256",): "data.max_seq_length=256 is over the encoder's 128 positions",
        ("encoder.init_from=/no/encoder",): "encoder.init_from: no folder /no/encoder",
        ("encoder.freeze_layers=9",): "encoder.freeze_layers: 9 is more than the encoder has: 1",
        ("task.class_weights={negativ: 2}",): "task.class_weights: 'negativ' is not one of task.class_names",
        ("train.batch_size=7", "runtime.cpu_devices=2"): "train.batch_size=7 cannot be shared by 2 replicas; use 8",
        ("runtime.distribution=mirrored",): "runtime.distribution=mirrored: TensorFlow sees no GPU here",
        ("runtime.distribution=tpu",): "--tpu=local: this machine has no TPU chip",
    }
    for sets, message in cases.items():
        assert message in refused(cli, config_file, tmp_path, *sets), sets


def test_a_vocabulary_that_does_not_fit(cli, config_file, tmp_path, tiny_encoder):
    vocabulary = (tiny_encoder / "vocab.txt").read_text().rstrip("\n")
    (tmp_path / "long.txt").write_text(vocabulary + "\nextraword\n")
    error = refused(cli, config_file, tmp_path, f"encoder.vocabulary_path={tmp_path}/long.txt")
    assert "the tokenizer has 30523 ids, the encoder embeddings for 30522: this vocabulary is not the encoder's" in error
    words = vocabulary.split("\n")
    (tmp_path / "moved.txt").write_text("\n".join([words[1], words[0], *words[2:]]) + "\n")
    error = refused(cli, config_file, tmp_path, f"encoder.vocabulary_path={tmp_path}/moved.txt")
    assert "the encoder's pad_token_id is 0, the tokenizer's [PAD] is 1" in error
    assert "no file or folder /no/vocab" in refused(cli, config_file, tmp_path, "encoder.vocabulary_path=/no/vocab")


def test_another_config_in_the_same_workdir_is_told(cli, config_file, run_copy):
    status, _, error = cli("train", f"--workdir={run_copy}", "--set=train.learning_rate=0.5", "--set=runtime.log_every_steps=3")
    assert status == 1
    assert "holds a run with another config; these keys differ:\n  train.learning_rate: 0.003 in the workdir, 0.5 now" in error
    assert "log_every_steps" not in error, "what does not change the result may change"


def test_damage_in_the_workdir_is_told(cli, run_copy):
    shard = next((run_copy / "records").glob("train-*.tfrecord"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-9])
    status, _, error = cli("train", f"--workdir={run_copy}")
    assert status == 1 and "it was cut short; remove " in error and "run prepare again" in error
    shard.write_bytes(content)
    for path in (run_copy / "checkpoints").glob("step-*/weights.data*"):
        path.write_bytes(path.read_bytes()[:100])
    status, _, error = cli("train", f"--workdir={run_copy}")
    assert status == 1 and "no checkpoint in " in error and "is whole" in error


def test_too_little_disk_is_told_before_training(cli, config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(train_command.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**6})())
    error = refused(cli, config_file, tmp_path)
    assert "has 1 MB free; 2 checkpoints, the best and the one being written need " in error


def test_nothing_to_train_is_told(cli, tmp_path):
    error = cli("train", f"--workdir={tmp_path}/none")[2]
    assert "train needs --config, or a --workdir that holds a run" in error


def test_random_encoder_from_a_config_and_a_vocabulary(cli, config_file, tmp_path, tiny_encoder):
    sets = [
        "encoder.init_from=random",
        f"encoder.config_path={tiny_encoder}/config.json",
        f"encoder.vocabulary_path={tiny_encoder}",
    ]
    status, _, log = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run", *[f"--set={s}" for s in sets])
    assert status == 0 and "encoder weights: random (seed 1)" in log


def test_an_earlier_run_is_a_start(cli, config_file, tmp_path, finished_run):
    status, _, log = cli(
        "train", f"--config={config_file}", f"--workdir={tmp_path}/run", f"--set=encoder.init_from={finished_run}"
    )
    assert status == 0 and "in the file, not part of this model: head/dense/bias, head/dense/kernel" in log


def test_everything_on_a_remote_file_system(cli, config_file, tmp_path):
    workdir = f"ram://runs/{tmp_path.name}-{time.monotonic_ns()}"
    assert cli("train", f"--config={config_file}", f"--workdir={workdir}")[0] == 0
    status, out, _ = cli("evaluate", f"--workdir={workdir}")
    assert status == 0 and f"all scores: {workdir}/evaluation/validation.json" in out


@pytest.fixture
def records_alone(cli, config_file, tmp_path):
    """Flags that name no rows but records, whose rows are away then."""
    assert cli("prepare", f"--config={config_file}", f"--set=data.records_dir={tmp_path}/records")[0] == 0
    for name in ("train.csv", "validation.csv"):
        (tmp_path / name).rename(tmp_path / f"away-{name}")
    return ["--set=data.train=null", "--set=data.validation=null", f"--set=data.records_dir={tmp_path}/records"]


@pytest.mark.slow
def test_records_alone_train_as_their_rows_do(cli, config_file, tmp_path):
    usual = ["train", f"--config={config_file}", f"--workdir={tmp_path}/usual"]
    with StopAfter(7):
        assert cli(*usual)[0] == 143
    (tmp_path / "train.csv").rename(tmp_path / "away.csv")
    alone = [f"--set=data.records_dir={tmp_path}/usual/records", "--set=data.train=null", "--set=data.validation=null"]
    status, _, log = cli(*usual, *alone)
    assert status == 0 and "resumed from step 7 of 12" in log, "the rows may go away while a run is interrupted"
    assert f"records: {tmp_path}/usual/records, used unchanged (no rows are named)" in log
    assert cli("train", f"--config={config_file}", f"--workdir={tmp_path}/alone", *alone)[0] == 0
    assert_equal(weights(tmp_path / "alone", 12), weights(tmp_path / "usual", 12))


def test_records_alone_that_do_not_fit_are_refused(cli, config_file, tmp_path, records_alone):
    def refusal(*sets):
        status, _, error = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run", *records_alone, *sets)
        assert status == 1
        return error

    error = refusal("--set=data.max_seq_length=32")
    assert (
        "no rows are named to prepare them from again:\n  data.max_seq_length was 64, is 32\nset these keys back, or" in error
    )
    assert "task.class_weights: 'negativ' is not one of" in refusal("--set=task.class_weights={negativ: 2.0}")
    nothing = f"--set=data.records_dir={tmp_path}/nothing"
    assert f"data.records_dir: {tmp_path}/nothing holds no prepared records that this machine sees" in refusal(nothing)
    one = [f"--set=data.validation={tmp_path}/away-validation.csv", f"--set=data.records_dir={tmp_path}/one"]
    names = "--set=task.class_names=[negative, positive]"
    assert cli("prepare", f"--config={config_file}", "--set=data.train=null", *one, names)[0] == 0
    assert f"{tmp_path}/one holds records of validation only, none to train on" in refusal(one[1])
    manifest = tmp_path / "records/manifest.json"
    stored = json.loads(manifest.read_text())
    del stored["task"]  # as an earlier version wrote it
    manifest.write_text(json.dumps(stored))
    assert f"the records in {tmp_path}/records do not state task.class_names, and no rows are named" in refusal()


def test_a_run_goes_on_with_its_own_records_only(cli, config_file, tmp_path):
    command = ["train", f"--config={config_file}", f"--workdir={tmp_path}/run"]
    with StopAfter(7):
        assert cli(*command)[0] == 143
    with open(tmp_path / "train.csv", "a") as file:
        file.write("one more,positive\n")
    config = (tmp_path / "run/config.yaml").read_text()
    status, _, error = cli(*command, "--set=runtime.log_every_steps=3")
    assert (tmp_path / "run/config.yaml").read_text() == config, "a resume that is refused changes nothing"
    assert status == 1 and f"{tmp_path}/run began with other records than those in {tmp_path}/run/records" in error


@pytest.mark.slow  # a minute of compiling
def test_a_step_that_xla_compiles_whole_is_compiled_once(config_file, tmp_path):
    """XLA writes a file for each program that it compiles: after the first epoch and validation there is no new one."""
    script = f"""
import os, sys
from trainer.commands import train
from tests.conftest import run_cli
counts, original = {{}}, train.TrainingRhythm.on_train_batch_end
def count(rhythm, batch, logs=None):
    original(rhythm, batch, logs)
    counts[batch + 1] = len(os.listdir({str(tmp_path / "programs")!r}))
train.TrainingRhythm.on_train_batch_end = count
keys = ["train.jit_compile=true", "train.steps=32", "data.validation={tmp_path}/validation.csv", "train.ema_decay=0.9"]
assert run_cli("train", "--config={config_file}", "--workdir={tmp_path}/run", *[f"--set={{key}}" for key in keys]) == 0
print(counts[8], counts[32])
"""
    environment = subprocess_environment(XLA_FLAGS=f"--xla_dump_to={tmp_path}/programs", BERT_TRAINER_CACHE="")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "one shape for XLA: " in done.stderr and "validation at step 32" in done.stderr
    first, last = map(int, done.stdout.split()[-2:])
    assert 0 < first == last, "after the first epoch, its validation included, nothing was compiled"


def test_a_share_for_validation_early_stopping_and_a_named_score(cli, config_file, tmp_path):
    run = f"--workdir={tmp_path}/run"
    keys = ("data.validation=25%", "data.test=20%", "train.best_score=macro.f1", "train.early_stopping_patience=2")
    keys = (*keys, "train.steps=400")
    keys = (*keys, "train.validate_every_steps=4", "train.learning_rate=1e-9", "train.warmup_ratio=0")
    status, _, log = cli("train", f"--config={config_file}", run, *[f"--set={key}" for key in keys])
    assert status == 0, log
    assert "macro.f1 " in log[log.index("validation at step 4") :].splitlines()[0], "the score that chooses is shown"
    assert "stopped early at step 12 of 400: no better macro.f1 in 2 validations (train.early_stopping_patience)" in log
    best = json.loads((tmp_path / "run/checkpoints/best.json").read_text())
    assert best["score_name"] == "macro.f1" and best["step"] == 4
    status, _, log = cli("train", run)
    assert status == 0 and "step 12 of 400" in log, "a resume of a run that stopped early does not train on"
    status, out, _ = cli("evaluate", run)
    assert status == 0 and "split: validation" in out
    scores = json.loads((tmp_path / "run/evaluation/validation.json").read_text())
    assert scores["macro"]["f1"] == pytest.approx(best["score"]) and scores["examples"] < 32
    for split in ("train", "test"):  # the same rows, whether the run's records are read or made again for the command
        found = []
        for changes in ((), ("--set=runtime.log_every_steps=7",)):
            assert cli("evaluate", run, f"--split={split}", *changes)[0] == 0
            found.append(json.loads((tmp_path / f"run/evaluation/{split}.json").read_text()))
        assert found[0] == found[1] and found[0]["examples"] == {"train": 35, "test": 13}[split]


def test_a_kill_between_validation_and_checkpoint_changes_no_decision(cli, config_file, tmp_path, tiny_encoder, monkeypatch):
    """The best model is then newer than the checkpoint: it is found again, and counts as better, as it did before.

    The encoder that the run began with is gone by then: a run has its own tokenizer and sizes.
    """
    scores = iter([0.3, 0.5, 0.5, 0.6])  # at steps 4 and 8, then again at 8, and at 12
    monkeypatch.setattr("trainer.run.training.inference.evaluate", lambda *_, **__: {"accuracy": next(scores)})
    shutil.copytree(tiny_encoder, tmp_path / "encoder")
    sets = ("train.validate_every_steps=4", "train.early_stopping_patience=1", f"encoder.init_from={tmp_path}/encoder")
    command = ["train", f"--workdir={tmp_path}/run"]
    with StopAfter(9):
        assert cli(*command, f"--config={config_file}", *[f"--set={key}" for key in sets])[0] == 143
    checkpoints = tmp_path / "run/checkpoints"
    assert json.loads((checkpoints / "best.json").read_text())["step"] == 8
    assert list(losses(tmp_path / "run")) == [4, 8, 9], "the steps before a stop have their line, too"
    shutil.rmtree(checkpoints / "step-00000009")
    shutil.rmtree(tmp_path / "encoder")
    status, _, log = cli(*command)
    assert status == 0 and "resumed from step 5 of 12" in log and "stopped early" not in log
    best = json.loads((checkpoints / "best.json").read_text())
    assert (best["step"], best["score"]) == (12, 0.6)


def test_workers_begin_at_the_same_step():
    placement = SimpleNamespace(workers=2, sum_over_workers=lambda value: value + 0)
    with pytest.raises(UserError, match="this worker would begin at step 1,000 and others elsewhere: all workers must see"):
        train_command._check_same_step(1000, SimpleNamespace(placement=placement, workdir="/run"))


def test_the_home_folder_and_characters_that_checkpoints_cannot_have(cli, config_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/train.csv").write_text((tmp_path / "train.csv").read_text())
    assert cli("prepare", f"--config={config_file}", "--workdir=~/run", "--set=data.train=~/train.csv")[0] == 0
    assert (tmp_path / "home/run/records/manifest.json").exists() and not (tmp_path / "~").exists()
    for name in ("run[1]", "run*", "run?"):
        status, _, error = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/{name}")
        assert status == 1 and "TensorFlow cannot read checkpoints from such a path; choose a path without" in error
        assert not (tmp_path / name).exists()
