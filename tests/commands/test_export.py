import json
import shutil

import pytest

from tests.serving.conftest import exported, exported_run  # noqa: F401  fixtures


def test_export_says_where_everything_is(cli, run_copy):
    status, out, log = cli("export", f"--workdir={run_copy}")
    assert status == 0
    assert out == f"SavedModel: {run_copy}/exports/1\nHugging Face files: {run_copy}/huggingface\n"
    assert "every output of serving_default, examples, tokens equals the predictions of 32 rows" in log


def test_rows_that_are_gone_do_not_stop_an_export(cli, run_copy, monkeypatch):
    config = run_copy / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("train.csv", "gone.csv").replace("validation.csv", "gone.csv"))
    status, _, log = cli("export", f"--workdir={run_copy}")
    assert status == 0 and "compared without the rows of data.train: data.train: no file" in log
    assert "equals the predictions of 6 rows" in log


@pytest.mark.slow
def test_a_class_name_with_a_line_break_is_one_line(cli, run_copy):
    names = json.dumps(["bad\nnews", "good"])
    assert cli("export", f"--workdir={run_copy}", f"--set=task.class_names={names}")[0] == 0
    assert (run_copy / "exports/1/assets/labels.txt").read_text().splitlines() == ["bad\\nnews", "good"]
    assert json.loads((run_copy / "huggingface/config.json").read_text())["id2label"]["0"] == "bad\nnews"


@pytest.mark.slow
def test_a_tokenizer_that_no_graph_reproduces_is_told_before_training(cli, config_file, tmp_path, tiny_encoder):
    from transformers import AddedToken, BertTokenizerFast

    encoder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, encoder)
    tokenizer = BertTokenizerFast.from_pretrained(str(encoder))
    tokenizer.add_tokens([AddedToken("film", normalized=True)])  # known already; as an added one it is found inside of words
    tokenizer.save_pretrained(str(encoder))
    run = f"--workdir={tmp_path}/run"
    status, _, log = cli("train", f"--config={config_file}", run, f"--set=encoder.init_from={encoder}", "--set=train.steps=2")
    assert status == 0 and log.index("an export of this run will take token ids, not strings") < log.index("step 2/2")
    status, out, log = cli("export", run)
    assert status == 0 and "the SavedModel takes token ids, not strings" in log
    assert "every output of serving_default, tokens equals" in log
    assert f"Hugging Face files: {tmp_path}/run/huggingface" in out
