"""Files: the same behaviour on local paths and on ram://, which stands for every remote file system."""

import errno
import hashlib
import os

import pytest

from trainer import files
from trainer.errors import UserError


@pytest.fixture(params=["local", "ram"])
def folder(request, tmp_path):
    if request.param == "local":
        return str(tmp_path)
    path = f"ram://files_test/{tmp_path.name}"
    files.make_dirs(path)
    return path


def test_write_read_rename_remove(folder):
    path = files.join(folder, "a/b.txt")
    files.write_text(path, "ü\n")
    assert files.read_text(path) == "ü\n" and files.size(path) == 3
    assert files.list_dir(files.join(folder, "a")) == ["b.txt"], "no partial file stays"
    files.copy(path, files.join(folder, "c.txt"))
    files.rename(files.join(folder, "c.txt"), files.join(folder, "a/d.txt"))
    assert files.list_dir(files.join(folder, "a")) == ["b.txt", "d.txt"]
    assert files.sha256(path) == hashlib.sha256("ü\n".encode()).hexdigest()
    files.remove_tree(files.join(folder, "a"))
    assert not files.exists(files.join(folder, "a")) and files.list_dir(files.join(folder, "a")) == []


def test_text_lines_keep_their_ends_and_lose_the_byte_order_mark(folder):
    path = files.join(folder, "t.csv")
    with files.open_binary(path, "wb") as file:
        file.write(b"\xef\xbb\xbfa\r\nb\nc")
    with files.open_text(path) as file:
        assert list(file) == ["a\r\n", "b\n", "c"]


def test_json_round_trip(folder):
    files.write_json(files.join(folder, "x.json"), {"ü": [1]})
    assert files.read_json(files.join(folder, "x.json")) == {"ü": [1]}


def test_expand_takes_paths_and_globs_in_order(folder):
    for name in ("b.csv", "a.csv", "c.txt"):
        files.write_text(files.join(folder, name), "x")
    assert [path[-5:] for path in files.expand(files.join(folder, "*.csv"), "data.train")] == ["a.csv", "b.csv"]
    assert files.expand(files.join(folder, "c.txt"), "data.train") == [files.join(folder, "c.txt")]


def test_expand_says_what_is_there_instead(folder):
    files.write_text(files.join(folder, "train.csv"), "x")
    with pytest.raises(UserError) as caught:
        files.expand(files.join(folder, "trian.csv"), "data.train")
    assert str(caught.value) == f"data.train: no file {folder}/trian.csv; in {folder} there are: train.csv"
    with pytest.raises(UserError, match="is a folder; name its files"):
        files.expand(folder, "data.train")
    with pytest.raises(UserError, match="is empty or not there"):
        files.expand(files.join(folder, "none/x.csv"), "data.train")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("x; No space left on device")])
def test_full_disk_is_explained(tmp_path, error):
    with pytest.raises(UserError, match=r"the disk is full: writing .*/deep/x failed with .* MB free"):
        with files.explain_full_disk(f"{tmp_path}/deep/x"):
            raise error


def test_other_errors_pass_through_the_full_disk_guard(tmp_path):
    with pytest.raises(OSError, match="other"), files.explain_full_disk(str(tmp_path)):
        raise OSError(errno.EACCES, "other")
    with pytest.raises(ValueError, match="other"), files.explain_full_disk(str(tmp_path)):
        raise ValueError("other")


def test_really_full_device_is_explained():
    with pytest.raises(UserError, match="the disk is full"), files.explain_full_disk("/dev/full"):
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x" * 4096)


def test_when_a_file_was_changed(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a")
    os.utime(path, (5, 1700000000.5))
    assert files.modified(str(path)) == "1700000000.5"
    files.write_text("ram://modified/x.txt", "a")
    assert float(files.modified("ram://modified/x.txt")) >= 0
