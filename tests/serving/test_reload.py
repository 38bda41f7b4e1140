import json
import os
import subprocess
import sys
from pathlib import Path

from trainer.serving import reload


def test_it_imports_nothing_of_this_project():
    assert "trainer" not in Path(reload.__file__).read_text().replace('"trainer"', "")


def test_bytes_and_numbers_travel(tmp_path, exported):
    values = {"input_ids": [[101, 102]], "attention_mask": [[1, 1]], "token_type_ids": [[0, 0]]}
    requests = {"tokens": {name: {"dtype": "int32", "values": rows} for name, rows in values.items()}}
    (tmp_path / "in.json").write_text(json.dumps(requests))
    command = [sys.executable, "-I", reload.__file__, str(exported), str(tmp_path / "in.json"), str(tmp_path / "out.json")]
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    reply = json.loads((tmp_path / "out.json").read_text())["tokens"]
    assert reply["label"][0] in ("negative", "positive") and len(reply["probabilities"][0]) == 2
