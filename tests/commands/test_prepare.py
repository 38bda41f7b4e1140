import json

import pytest

from trainer.data.records import Manifest


def prepare(cli, config_file, tmp_path, *sets):
    return cli("prepare", f"--config={config_file}", f"--workdir={tmp_path}/run", *[f"--set={s}" for s in sets])


def test_records_are_made_once_and_again_when_stale(cli, config_file, tmp_path):
    status, out, log = prepare(cli, config_file, tmp_path)
    assert status == 0 and f"records: {tmp_path}/run/records" in out
    assert "prepared train: 64 rows → 64 examples" in log
    assert "up to date" in prepare(cli, config_file, tmp_path)[2]
    log = prepare(cli, config_file, tmp_path, "data.max_seq_length=32")[2]
    assert "are stale, preparing again:\n  data.max_seq_length was 64, is 32" in log
    with open(tmp_path / "train.csv", "a") as file:
        file.write("one more,positive\n")
    assert "train.csv was " in prepare(cli, config_file, tmp_path, "data.max_seq_length=32")[2]


def test_rejected_rows_are_kept_with_their_reason(cli, config_file, tmp_path):
    with open(tmp_path / "train.csv", "a") as file:
        file.write('" ",positive\nfine,unheard\nfine\n')
    status, _, error = prepare(cli, config_file, tmp_path, "task.class_names=[negative, positive]")
    assert status == 1 and "data.train: 3 of 67 rows rejected; all are in " in error
    assert "over data.max_rejected_fraction=0.01: correct the rows" in error
    rejected = [json.loads(line) for line in (tmp_path / "run/records/rejected.jsonl").read_text().splitlines()]
    assert [(row["split"], row["line"], row["reason"]) for row in rejected] == [
        ("train", 66, "the text in column 'text' is empty"),
        ("train", 67, "label 'unheard' is not one of the classes 'negative', 'positive'"),
        ("train", 68, "1 columns where 2 belong (['text', 'label'])"),
    ]
    assert Manifest.load(f"{tmp_path}/run/records") is None, "nothing counts as prepared"
    sets = ["task.class_names=[negative, positive]", "data.max_rejected_fraction=0.1"]
    status, _, log = prepare(cli, config_file, tmp_path, *sets)
    assert status == 0 and "1 × the text in column 'text' is empty (first: " in log


@pytest.mark.parametrize("sets", [(), ("data.shards=3",)])
def test_tfds_opens_the_records(cli, config_file, tmp_path, sets):
    import tensorflow_datasets as tfds

    prepare(cli, config_file, tmp_path, *sets)
    builder = tfds.builder_from_directory(f"{tmp_path}/run/records")
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {"train": 64, "validation": 32}
    examples = list(tfds.as_numpy(builder.as_dataset(split="train")))
    assert sorted(int(example["row_id"]) for example in examples) == list(range(64))
    assert all(example["input_ids"][0] == 101 for example in examples)


def test_where_records_go_must_be_said(cli, config_file, tmp_path):
    status, _, error = cli("prepare", f"--config={config_file}")
    assert status == 1 and "prepare needs --workdir, or data.records_dir in the config" in error
    assert cli("prepare", f"--config={config_file}", f"--set=data.records_dir={tmp_path}/records")[0] == 0
    assert (tmp_path / "records/manifest.json").exists()
    status, _, error = prepare(cli, config_file, tmp_path, "data.train=null", "data.validation=null")
    assert status == 1 and "data.train is not given" in error
    status, _, error = cli("prepare", f"--config={config_file}", f"--set=data.records_dir={tmp_path}/records",
                           "--set=data.train=null", "--set=data.validation=null")  # fmt: skip
    assert status == 1 and "data.train is not given" in error, "there is nothing to prepare"
