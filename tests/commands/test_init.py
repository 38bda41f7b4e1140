import json

import pytest

from trainer.commands.init import choose
from trainer.data.table import read_table
from trainer.errors import UserError
from trainer.run import experiment


def test_the_written_config_loads_and_fits_the_file(cli, tmp_path):
    rows = [("Das Gerät ist kaputt, schade!", "schlecht"), ("很好用，推荐", "gut"), ("Alles bestens", "gut")] * 10
    (tmp_path / "my.csv").write_text("id,review,rating\n" + "".join(f'{i},"{t}",{c}\n' for i, (t, c) in enumerate(rows)))
    status, out, _ = cli("init", f"--from={tmp_path}/my.csv", f"--output={tmp_path}/bert.yaml")
    assert status == 0 and f"bert-trainer train --config={tmp_path}/bert.yaml --workdir=run1" in out
    assert "gut: 20 (66.7%)" in out and "30 rows" in out
    loaded = experiment.load(f"{tmp_path}/bert.yaml")
    assert loaded.task.text_columns == ("review",) and loaded.task.label_column == "rating"
    assert loaded.task.class_names == ("gut", "schlecht") and loaded.data.max_seq_length == 32
    status, _, error = cli("init", f"--from={tmp_path}/my.csv", f"--output={tmp_path}/bert.yaml")
    assert status == 1 and "is already there; remove it or choose another name" in error


def test_one_file_gets_a_share_for_validation(cli, tmp_path):
    (tmp_path / "my.csv").write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40)))
    assert cli("init", f"--from={tmp_path}/my.csv", f"--output={tmp_path}/bert.yaml")[0] == 0
    loaded = experiment.load(f"{tmp_path}/bert.yaml")
    assert loaded.data.validation == "10%" and "validation: 10%" in (tmp_path / "bert.yaml").read_text()
    assert loaded.train.precision == "auto"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_encodings_with_a_mark_are_read(cli, tmp_path, encoding):
    rows = "".join(f"Grüße {i},{'ab'[i % 2]}\n" for i in range(40))
    (tmp_path / "my.csv").write_bytes(("text,label\n" + rows).encode(encoding))
    assert cli("init", f"--from={tmp_path}/my.csv", f"--output={tmp_path}/bert.yaml")[0] == 0
    assert "\0" not in (tmp_path / "bert.yaml").read_text()
    assert experiment.load(f"{tmp_path}/bert.yaml").task.text_columns == ("text",)


def test_odd_rows_decide_nothing(cli, tmp_path):
    """A missing text, a row without its label, a class with a control character, a folder for the config."""
    rows = [{"text": None, "label": "x"}, {"text": "no label"}]
    rows += [{"text": f"text {i}", "label": ("it\x92s", "b")[i % 2]} for i in range(40)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    assert cli("init", f"--from={tmp_path}/x.jsonl", f"--output={tmp_path}/")[0] == 0
    loaded = experiment.load(f"{tmp_path}/bert.yaml")
    assert loaded.task.text_columns == ("text",) and set(loaded.task.class_names) == {"it\x92s", "b", "x"}


def test_rows_without_a_label_are_counted_and_allowed_for(cli, tmp_path):
    rows = "".join(f"text {i},{'' if i < 4 else 'ab'[i % 2]}\n" for i in range(80))
    (tmp_path / "my.csv").write_text("text,label\n" + rows)
    status, out, _ = cli("init", f"--from={tmp_path}/my.csv", f"--output={tmp_path}/bert.yaml")
    assert status == 0 and "    no label: 4 rows, which are left out" in out
    assert experiment.load(f"{tmp_path}/bert.yaml").data.max_rejected_fraction == 0.1


def test_a_file_in_another_encoding(cli, tmp_path):
    rows = "".join(f"text {i},{('Qualität', 'b')[i % 2]}\n" for i in range(40))
    (tmp_path / "my.csv").write_bytes(("text,label\n" + rows).encode("cp1252"))
    status, _, error = cli("init", f"--from={tmp_path}/my.csv", f"--output={tmp_path}/bert.yaml")
    assert status == 1 and "20 of the first 40 rows" in error and "name its encoding, as --encoding=cp1252" in error
    assert cli("init", f"--from={tmp_path}/my.csv", f"--output={tmp_path}/bert.yaml", "--encoding=cp1252")[0] == 0
    loaded = experiment.load(f"{tmp_path}/bert.yaml")
    assert loaded.data.encoding == "cp1252" and loaded.task.class_names == ("Qualität", "b")


@pytest.mark.parametrize(
    ("rows", "task", "others"),
    [
        ([{"text": f"text {i}", "label": i % 2} for i in range(20)], "classification", []),
        ([{"text": f"text {i}", "score": i / 7} for i in range(20)], "regression", []),
        ([{"text": f"text {i}", "label": i % 2, "seconds": i / 7} for i in range(20)], "classification", ["regression"]),
        ([{"text": f"text {i}"} for i in range(20)], "pretraining", []),
    ],
)  # fmt: skip
def test_each_task_is_asked(cli, tmp_path, rows, task, others):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, _ = cli("init", f"--from={tmp_path}/x.jsonl", f"--output={tmp_path}/c.yaml")
    assert status == 0 and f"  task: {task}\n" in out
    assert ("also readable as" in out) == bool(others) and all(f"--task={name}" in out for name in others)
    assert experiment.load(f"{tmp_path}/c.yaml").task.name == task
    for name in others:
        assert cli("init", f"--from={tmp_path}/x.jsonl", f"--output={tmp_path}/{name}.yaml", f"--task={name}")[0] == 0
        assert experiment.load(f"{tmp_path}/{name}.yaml").task.name == name


def test_a_tie_is_told(tmp_path, monkeypatch):
    from trainer.tasks import classification, regression

    (tmp_path / "x.csv").write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40)))
    monkeypatch.setattr(regression.Task, "recognize", classification.Task.recognize)
    with pytest.raises(UserError, match="can be rows of classification or regression; say which: --task=classification or"):
        choose(read_table(f"{tmp_path}/x.csv"))
    with pytest.raises(UserError, match="task.name: 'classificaton' is not one of"):
        choose(read_table(f"{tmp_path}/x.csv"), "classificaton")


