"""The sections: that their values are checked is in test_experiment.py."""

import pytest

from trainer import config
from trainer.errors import UserError
from trainer.run import experiment
from trainer.run.schema import RENAMED, is_share, schema, share_of
from trainer.tasks import task_names


def test_every_renamed_key_is_refused_with_its_new_name(tmp_path):
    known = {
        f"{name}.{field}"
        for task in task_names()
        for name, section in schema(task).items()
        for field in config.fields_of(section)
    }
    for old, new in RENAMED.items():
        assert new in known and old not in known
        task = "pretraining" if old.startswith("task.") else "classification"
        path = tmp_path / "old.yaml"
        section, field = old.split(".")
        path.write_text(f"task: {{name: {task}}}\n{section}: {{{field}: 0.1}}\n" if section != "task" else
                        f"task: {{name: {task}, {field}: 0.1}}\n")  # fmt: skip
        with pytest.raises(UserError, match=f"old.yaml:[12]: config key '{old}' was renamed: write '{new}'"):
            experiment.load(str(path), ["encoder.init_from=x"])


def test_shares():
    assert [is_share(source) for source in ("10%", " 5 % ", "a.csv", None, "")] == [True, True, False, False, False]
    assert share_of("12.5%") == 0.125


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["data.validation=0%"], "data.validation: a share of data.train is between 0% and 100%, as 10%, got '0%'"),
        (["data.test=ten%"], "data.test: a share of data.train is between 0% and 100%"),
        (["data.validation=60%", "data.test=40%"], "data.test: data.validation and data.test together hold out 100%"),
        (["data.train=50%"], "data.train: training rows are a source, not a share"),
        (["data.train=null", "data.validation=10%"], "data.train: needed: data.validation or data.test is a share of it"),
        (["data.encoding=utf-9"], "data.encoding: Python knows no encoding 'utf-9'"),
        (
            ["train.swa_start=0.5", "train.ema_decay=0.9"],
            "train.swa_start: and train.ema_decay are two averages; one can be kept",
        ),
        (["train.swa_start=1.5"], r"train.swa_start: must be in \[0, 1\), got 1.5"),
        (["train.swa_every_steps=5"], "train.swa_every_steps: needs train.swa_start"),
        (["train.mixout_prob=1"], r"train.mixout_prob: must be in \[0, 1\)"),
        (["train.r_drop_alpha=-1"], "train.r_drop_alpha: must be 0 or more, got -1"),
        (["train.early_stopping_patience=0"], "train.early_stopping_patience: must be over 0"),
    ],
)
def test_values_that_cannot_be(sets, message):
    with pytest.raises(UserError, match=message):
        experiment.load(None, ["encoder.init_from=x", "data.train=a.csv", *sets])
