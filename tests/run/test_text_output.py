import os

import pytest

from trainer.errors import UserError
from trainer.run.text_output import TextOutput


def test_a_file_is_whole_or_not_there(tmp_path, capsys):
    with TextOutput(f"{tmp_path}/new/x.jsonl") as output:
        output.write("ä\n")
        assert not (tmp_path / "new/x.jsonl").exists()
    assert (tmp_path / "new/x.jsonl").read_text(encoding="utf8") == "ä\n"
    with pytest.raises(KeyboardInterrupt), TextOutput(f"{tmp_path}/new/x.jsonl") as output:
        output.write("lost")
        raise KeyboardInterrupt
    assert (tmp_path / "new/x.jsonl").read_text(encoding="utf8") == "ä\n" and os.listdir(tmp_path / "new") == ["x.jsonl"]
    with TextOutput("-") as output:
        output.write("shown\n")
    assert capsys.readouterr().out == "shown\n"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/x cannot be written: .*; choose another place with --output"):
        TextOutput(f"{tmp_path}/file/x").__enter__()
