"""What every task must hold. A task's test inherits `TaskContract`, gives rows and a config, and is held to all of it."""

import collections
import dataclasses
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import trainer
from tests.conftest import assert_close, run_cli, tiny_config
from trainer.data.pipeline import Packing, StreamPosition, packed_batches, serialized_examples
from trainer.data.records import encode_example
from trainer.data.sources import Row
from trainer.errors import UserError
from trainer.features import ROW_ID, check_example, in_sequence, token_counts
from trainer.models.encoder import BertEncoder
from trainer.models.kernels.inference import ExportKernels
from trainer.models.kernels.native import NativeKernels
from trainer.models.kernels.native_inference import NativeExportKernels
from trainer.models.optimizers import AdamW
from trainer.preparation import learning
from trainer.run import experiment
from trainer.run.inference import BatchRunner
from trainer.run.training import score_named
from trainer.runtime import distribution
from trainer.serving.export import difference, reload_and_call
from trainer.serving.native_inputs import NativeInputs
from trainer.serving.signatures import ServingModule
from trainer.serving.text_inputs import GraphInputs
from trainer.tasks import task_module

LENGTH, SLOTS = 32, 4
ODD_VALUES = (None, 7, [], {}, "", " \n", "\ud83d", "\u200b", "a word " * 1500)  # in every column of a row
SLOW_UNLESS_TYPICAL = (
    "test_native_kernels_give_the_same",
    "test_two_seeded_runs_are_identical_with_dropout",
    "test_one_replica_equals_two",
    "test_native_serving_equals_keras",
)
SLOW_UNLESS_VARIANT = ("test_the_graph_for_strings_equals_keras",)  # the whole story asks the saved graph
WHOLE_STORY = "test_the_whole_story_on_the_command_line"
SLOW_IN_VARIANTS = (
    "test_native_kernels_give_the_same",
    "test_native_serving_equals_keras",
    "test_overfits_its_rows",
    WHOLE_STORY,
)


def step_of(model, batch):
    """Returns the training step for batches of any number of rows, as they are where XLA does not compile the whole step."""
    specs = {name: tf.TensorSpec([None, None], value.dtype) for name, value in batch.items()}
    return tf.function(model.train_step, input_signature=[specs])


