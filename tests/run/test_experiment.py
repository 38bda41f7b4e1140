import pytest

from trainer.errors import UserError
from trainer.run import experiment

MINIMAL = ["encoder.init_from=x"]


def load(*sets):
    return experiment.load(None, [*MINIMAL, *sets])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("encoder.freeze_layers=-2", "encoder.freeze_layers: must be -1 or more, got -2"),
        ("encoder.dropout_rate=1", r"encoder.dropout_rate: must be in \[0, 1\), got 1.0"),
        ("encoder.init_from=random", "encoder.init_from: 'random' needs encoder.config_path"),
        ("task.text_columns=[a, b, c]", "task.text_columns: one or two columns, got 3"),
        ("data.delimiter=ab", "data.delimiter: one character, got 'ab'"),
        ("data.max_seq_length=4", "data.max_seq_length: must be 8 or more, got 4"),
        ("data.max_examples_per_row=0", "data.max_examples_per_row: must be 1 or more, got 0"),
        ("data.length_buckets=true", "data.length_buckets: goes with data.max_examples_per_row=1; rows with up to 16"),
        ("data.max_rejected_fraction=2", r"data.max_rejected_fraction: must be in \[0, 1\], got 2.0"),
        ("data.workers=-1", "data.workers: must be 0 or more, got -1"),
        ("train.batch_size=0", "train.batch_size: must be over 0, got 0"),
        ("data.validation=0.1", "data.validation: a share of data.train is written with a percent sign, as 10%, got '0.1'"),
        ("train.seed=-1", "train.seed: must be from 0 to 2147483647, got -1"),
        ("data.encoding=hex", "data.encoding: Python knows no encoding 'hex'"),
        ("train.warmup_ratio=1", r"train.warmup_ratio: must be in \[0, 1\), got 1.0"),
        ("train.weight_decay=-1", "train.weight_decay: must be 0 or more, got -1.0"),
        ("runtime.keep_checkpoints=0", "runtime.keep_checkpoints: must be 1 or more, got 0"),
        ("runtime.static_rows=0", "runtime.static_rows: must be 1 or more, got 0"),
        ("task.name=classificaton", "task.name: 'classificaton' is not one of .*did you mean 'classification'"),
    ],
)
def test_values_that_cannot_be(key, message):
    with pytest.raises(UserError, match=message):
        load(key)


def test_steps_or_epochs():
    assert load("train.steps=7").train.total_steps(1000) == 7
    assert load("train.epochs=2", "train.batch_size=10").train.total_steps(100) == 20
    assert load("train.batch_size=10").train.total_steps(100) == 30
    assert load("train.epochs=0.01", "train.batch_size=10").train.total_steps(10) == 1
    with pytest.raises(
        UserError, match="train.epochs: both train.steps=1 and train.epochs=1.0 are given; set one of them to null"
    ):
        load("train.steps=1", "train.epochs=1")


def test_saved_config_loads_equal(tmp_path):
    before = load("task.class_names=[no, 1e-5]", "train.learning_rate=3e-5", "data.train=a b.csv")
    experiment.save(before, str(tmp_path))
    assert experiment.load_workdir(str(tmp_path)) == before
    assert '"tensorflow": "2.' in (tmp_path / "versions.json").read_text()
    with pytest.raises(UserError, match="there is no folder .*none; train there first"):
        experiment.load_workdir(str(tmp_path / "none"))


def test_paths_of_the_home_folder_and_of_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "enc").mkdir()
    (tmp_path / "enc/bert_model.ckpt.index").write_text("")
    (tmp_path / "config.yaml").write_text("encoder: {init_from: enc/bert_model.ckpt}")
    loaded = experiment.load(str(tmp_path / "config.yaml"), ["data.records_dir=~/records"])
    assert loaded.encoder.init_from == f"{tmp_path}/enc/bert_model.ckpt", "beside the config, a prefix as well"
    assert loaded.data.records_dir == f"{tmp_path}/home/records"
    monkeypatch.chdir(tmp_path)
    experiment.save(
        experiment.load(None, ["encoder.init_from=enc/bert_model.ckpt", "data.records_dir=new"]), str(tmp_path / "run")
    )
    saved = experiment.load_workdir(str(tmp_path / "run"))
    assert saved.data.records_dir == f"{tmp_path}/new" and saved.encoder.init_from == f"{tmp_path}/enc/bert_model.ckpt"


def test_a_share_and_the_same_file_named_by_itself(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {number},{number % 2}\n" for number in range(40)))
    loaded = load(f"data.train={path}", f"data.validation={path}", "data.test=10%")
    assert [len(list(loaded.rows(split))) for split in ("train", "validation", "test")] == [36, 40, 4]


def test_resume_differences_leave_out_devices_and_logs():
    changed = load("train.seed=2", "runtime.log_every_steps=1", "train.jit_compile=true", "data.workers=3")
    assert experiment.resume_differences(load(), changed) == {"train.seed": (1, 2)}


def test_tpu_flag_and_sections():
    assert experiment.load(None, MINIMAL, tpu="local").runtime.tpu == "local"
    assert list(load().sections()) == ["task", "encoder", "data", "train", "runtime", "export"]
    assert load("data.train=a", "data.test=b").data.sources() == {"train": "a", "test": "b"}
