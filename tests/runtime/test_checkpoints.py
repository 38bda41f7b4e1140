"""Checkpoints: whole or not counted, the newest whole one taken, another model's refused."""

import json
import threading

import numpy as np
import pytest
import tensorflow as tf

from trainer import files
from trainer.errors import UserError
from trainer.runtime.checkpoints import BackgroundWriter, CheckpointStore, check_folder, read_variables


def variables(value=0.0, shape=(300, 10)):
    return {
        "bert/layer_._0/kernel": tf.Variable(tf.fill(shape, value)),
        "optimizer/iterations": tf.Variable(int(value), dtype=tf.int64),
    }


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(str(tmp_path / "checkpoints"), keep=2)


def test_latest_is_restored_and_older_ones_go(store):
    assert store.restore_latest(variables()) is None
    for step in (1, 2, 3):
        store.save(step, variables(float(step)), {"extra": "x"})
    assert [name for name in files.list_dir(store.folder) if name.startswith("step-")] == ["step-00000002", "step-00000003"]
    fresh = variables()
    assert store.restore_latest(fresh) == {"extra": "x", "step": 3}
    assert (fresh["bert/layer_._0/kernel"].numpy() == 3).all() and fresh["optimizer/iterations"].numpy() == 3


def test_names_survive_the_file(store):
    path = store.save(1, variables(1.0), {})
    assert set(read_variables(f"{path}/weights")) == set(variables())


def test_best_stays_beside_the_latest(store):
    store.save_best(1, variables(1.0), {"score": 0.5})
    store.save_best(4, variables(4.0), {"score": 0.7})
    store.save(9, variables(9.0), {})
    fresh = variables()
    assert store.restore_best(fresh)["score"] == 0.7 and fresh["optimizer/iterations"].numpy() == 4
    assert store.best_state()["score"] == 0.7
    assert [name for name in files.list_dir(store.folder) if name.startswith("best-")] == ["best-00000004"]


def test_a_best_model_that_is_found_again_or_replaced_meanwhile(store, monkeypatch):
    store.save_best(4, variables(4.0), {"score": 0.5})
    store.save_best(4, variables(4.0), {"score": 0.5})
    assert store.best_state()["name"] == "best-00000004-again", "the first one is whole until the second one is"
    original = store.problem_with

    def replaced(name, wanted):
        monkeypatch.setattr(store, "problem_with", original)
        store.save_best(8, variables(8.0), {"score": 0.7})
        return "no such file"

    monkeypatch.setattr(store, "problem_with", replaced)
    assert store.restore_best(variables())["step"] == 8


def damage(folder, name):
    path = next((folder / name).glob("weights.data*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def test_a_damaged_latest_gives_way_to_the_one_before(store, tmp_path, caplog):
    for step in (1, 2):
        store.save(step, variables(float(step)), {})
    damage(tmp_path / "checkpoints", "step-00000002")
    fresh = variables()
    assert store.restore_latest(fresh)["step"] == 1 and fresh["optimizer/iterations"].numpy() == 1
    damage(tmp_path / "checkpoints", "step-00000001")
    with pytest.raises(
        UserError, match=r"no checkpoint in .* is whole \(step-00000002: .*; step-00000001: .*remove that folder"
    ):
        store.restore_latest(fresh)


def test_one_that_was_never_finished_does_not_count(store, tmp_path):
    store.save(1, variables(1.0), {})
    (tmp_path / "checkpoints/step-00000002").mkdir()
    (tmp_path / "checkpoints/step-00000002/weights.index").write_bytes(b"half")
    assert store.restore_latest(variables())["step"] == 1


def test_a_workdir_is_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--workdir: .*file is a file, where a folder belongs"):
        check_folder(f"{tmp_path}/file")


def test_another_models_checkpoint_is_told(store):
    store.save(1, variables(1.0), {})
    message = r"is a checkpoint of another model: for bert/layer_._0/kernel of shape \[5, 5\] it has shape \[300, 10\]. Choose another"
    with pytest.raises(UserError, match=message):
        store.restore_latest(variables(shape=(5, 5)))
    with pytest.raises(UserError, match=r"for other of shape \[\] it has no such weight"):
        store.restore_best({"other": tf.Variable(0.0)})


def test_nothing_saved_yet_is_told(store):
    with pytest.raises(UserError, match="no checkpoint there yet; run train first"):
        store.restore_best(variables())


def test_a_damaged_best_is_told(store, tmp_path):
    store.save_best(1, variables(1.0), {"score": 1.0})
    damage(tmp_path / "checkpoints", "best-00000001")
    with pytest.raises(UserError, match="best-00000001 cannot be read: "):
        store.restore_best(variables())


def test_a_write_that_does_not_read_back_is_not_named_latest(store, tmp_path, monkeypatch):
    store.save(1, variables(1.0), {})
    monkeypatch.setattr(CheckpointStore, "_problem_with_weights", lambda *_: "checksum does not match")
    with pytest.raises(UserError, match="does not read back: checksum does not match; is the disk failing"):
        store.save(2, variables(2.0), {})
    assert json.loads((tmp_path / "checkpoints/latest.json").read_text())["name"] == "step-00000001"


def test_a_full_disk_leaves_the_latest_as_it_was(store, tmp_path, monkeypatch):
    store.save(1, variables(1.0), {})

    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")

    monkeypatch.setattr(tf.train.Checkpoint, "write", full)
    with pytest.raises(UserError, match="the disk is full: writing .*step-00000002"):
        store.save(2, variables(2.0), {})
    assert CheckpointStore(store.folder).restore_latest(variables())["step"] == 1


def test_remote_folders(tmp_path):
    store = CheckpointStore(f"ram://checkpoints/{tmp_path.name}")
    store.save(5, variables(5.0), {})
    fresh = variables()
    assert store.restore_latest(fresh)["step"] == 5 and np.all(fresh["bert/layer_._0/kernel"].numpy() == 5)


def test_what_is_written_in_the_background_is_what_it_was_when_it_was_saved(store, monkeypatch):
    """The training changes the variables at once; the next save waits for the one before."""
    release, original = threading.Event(), CheckpointStore.save

    def slow(*arguments):
        release.wait(10)
        return original(*arguments)

    monkeypatch.setattr(CheckpointStore, "save", slow)
    held, writer = variables(1.0), BackgroundWriter(store)
    writer.save(1, held, {})
    for variable in held.values():
        variable.assign(tf.ones_like(variable) * 2)
    assert not store.has_latest(), "it is not the latest before it is whole"
    release.set()
    writer.save(2, held, {})
    writer.wait()
    for step in (1, 2):
        stored = read_variables(f"{store.folder}/step-{step:08d}/weights")
        assert all((stored[name] == step).all() for name in stored)
    assert store.latest_step() == 2


def test_a_background_write_that_fails_is_told_at_the_next_save(store, monkeypatch):
    monkeypatch.setattr(CheckpointStore, "_problem_with_weights", lambda *_: "checksum does not match")
    writer = BackgroundWriter(store)
    writer.save(1, variables(1.0), {})
    with pytest.raises(UserError, match="does not read back: checksum does not match"):
        writer.save(2, variables(2.0), {})
    at_once = BackgroundWriter(store, is_on=False)
    with pytest.raises(UserError, match="does not read back"):
        at_once.save_best(3, variables(3.0), {})
