"""What a run saved of itself is what later commands use, or they say that it is not."""

import pytest

from trainer.errors import UserError
from trainer.run import seals


def test_a_file_that_changed_or_is_gone_is_told(tmp_path, caplog):
    workdir = str(tmp_path)
    seals.check(workdir)
    for name in ("config.yaml", "other"):
        (tmp_path / name).write_text("as it was")
    seals.seal(workdir, ["config.yaml"])
    seals.seal(workdir, ["other"])
    seals.check(workdir)
    assert not caplog.records
    (tmp_path / "config.yaml").write_text("as it is")
    seals.check(workdir)
    assert caplog.messages == [f"{tmp_path}/config.yaml is not what the run saved (edited by hand, or damaged)"]
    (tmp_path / "other").write_text("as it is")
    with pytest.raises(UserError, match="--workdir: .*/other is not what the run saved: it is damaged; restore it from a copy"):
        seals.check(workdir)
    (tmp_path / "other").unlink()
    with pytest.raises(UserError, match="--workdir: .*/other is missing: it is damaged"):
        seals.check(workdir)
