"""What every task must hold. A task's test inherits `TaskContract`, gives rows and a config, and is held to all of it."""

import collections
import dataclasses
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.conftest import run_cli, tiny_config
from trainer.data.pipeline import Packing, StreamPosition, packed_batches, serialized_examples
from trainer.data.records import encode_example
from trainer.data.sources import Row
from trainer.features import ROW_ID, check_example
from trainer.models.encoder import BertEncoder
from trainer.models.kernels.inference import ExportKernels
from trainer.models.kernels.native_inference import NativeExportKernels
from trainer.models.optimizers import AdamW
from trainer.preparation import learning
from trainer.run import experiment
from trainer.run.inference import BatchRunner, collect
from trainer.runtime import distribution
from trainer.serving.native_inputs import NativeInputs
from trainer.serving.signatures import ServingModule
from trainer.serving.text_inputs import GraphInputs
from trainer.tasks import task_module
from trainer.tasks.base import TextFields

LENGTH, SLOTS = 32, 4


class TaskContract:
    """Inherit, and set what is below.

    Attributes:
      name: the task's module.
      config: keyword arguments of its Config; dropout of its head off.
      fields: its text columns and label column.
      rows: at least four rows.
    """

    name: str
    config: dict
    text_columns: tuple[str, ...] = ("text",)
    label_column = "label"
    rows: list[dict]

    @pytest.fixture
    def task(self, tokenizer):
        module = task_module(self.name)
        fields = TextFields(self.text_columns, self.label_column, LENGTH)
        return module.Task(module.Config(name=self.name, **self.config), fields, tokenizer)

    def examples(self, task, labelled=True):
        rows = [Row(values, "rows", number + 1) for number, values in enumerate(self.rows)]
        if not labelled:
            return [{**e, "row_id": number} for number, row in enumerate(rows) for e in task.examples(row, labelled=False)]
        found = task.chunk_examples(rows, "rows/0", collections.Counter())
        return [{**example, "row_id": number} for number, example in found]

    def records(self, task, labelled=True):
        return [encode_example(example, task.features()) for example in self.examples(task, labelled)]

    def batches(self, task, slots=SLOTS, size=100, length=LENGTH, labelled=True):
        records = self.records(task, labelled)
        work = task.batch_work() if labelled else task.prediction_work()
        packing = Packing(length, slots)
        return list(packed_batches(serialized_examples(lambda: records), task.features(), size, packing, work=work))

    def build(self, task, dropout=0.0, seed=3, kernels=None):
        keras.utils.set_random_seed(seed)
        config = tiny_config(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        model = task.build_model(BertEncoder(config, kernels=kernels))
        model.prepare_training(task, seed=1)
        return model

    def outputs(self, task, model, labelled=True, **layout):
        reduce = task.evaluated if labelled else task.predicted
        runner = BatchRunner(model, tf.distribute.get_strategy(), task.features(), reduce)
        return collect(runner.run(self.batches(task, labelled=labelled, **layout)))

    def test_features_match_the_spec(self, task):
        spec = task.features()
        assert spec["row_id"] == ROW_ID["row_id"]
        for example in self.examples(task) + self.examples(task, labelled=False):
            check_example(example, spec, LENGTH)

    def test_records_round_trip(self, task):
        records = self.records(task)
        stored = serialized_examples(lambda: records)
        batch = next(iter(packed_batches(stored, task.features(), 100, Packing(LENGTH, 1))))
        for row, example in enumerate(self.examples(task)):
            length = len(example["input_ids"])
            for name, feature in task.features().items():
                stored = batch[name].numpy()[row]
                expected = example[name] if feature.per == "token" else [example[name]]
                assert stored[: len(expected)].tolist() == pytest.approx(list(expected))
            assert batch["segment_ids"].numpy()[row].sum() == length

    def test_outputs_have_one_slot_an_example(self, task):
        batch = self.batches(task)[0]
        for value in self.build(task).outputs_for(batch).values():
            assert value.dtype == tf.float32 and value.shape[:1] == batch["input_ids"].shape[:1]

    def test_packed_equals_unpacked_and_padding_changes_nothing(self, task):
        model = self.build(task)
        expected, _ = self.outputs(task, model, slots=1)
        for layout in ({"slots": SLOTS}, {"slots": 1, "length": 2 * LENGTH}, {"slots": SLOTS, "size": 3}):
            found, _ = self.outputs(task, model, **layout)
            assert all(np.allclose(found[name], expected[name], atol=1e-5) for name in expected), layout

    def test_overfits_its_rows(self, task):
        model = self.build(task)
        model.compile(optimizer=AdamW(1e-2, weight_decay=0.0))
        batch = self.batches(task)[0]
        step = tf.function(model.train_step)
        first = float(step(batch)["loss"])
        for _ in range(100):
            last = float(step(batch)["loss"])
        assert last < 0.1 * first

    def test_two_seeded_runs_are_identical_with_dropout(self, task):
        def train(seed):
            model = self.build(task, dropout=0.1)
            model.prepare_training(task, seed=seed)
            model.compile(optimizer=AdamW(1e-3))
            step = tf.function(model.train_step)
            losses = [float(step(batch)["loss"]) for batch in itertools.islice(itertools.cycle(self.batches(task)), 3)]
            return losses, model.get_weights()

        (losses, weights), (again, weights_again) = train(1), train(1)
        assert losses == again and all(np.array_equal(a, b) for a, b in zip(weights, weights_again, strict=True))
        assert train(2)[0] != losses

    def test_one_replica_equals_two(self, task):
        strategy = distribution.choose("mirrored", cpu_devices=2).strategy
        results = []
        for scope in (tf.distribute.get_strategy(), strategy):
            with scope.scope():
                model = self.build(task)
                model.compile(optimizer=keras.optimizers.SGD(0.5))
                model.optimizer.build(model.trainable_variables)
            results.append(model)
        records = self.records(task)
        half = len(records) // 2

        def batch_of(part, first=0):
            stored, packing = serialized_examples(lambda: part), Packing(LENGTH, SLOTS, static_rows=8)
            work, position = task.batch_work(), StreamPosition(first)  # of steps of one example each
            return next(iter(packed_batches(stored, task.features(), 100, packing, work=work, position=position)))

        results[1].set_weights(results[0].get_weights())  # a strategy may draw initial values in another order
        alone, (first, second) = batch_of(records), (batch_of(records[:half]), batch_of(records[half:], first=half))
        tf.function(results[0].train_step)(alone)
        values = strategy.experimental_distribute_values_from_function(lambda c: (first, second)[c.replica_id_in_sync_group])
        tf.function(lambda v: strategy.run(results[1].train_step, (v,)))(values)
        gaps = [np.abs(a - b).max() for a, b in zip(*[model.get_weights() for model in results], strict=True)]
        assert max(gaps) < 1e-5, max(gaps)

    def test_one_json_prediction_a_row_in_order(self, task):
        model = self.build(task)
        outputs, labels = self.outputs(task, model, labelled=False, size=3)
        predictions = task.decode(outputs)
        assert len(predictions) == len(set(labels["row_id"])) == len(self.rows)
        assert json.loads(json.dumps(predictions)) == predictions
        alone = task.decode({name: value[2:3] for name, value in outputs.items()})
        assert alone == [predictions[2]]

    def test_score_is_json_and_has_the_best_score(self, task):
        outputs, labels = self.outputs(task, self.build(task))
        scores = task.score(outputs, labels)
        json.dumps(scores)
        assert isinstance(scores[task.best_score], float)

    def serving_module(self, task, kernels, inputs):
        """Returns (the module of an export, an equal Keras model)."""
        exported = self.build(task, kernels=kernels)
        module = ServingModule(exported, kernels, task, task.tokenizer, len(self.text_columns), LENGTH, inputs)
        return module, self.build(task)

    def test_savedmodel_equals_keras(self, task, tmp_path):
        module, model = self.serving_module(task, ExportKernels(), GraphInputs)
        tf.saved_model.save(module, str(tmp_path), signatures=module.signatures())
        self.check_reply(tf.saved_model.load(str(tmp_path)).signatures["serving_default"], task, model)

    def test_native_serving_equals_keras(self, task, native_inference):
        module, model = self.serving_module(task, NativeExportKernels(), NativeInputs)
        self.check_reply(module.signatures()["serving_default"], task, model)

    def check_reply(self, serve, task, model):
        outputs, _ = self.outputs(task, model, labelled=False)
        expected = task.serving({name: tf.constant(value) for name, value in outputs.items()})
        names = ("text", "text_pair")[: len(self.text_columns)]
        texts = {
            name: tf.constant([row[column] for row in self.rows]) for name, column in zip(names, self.text_columns, strict=True)
        }
        reply = serve(**texts)
        for name, value in expected.items():
            if value.dtype == tf.string:
                assert reply[name].numpy().tolist() == value.numpy().tolist()
            else:
                assert np.allclose(reply[name], value, atol=1e-5)

    def test_restored_equals_saved(self, task, tmp_path, tiny_encoder):
        """The whole story on the command line: train, then evaluate what was saved."""
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in self.rows * 4))
        keys = {"task.name": self.name, "encoder.init_from": tiny_encoder, "data.train": rows, "data.validation": rows}
        keys |= {"data.text_columns": f"[{', '.join(self.text_columns)}]", "data.label_column": self.label_column}
        keys |= {"train.steps": 4, "train.batch_size": 4, "data.max_seq_length": LENGTH}
        keys |= {f"task.{key}": json.dumps(value) for key, value in self.config.items()}
        assert run_cli("train", f"--workdir={tmp_path}/run", *[f"--set={k}={v}" for k, v in keys.items()]) == 0
        assert run_cli("evaluate", f"--workdir={tmp_path}/run") == 0
        best = json.loads((tmp_path / "run/checkpoints/best.json").read_text())
        scores = json.loads((tmp_path / "run/evaluation/validation.json").read_text())
        assert scores[task.best_score] == best["score"] and scores["step"] == best["step"]
        saved = experiment.load_workdir(str(tmp_path / "run"))
        assert dataclasses.asdict(learning.learned(saved).task) == dataclasses.asdict(saved.task)
