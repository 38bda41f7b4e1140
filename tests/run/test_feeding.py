import itertools
import types

import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import UserError
from trainer.preparation import learning
from trainer.preparation import splits as preparation
from trainer.run import experiment, feeding
from trainer.run.feeding import likely_rows, row_length
from trainer.run.tokenizer import find_tokenizer
from trainer.runtime.distribution import Placement


@pytest.mark.parametrize(
    ("tokens", "batch", "slots", "expected"),
    [(2000, 32, 16, 8), (2000, 32, 2, 17), (12800, 32, 16, 32), (2000, 1, 16, 1)],
)
def test_static_rows_leave_a_margin_and_never_exceed_the_batch(tokens, batch, slots, expected):
    # 100 examples; rows of 128 tokens: 32 · 20 · 1.25 / 128 = 6.25, one more row, rounded up.
    manifest = types.SimpleNamespace(splits={"train": {"tokens": tokens, "examples": 100}}, spec={})
    assert likely_rows(manifest, "train", batch, 128, slots) == expected


@pytest.mark.parametrize(("longest", "limit", "expected"), [(66, 128, 80), (64, 128, 64), (70, 72, 72), (0, 128, 16)])
def test_rows_are_as_long_as_the_longest_example(longest, limit, expected):
    experiment = types.SimpleNamespace(data=types.SimpleNamespace(max_seq_length=limit))
    manifest = types.SimpleNamespace(splits={"train": {"longest": longest}}, spec={})
    assert row_length(experiment, manifest, "train") == expected


@pytest.fixture
def buckets(config_file, tmp_path, monkeypatch):
    """Gives batches of a run with length buckets, windows of two steps: (first step, replicas) → batches."""
    for module in ("trainer.run.feeding", "trainer.data.pipeline"):
        monkeypatch.setattr(f"{module}.WINDOW_BATCHES", 2)

    def batches(first_step, replicas, *more):
        sets = ["data.length_buckets=true", "data.max_examples_per_row=1", *more]
        resolved = learning.learned(experiment.load(str(config_file), sets, None))
        tokenizer = find_tokenizer(resolved)
        manifest = preparation.ensure_records(resolved, str(tmp_path / "w"), tokenizer)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]) if replicas == 2 else tf.distribute.get_strategy()
        task = resolved.build_task(tokenizer)
        placement = Placement(strategy, "mirrored" if replicas == 2 else "default", "")
        found = []
        shape = feeding.training_shape(resolved, manifest, placement, whole=False)
        stream = feeding.training_batches(resolved, manifest, placement, task, shape, first_step)
        for batch in itertools.islice(stream, 8 - first_step):
            found.append([part.numpy() for part in strategy.experimental_local_results(batch["input_ids"])])
        return found

    return batches


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("first_step", [1, 2, 5])
def test_a_resumed_run_goes_on_with_the_same_buckets(buckets, replicas, first_step):
    whole, rest = buckets(0, replicas), buckets(first_step, replicas)
    assert len(rest) == 8 - first_step and all(len(step) == replicas for step in rest)
    for expected, found in zip(whole[first_step:], rest, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_replicas_have_buckets_of_about_equal_length(buckets):
    alone, shared = buckets(0, 1), buckets(0, 2)
    for (whole,), parts in zip(alone, shared, strict=True):
        rows = sorted((tuple(row[row > 0]) for row in whole), key=lambda row: (len(row), row))
        shares = sorted((tuple(row[row > 0]) for part in parts for row in part), key=lambda row: (len(row), row))
        assert rows == shares, "the same examples in a step"
        means = [np.count_nonzero(part) / len(part) for part in parts]
        # Eight examples dealt in turn: four gaps, which together are no more than from the shortest to the longest.
        assert abs(means[0] - means[1]) <= (len(rows[-1]) - len(rows[0])) / 4, "the long ones did not all go to one replica"


def test_buckets_need_shapes_that_vary(buckets):
    with pytest.raises(UserError, match="data.length_buckets: runtime.static_rows asks for one shape; pack the rows instead"):
        buckets(0, 1, "runtime.static_rows=8")


def test_training_examples_are_changed_and_others_are_not(config_file, tmp_path):
    found = {}
    for prob in (0.0, 0.3):
        resolved = learning.learned(experiment.load(str(config_file), [f"data.augment_mask_prob={prob}"], None))
        tokenizer = find_tokenizer(resolved)
        manifest = preparation.ensure_records(resolved, str(tmp_path / "w"), tokenizer)
        task, placement = resolved.build_task(tokenizer), Placement(tf.distribute.get_strategy(), "default", "")
        shape = feeding.training_shape(resolved, manifest, placement, whole=False)
        training = feeding.training_batches(resolved, manifest, placement, task, shape, first_step=0)
        validation = feeding.evaluation_batches(resolved, manifest, "validation", task)
        batches = next(iter(training)), next(iter(validation))
        found[prob] = [np.count_nonzero(batch["input_ids"] == tokenizer.mask_id) for batch in batches]
    assert found[0.0] == [0, 0] and found[0.3][0] > 10 and found[0.3][1] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tagging", "data.augment_swap_prob: .* says something of single tokens; augmentation is for tasks on whole texts"),
        ("question_answering", "data.augment_swap_prob: answer_start says something of single tokens"),
        ("pretraining", "data.augment_swap_prob: pre-training masks tokens itself"),
    ],
)
def test_tokens_with_labels_are_not_augmented(config_file, tokenizer, name, message):
    from trainer.tasks import task_module

    resolved = experiment.load(str(config_file), ["data.augment_swap_prob=0.1"], None)
    module = task_module(name)
    known = {"entity_types": ("x",), "tag_scheme": "IOB2"} if name == "tagging" else {}
    with pytest.raises(UserError, match=message):
        feeding._augmented_work(resolved, module.Task(module.Config(**known), tokenizer, 32), 32)