class TaskContract:
    """Inherit, and set what is below.

    Attributes:
      name: the task's module.
      config: keyword arguments of its Config; dropout of its head off.
      rows: at least four rows, each of one example.
      long_row: of a task with windows, a row of several.
      windows_a_row: of a task whose rows give several examples each, how many.
      is_variant: of another class of the same task; what does not depend on a config is slow then, see `SLOW_IN_VARIANTS`; of
        the others what the whole story shows, too, see `SLOW_UNLESS_VARIANT`.
      is_typical: of its kind of task; what depends on the kind only is slow elsewhere, see `SLOW_UNLESS_TYPICAL`.
      slow: names of its checks that take long and are fast in another task.
    """

    name: str
    config: dict
    rows: list[dict]
    long_row: dict | None = None
    windows_a_row = 1
    is_variant = is_typical = False
    slow: tuple[str, ...] = ()

    @pytest.fixture
    def task(self, tokenizer):
        return self.task_with(tokenizer)

    def task_with(self, tokenizer):
        module = task_module(self.name)
        return module.Task(module.Config(name=self.name, **self.config), tokenizer, LENGTH)

    @property
    def all_rows(self):
        """The rows, the long one in their midst."""
        values = self.rows if self.long_row is None else [self.rows[0], self.long_row, *self.rows[1:]]
        return [Row(dict(value), "rows", number + 1) for number, value in enumerate(values)]

    def examples(self, task, labelled=True):
        rows = self.all_rows
        if not labelled:
            return [{**e, "row_id": number} for number, row in enumerate(rows) for e in task.examples(row, labelled=False)]
        found = task.chunk_examples(rows, "rows/0", collections.Counter())
        return [{**example, "row_id": number} for number, example in found]

    def records(self, task, labelled=True):
        return [encode_example(example, task.features()) for example in self.examples(task, labelled)]

    def batches(self, task, slots=SLOTS, size=100, length=LENGTH, labelled=True):
        records = self.records(task, labelled)
        work = task.batch_work() if labelled else None
        packing = Packing(length, slots)
        return list(packed_batches(serialized_examples(lambda: records), task.features(), size, packing, work=work))

    def build(self, task, dropout=0.0, seed=3, kernels=None):
        keras.utils.set_random_seed(seed)
        config = tiny_config(num_hidden_layers=1, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        model = task.build_model(BertEncoder(config, kernels=kernels))
        model.prepare_training(task, seed=1)
        return model

    def windows(self, task, model, labelled=True, strategy=None, **layout):
        """Returns [(row, its windows)], rows in evaluation as the records keep them."""
        runner = BatchRunner(model, strategy or tf.distribute.get_strategy(), task, labelled)
        found = runner.run(self.batches(task, labelled=labelled, **layout))
        rows = self.all_rows
        kept = [row._replace(values=task.kept(row) or {}) for row in rows] if labelled else rows
        return [(kept[row_id], windows) for row_id, windows in found]

    def predictions(self, task, model, **layout):
        return [task.decode(row, windows) for row, windows in self.windows(task, model, labelled=False, **layout)]

    def requests(self, task):
        """Returns the rows as requests hold them."""
        return [Row(dict(zip(task.input_columns, task.request_of(row), strict=True)), *row[1:]) for row in self.all_rows]

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
            for name, feature in task.features().items():
                stored = batch[name].numpy()[row]
                expected = example[name] if feature.per == "token" else [example[name]]
                assert stored[: len(expected)].tolist() == pytest.approx(list(expected))
            for sequence, length in token_counts(example, task.features()).items():
                assert batch[in_sequence(sequence, "segment_ids")].numpy()[row].sum() == length

    def test_results_have_one_slot_an_example_or_a_token(self, task):
        batch, model = self.batches(task)[0], self.build(task)
        rows, slots, length = *batch["row_id"].shape, batch["segment_ids"].shape[1]
        for name, value in task.results(batch, model.outputs_for(batch), labelled=True).items():
            assert value.dtype == tf.float32 and value.shape[:2] == (rows, length if name in task.token_outputs else slots)

    def test_packed_equals_unpacked_and_padding_changes_nothing(self, task):
        model = self.build(task)
        expected = self.windows(task, model, slots=1)
        for layout in ({"slots": SLOTS}, {"slots": 1, "length": 2 * LENGTH}, {"slots": SLOTS, "size": 3}):
            self.check_windows(self.windows(task, model, **layout), expected)

    def check_windows(self, found, expected):
        assert [row for row, _ in found] == [row for row, _ in expected]
        for (_, ours), (_, theirs) in zip(found, expected, strict=True):
            for window, other in zip(ours, theirs, strict=True):
                assert window.features == other.features and window.outputs.keys() == other.outputs.keys()
                assert all(np.allclose(window.outputs[name], value, atol=1e-5) for name, value in other.outputs.items())

    def test_native_kernels_give_the_same(self, task, native):
        self.check_windows(self.windows(task, self.build(task, kernels=NativeKernels())), self.windows(task, self.build(task)))

    def test_two_passes_diverge_or_r_drop_is_refused(self, task):
        batch, model = self.batches(task)[0], self.build(task)
        outputs = model(model._inputs_of(batch), training=False)
        other = {name: value + tf.random.stateless_normal(tf.shape(value), [1, 2]) for name, value in outputs.items()}
        try:
            parts = task.divergence(batch, outputs, other)
        except UserError as error:
            assert "train.r_drop_alpha" in str(error)
            return
        weights, losses = task.loss_weights(batch), task.loss(batch, outputs)[0]
        for part, values in parts.items():
            assert values.shape == losses[part].shape
            assert float(tf.reduce_sum(values * weights[part])) > 1e-3
            assert np.allclose(task.divergence(batch, other, outputs)[part], values, rtol=1e-4, atol=1e-5)
            assert np.allclose(task.divergence(batch, outputs, outputs)[part], 0.0, atol=1e-6)

    def test_overfits_its_rows(self, task):
        model = self.build(task)
        model.compile(optimizer=AdamW(1e-2, weight_decay=0.0))
        batch = self.batches(task)[0]
        step = step_of(model, batch)
        first = float(step(batch)["loss"])
        assert any(float(step(batch)["loss"]) < 0.1 * first for _ in range(100))

    def test_two_seeded_runs_are_identical_with_dropout(self, task):
        def train(seed):
            model = self.build(task, dropout=0.1)
            model.prepare_training(task, seed=seed)
            model.compile(optimizer=AdamW(1e-3))
            step = step_of(model, self.batches(task)[0])
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
            stored, packing = serialized_examples(lambda: part), Packing(LENGTH, SLOTS, static_rows=32)
            work, position = task.batch_work(), StreamPosition(first)  # of steps of one example each
            return next(iter(packed_batches(stored, task.features(), 100, packing, work=work, position=position)))

        results[1].set_weights(results[0].get_weights())  # a strategy may draw initial values in another order
        alone, (first, second) = batch_of(records), (batch_of(records[:half]), batch_of(records[half:], first=half))
        tf.function(results[0].train_step)(alone)
        values = strategy.experimental_distribute_values_from_function(lambda c: (first, second)[c.replica_id_in_sync_group])
        tf.function(lambda v: strategy.run(results[1].train_step, (v,)))(values)
        gaps = [np.abs(a - b).max() for a, b in zip(*[model.get_weights() for model in results], strict=True)]
        assert max(gaps) < 1e-5, max(gaps)
        results[1].set_weights(results[0].get_weights())
        found, expected = self.windows(task, results[1], strategy=strategy, size=2), self.windows(task, results[0], slots=1)
        self.check_windows(found, expected)

    def test_one_json_prediction_a_row_in_order(self, task):
        model = self.build(task)
        predictions = self.predictions(task, model, size=3)
        assert len(predictions) == len(self.all_rows)
        assert json.loads(json.dumps(predictions)) == predictions
        row, windows = self.windows(task, model, labelled=False)[2]
        assert_close(task.decode(row, windows), predictions[2])

    def test_a_long_row_has_windows_in_order(self, task):
        if self.long_row is None:
            assert not task.has_windows or self.windows_a_row > 1, "give a long_row"
            return
        found = dict(enumerate(windows for _, windows in self.windows(task, self.build(task), labelled=False, size=2)))
        assert task.has_windows and len(found[1]) > 2 and {len(found[n]) for n in found if n != 1} == {1}
        lengths = [len(example["input_ids"]) for example in task.examples(self.all_rows[1], labelled=False)]
        of_tokens = [name for name in found[1][0].outputs if name in task.token_outputs]
        for name in of_tokens:
            assert [len(window.outputs[name]) for window in found[1]] == lengths

    def test_score_is_json_and_has_the_best_score(self, task):
        scores = task.score(iter(self.windows(task, self.build(task))))
        json.dumps(scores)
        assert isinstance(score_named(scores, task.best_score), float)

    def serving_module(self, task, kernels, inputs):
        """Returns (the module of an export, an equal Keras model)."""
        return ServingModule(self.build(task, kernels=kernels), kernels, task, inputs), self.build(task)

    def test_the_graph_for_strings_equals_keras(self, task):
        """Saved and loaded it is in the whole story."""
        module, model = self.serving_module(task, ExportKernels(), GraphInputs)
        self.check_reply(module.signatures()["serving_default"], task, model)

    def test_native_serving_equals_keras(self, task, native_inference):
        module, model = self.serving_module(task, NativeExportKernels(), NativeInputs)
        self.check_reply(module.signatures()["serving_default"], task, model)

    def check_reply(self, serve, task, model):
        rows = self.requests(task)
        examples = [{**e, "row_id": number} for number, row in enumerate(rows) for e in task.request_examples(row)]
        encoded = [encode_example(example, task.features()) for example in examples]
        batches = packed_batches(serialized_examples(lambda: encoded), task.features(), 100, Packing(LENGTH, SLOTS))
        runner = BatchRunner(model, tf.distribute.get_strategy(), task, labelled=False)
        replies = [task.as_reply(task.decode(rows[row_id], windows)) for row_id, windows in runner.run(batches)]
        expected = {name: [reply[name] for reply in replies] for name in replies[0]}
        texts = {name: tf.constant(entry["values"]) for name, entry in self.request(task)["serving_default"].items()}
        found = {name: plain_values(value.numpy()) for name, value in serve(**texts).items()}
        problem = difference(found, expected, 1e-5, task.is_tie)
        assert problem is None, problem
        none = serve(**{name: tf.zeros([0], tf.string) for name in texts})
        assert {len(value) for value in none.values()} == {0}, "a request without rows"

    def test_the_whole_story_on_the_command_line(self, task, tmp_path, tiny_encoder):
        """Train, evaluate what was saved, predict rows of all kinds by command and by program, export, ask the export."""
        self.train_in(tmp_path, tiny_encoder)
        assert run_cli("evaluate", f"--workdir={tmp_path}/run") == 0
        best = json.loads((tmp_path / "run/checkpoints/best.json").read_text())
        scores = json.loads((tmp_path / "run/evaluation/validation.json").read_text())
        assert score_named(scores, task.best_score) == best["score"] and scores["step"] == best["step"]
        saved = experiment.load_workdir(str(tmp_path / "run"))
        assert dataclasses.asdict(learning.learned(saved).task) == dataclasses.asdict(saved.task)
        alone = [f"task.name={self.name}", f"encoder.init_from={tiny_encoder}", f"data.records_dir={tmp_path}/run/records"]
        stated = learning.learned(experiment.load(None, alone)).task
        for field in type(task).to_learn(type(saved.task)(name=self.name)):
            assert getattr(stated, field) == getattr(saved.task, field), "a run that has only records learns from them"
        # One line a row, in order, whatever the rows are
        odd = tmp_path / "odd.jsonl"
        between = ["{}", "no JSON", *(json.dumps(dict.fromkeys(self.rows[0], value)) for value in ODD_VALUES)]
        written = [line for row in self.all_rows for line in (json.dumps(row.values), between[row.line % len(between)])]
        written += between
        odd.write_text("".join(f"{line}\n" for line in written))
        assert run_cli("predict", f"--workdir={tmp_path}/run", f"--input={odd}", f"--output={tmp_path}/out.jsonl") == 0
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert len(lines) == len(written) and {"error" in line for line in lines} == {True, False}
        assert all(line["line"] == number for number, line in enumerate(lines, start=1) if "error" in line)
        run, count = trainer.load(str(tmp_path / "run")), 2 * len(self.all_rows)
        assert_close(run.predict([row.values for row in self.all_rows]), lines[:count:2])
        # The export says what the program says
        self.check_export(task, run, [row.values for row in self.requests(task)])

    @pytest.mark.slow
    def test_an_export_replies_to_1000_texts_what_the_command_writes(self, task, tmp_path, tiny_encoder, reviews):
        self.train_in(tmp_path, tiny_encoder)
        sentences = itertools.cycle([row["text"] for row in reviews])
        # A text of one line would be cut into sentences by the command, and is one sentence to an export.
        between, first = {"pretraining": (" [MASK] ", "[MASK] "), "extractive_summary": ("\n", "\n ")}.get(self.name, (" ", ""))
        texts = [
            [
                first + between.join(itertools.islice(sentences, 2 + (number + place) % 3))
                for place in range(len(task.request_names))
            ]
            for number in range(1000)
        ]
        rows = [dict(zip(task.input_columns, each, strict=True)) for each in texts]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        flags = (f"--workdir={tmp_path}/run", f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/out.jsonl")
        assert run_cli("predict", *flags) == 0
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert len(lines) == 1000
        assert_close(self.check_export(task, trainer.load(str(tmp_path / "run")), rows), lines)

    def check_export(self, task, run, rows):
        """Asserts that the run's export replies what the program predicts; returns that."""
        predictions = run.predict(rows)
        reply = reload_and_call(run.export(), self.request_of(task, rows))["serving_default"]
        replies = [task.as_reply(prediction) for prediction in predictions]
        problem = difference(reply, {name: [one[name] for one in replies] for name in replies[0]}, 1e-4, task.is_tie)
        assert problem is None, problem
        return predictions

    def train_in(self, folder, encoder):
        """Trains four steps on the rows, `folder`/rows.jsonl, in `folder`/run."""
        rows = folder / "rows.jsonl"
        rows.write_text("".join(json.dumps(row.values) + "\n" for row in self.all_rows * 4))
        keys = {"task.name": self.name, "encoder.init_from": encoder, "data.train": rows, "data.validation": rows}
        keys |= {"train.steps": 4, "train.batch_size": 4 * self.windows_a_row, "data.max_seq_length": LENGTH}
        keys |= {f"task.{key}": json.dumps(value) for key, value in self.config.items()}
        assert run_cli("train", f"--workdir={folder}/run", *[f"--set={k}={v}" for k, v in keys.items()]) == 0

    def request(self, task):
        return self.request_of(task, [row.values for row in self.requests(task)])

    def request_of(self, task, rows):
        columns = zip(task.request_names, zip(*[row.values() for row in rows], strict=True), strict=True)
        return {"serving_default": {name: {"dtype": "string", "values": list(texts)} for name, texts in columns}}


def plain_values(array):
    """Returns an array as nested lists, bytes as text."""
    return np.vectorize(bytes.decode, otypes=[str])(array).tolist() if array.dtype == object else array.tolist()