def test_words_and_tags_of_any_ending_and_column(cli, tmp_path):
    (tmp_path / "x.txt").write_text("Ann B-PER\nran O\n\n" * 20)
    assert cli("init", f"--from={tmp_path}/x.txt", f"--output={tmp_path}/a.yaml", "--format=conll")[0] == 0
    loaded = experiment.load(f"{tmp_path}/a.yaml")
    assert (loaded.task.name, loaded.data.format) == ("tagging", "conll")
    (tmp_path / "x.jsonl").write_text('{"id": 1, "words": ["Ann", "ran"], "pos_tags": ["B-PER", "O"]}\n' * 20)
    assert cli("init", f"--from={tmp_path}/x.jsonl", f"--output={tmp_path}/b.yaml")[0] == 0
    loaded = experiment.load(f"{tmp_path}/b.yaml")
    assert (loaded.task.tokens_column, loaded.task.tags_column) == ("words", "pos_tags")
    (tmp_path / "y.jsonl").write_text('{"tokens": ["Ann", "ran"], "ner_tags": [1, 0]}\n' * 20)
    status, _, error = cli("init", f"--from={tmp_path}/y.jsonl", f"--output={tmp_path}/c.yaml", "--task=tagging")
    assert status == 1 and "column 'ner_tags' holds numbers; task.numbered_tags says what they stand for" in error


def test_semicolons_of_spreadsheets_are_seen(cli, tmp_path):
    (tmp_path / "x.csv").write_text("text;label\n" + "gut, sehr gut;ja\nschlecht;nein\n" * 10)
    assert cli("init", f"--from={tmp_path}/x.csv", f"--output={tmp_path}/c.yaml")[0] == 0
    loaded = experiment.load(f"{tmp_path}/c.yaml")
    assert loaded.data.delimiter == ";" and loaded.task.class_names == ("ja", "nein") and loaded.train.batch_size == 8


def test_unequal_classes_get_weights(cli, tmp_path):
    (tmp_path / "x.tsv").write_text("label\ttext\n" + "ham\thello\n" * 50 + "spam\twin\n" * 5)
    status, _, _ = cli("init", f"--from={tmp_path}/x.tsv", f"--output={tmp_path}/c.yaml", "--encoder=some/encoder")
    text = (tmp_path / "c.yaml").read_text()
    assert status == 0 and "balance: class_weights  # the largest class has 10× the rows of the smallest" in text
    assert experiment.load(f"{tmp_path}/c.yaml").encoder.init_from == "some/encoder"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n", "has no rows that can be read"),
        ("text,label\nx\n", "has no rows that can be read: 1 columns where 2 belong (['text', 'label']) (line 2)"),
        (
            "a,b\n" + "".join(f"x{i},y{i}\n" for i in range(40)),
            "no column looks like a label (2 to 8 different values in 40 rows)",
        ),
        ("label\n" + "a\nb\n" * 20, "no column of text besides the label"),
    ],
)
def test_files_without_text_or_label_are_told(cli, tmp_path, content, message):
    (tmp_path / "x.csv").write_text(content)
    status, _, error = cli("init", f"--from={tmp_path}/x.csv", f"--output={tmp_path}/c.yaml")
    assert status == 1 and message in error and not (tmp_path / "c.yaml").exists()
