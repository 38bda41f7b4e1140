from pathlib import Path

from tests.conftest import ROOT
from trainer import config
from trainer.run import experiment
from trainer.tasks import task_names


def test_every_key_is_shown_with_type_default_and_meaning(cli):
    status, out, _ = cli("describe")
    assert status == 0
    assert "  train.learning_rate: float = 5e-05\n      Peak learning rate." in out
    assert "  task.threshold: float or null = null" in out
    for name, section in experiment.schema("classification").items():
        meanings = config.documentation(section)
        for field in config.fields_of(section):
            assert f"  {name}.{field}: " in out and meanings[field], f"{name}.{field} has no docstring under it"


def test_a_config_is_shown_resolved(cli, config_file):
    status, out, _ = cli("describe", f"--config={config_file}", "--set=train.seed=5")
    assert status == 0 and "seed: 5" in out and "batch_size: 8" in out
    error = cli("describe", "--config=/no/file.yaml")[2]
    assert error.startswith("error: --config: no file /no/file.yaml, and no recipe of that name; `bert-trainer describe --rec")


def test_one_section_is_shown(cli):
    status, out, _ = cli("describe", "train")
    assert (
        status == 0 and out.startswith("train\n  train.batch_size: int = 32\n") and "data." not in out.replace("data.train", "")
    )
    assert cli("describe", "pretraining")[1].startswith("task  (task.name=pretraining)\n")
    assert cli("describe", "task")[1].count("task  (task.name=") == len(task_names())
    status, _, error = cli("describe", "trian")
    assert status == 1 and error.startswith("error: no section 'trian'; did you mean 'train'?; sections are classification,")


def test_recipes_are_listed_and_can_be_named(cli, tmp_path, monkeypatch):
    status, out, _ = cli("describe", "--recipes")
    names = [line.split()[0] for line in out.splitlines()]
    assert status == 0 and {"quickstart", "sst2", "pretraining/bert-mini", "tiny/pretraining"} <= set(names)
    monkeypatch.chdir(tmp_path)  # a recipe needs no checkout as the current folder
    status, out, _ = cli("describe", "--config=quickstart")
    assert status == 0 and "quickstart/train.csv" in out
    train = next(line.split(": ")[1] for line in out.splitlines() if line.startswith("  train:"))
    assert Path(train).is_file()
    assert "no recipe of that name; did you mean 'quickstart'?" in cli("describe", "--config=quikstart")[2]


def test_the_page_of_all_keys_is_up_to_date(cli):
    status, out, _ = cli("describe", "--markdown")
    assert status == 0
    assert out == (ROOT / "docs/config.md").read_text(encoding="utf8"), "run: bert-trainer describe --markdown > docs/config.md"
