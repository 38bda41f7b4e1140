import json

import pytest

from trainer.commands.init import look_at
from trainer.run import experiment


def test_the_written_config_loads_and_fits_the_file(cli, tmp_path):
    rows = [("Das Gerät ist kaputt, schade!", "schlecht"), ("很好用，推荐", "gut"), ("Alles bestens", "gut")] * 10
    (tmp_path / "my.csv").write_text("id,review,rating\n" + "".join(f'{i},"{t}",{c}\n' for i, (t, c) in enumerate(rows)))
    status, out, _ = cli("init", f"--from={tmp_path}/my.csv", f"--output={tmp_path}/bert.yaml")
    assert status == 0 and f"bert-trainer train --config={tmp_path}/bert.yaml --workdir=run1" in out
    assert "gut: 20 (66.7%)" in out and "30 rows" in out
    loaded = experiment.load(f"{tmp_path}/bert.yaml")
    assert loaded.data.text_columns == ("review",) and loaded.data.label_column == "rating"
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
    assert experiment.load(f"{tmp_path}/bert.yaml").data.text_columns == ("text",)


def test_an_index_column_is_neither_text_nor_label(tmp_path):
    (tmp_path / "x.csv").write_text(",text,label\n" + "".join(f"{i},some text {i},{'ab'[i % 2]}\n" for i in range(40)))
    found = look_at(f"{tmp_path}/x.csv")
    assert (found.text_columns, found.label_column) == (("text",), "label")


def test_odd_rows_decide_nothing(cli, tmp_path):
    """A missing text, a row without its label, a class with a control character, a folder for the config."""
    rows = [{"text": None, "label": "x"}, {"text": "no label"}]
    rows += [{"text": f"text {i}", "label": ("it\x92s", "b")[i % 2]} for i in range(40)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    assert cli("init", f"--from={tmp_path}/x.jsonl", f"--output={tmp_path}/")[0] == 0
    loaded = experiment.load(f"{tmp_path}/bert.yaml")
    assert loaded.data.text_columns == ("text",) and set(loaded.task.class_names) == {"it\x92s", "b", "x"}


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


def finding(tmp_path, rows):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return look_at(f"{tmp_path}/x.jsonl")


def test_columns_are_guessed(tmp_path):
    pairs = [{"sentence1": f"some text {i}", "sentence2": "other", "label": i % 2} for i in range(20)]
    assert finding(tmp_path, pairs).text_columns == ("sentence1", "sentence2")
    inference = [{"premise": f"p {i}", "hypothesis": f"h {i}", "gold": "ab"[i % 2]} for i in range(20)]
    found = finding(tmp_path, inference)
    assert found.text_columns == ("premise", "hypothesis") and found.label_column == "gold"
    longest = [{"a": "x", "story": f"a long story {i}", "intent": "ab"[i % 2]} for i in range(20)]
    assert finding(tmp_path, longest).text_columns == ("story",)


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
