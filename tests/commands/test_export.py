from tests.serving.conftest import exported, exported_run  # noqa: F401  fixtures


def test_export_says_where_everything_is(cli, run_copy):
    status, out, log = cli("export", f"--workdir={run_copy}")
    assert status == 0
    assert out == f"SavedModel: {run_copy}/exports/1\nHugging Face files: {run_copy}/huggingface\n"
    assert "reloaded in a clean process: equal to the model on 32 texts, as strings and as tf.Examples" in log


def test_rows_that_are_gone_do_not_stop_an_export(cli, run_copy, monkeypatch):
    config = run_copy / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("train.csv", "gone.csv").replace("validation.csv", "gone.csv"))
    status, _, log = cli("export", f"--workdir={run_copy}")
    assert status == 0 and "compared without the rows of data.train: data.train: no file" in log
    assert "equal to the model on 6 texts" in log
