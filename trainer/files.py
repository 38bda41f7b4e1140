"""Files, wherever they lie: local paths through Python, `gs://` and `ram://` through tf.io.gfile.

Local work does not import TensorFlow: `init`, `describe` and the preparation workers start at once.
"""

import codecs
import errno
import glob as local_glob
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from trainer.errors import UserError

SEAL = "sha256_of_the_rest"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how git-lfs's pointer files begin


def is_remote(path: str) -> bool:
    """Returns whether a path names a file system of TensorFlow's, as gs:// or ram://."""
    return "://" in str(path)


def _gfile():
    import tensorflow as tf

    return tf.io.gfile


def join(folder: str, *names: str) -> str:
    """Joins path parts with "/", as every file system here takes it."""
    return "/".join([str(folder).rstrip("/") or "/", *names])


def expand_home(path: str) -> str:
    """Returns a path with `~` or `~user` at its start replaced by the home folder, as a shell does it.

    A shell leaves `--workdir=~/run` as it is, because the word does not begin with `~`.
    """
    return os.path.expanduser(path) if path.startswith("~") else path


def absolute(path: str) -> str:
    """Returns a local path in full, so that it means the same in every folder; a path with a scheme (gs:, tfds:) as it is."""
    return path if is_remote(path) or path.startswith("tfds:") else os.path.abspath(path)


def matches(pattern: str) -> bool:
    """Returns whether a path or glob names at least one file or folder."""
    if exists(pattern):
        return True
    return bool(_glob(pattern))


def alternatives(pattern: str) -> dict[str, str]:
    """Returns {each of the names in braces: the pattern with it instead}; {} where there are no braces, or they are a file's.

    >>> alternatives("corpus/train.{de,en}.gz")
    {'de': 'corpus/train.de.gz', 'en': 'corpus/train.en.gz'}
    """
    found = re.search(r"\{([^{},/]+(?:,[^{},/]+)+)\}", pattern)
    if found is None or exists(pattern):
        return {}
    return {name: pattern[: found.start()] + name + pattern[found.end() :] for name in found[1].split(",")}


def _glob(pattern: str) -> list[str]:
    """Returns what a glob names; a bracket in the name of a folder that exists is no pattern."""
    if each := alternatives(pattern):
        return [path for one in each.values() for path in _glob(one)]
    if is_remote(pattern):
        return _gfile().glob(pattern)
    folder, rest = pattern, ""
    while folder and not os.path.isdir(folder):
        folder, _, name = folder.rpartition("/") if "/" in folder.rstrip("/") else ("", "", folder)
        rest = f"{name}/{rest}" if rest else name
    literal = f"{local_glob.escape(folder)}/" if folder else ("/" if pattern.startswith("/") else "")
    return local_glob.glob(literal + rest, recursive=True)


def exists(path: str) -> bool:
    """Returns whether the path names a file or folder."""
    return _gfile().exists(path) if is_remote(path) else os.path.exists(path)


def is_dir(path: str) -> bool:
    """Returns whether the path names a folder."""
    return _gfile().isdir(path) if is_remote(path) else os.path.isdir(path)


def make_dirs(path: str) -> None:
    """Creates a folder and its parents; an existing one is fine."""
    _gfile().makedirs(path) if is_remote(path) else os.makedirs(path, exist_ok=True)


def list_dir(path: str) -> list[str]:
    """Returns the sorted names in a folder, [] where there is none."""
    if not is_dir(path):
        return []
    names = _gfile().listdir(path) if is_remote(path) else os.listdir(path)
    return sorted(name.rstrip("/") for name in names)


def remove_tree(path: str) -> None:
    """Removes a file or folder with all it holds, if it is there."""
    if not exists(path):
        return
    if is_remote(path):
        _gfile().rmtree(path) if is_dir(path) else _gfile().remove(path)
    else:
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def rename(source: str, target: str) -> None:
    """Moves a file over its target: atomic on local disks, one object operation on gs://."""
    _gfile().rename(source, target, overwrite=True) if is_remote(target) else os.replace(source, target)


def copy(source: str, target: str) -> None:
    """Copies one file between any two file systems."""
    with open_binary(source) as reader, open_binary(target, "wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def size(path: str) -> int:
    """Returns a file's size in bytes."""
    return _gfile().stat(path).length if is_remote(path) else os.stat(path).st_size


def modified(path: str) -> str:
    """Returns when a file was last changed, as the file system tells it: "1700000000.5"."""
    if is_remote(path):
        return str(_gfile().stat(path).mtime_nsec / 1e9)
    return str(os.stat(path).st_mtime)


def open_binary(path: str, mode: str = "rb") -> IO[bytes]:
    """Opens a file for bytes."""
    return _gfile().GFile(path, mode) if is_remote(path) else open(path, mode)


def open_text(path: str, errors: str = "strict", encoding: str = "utf-8-sig") -> IO[str]:
    """Opens a text file for reading, line ends untouched; a byte-order mark is dropped."""
    return io.TextIOWrapper(buffered(open_binary(path)), encoding=encoding, errors=errors, newline="")


def buffered(file: Any) -> IO[bytes]:
    """Returns an open binary file with the methods that Python's text layer reads through; TensorFlow's GFile lacks them."""
    return cast(IO[bytes], _Buffered(file))


class _Buffered(io.BufferedIOBase):
    """Gives GFile, which is no io object, the few methods that TextIOWrapper reads through."""

    def __init__(self, file):
        self._file = file

    def readable(self):
        return True

    def read(self, size=-1):
        return self._file.read(size)

    read1 = read

    def close(self):
        self._file.close()
        super().close()


def read_text(path: str) -> str:
    """Returns a small text file's content: UTF-8, or UTF-16 by its byte-order mark.

    Raises:
      UserError: it is in another encoding, or only git-lfs's pointer.
    """
    with open_binary(path) as file:
        content = file.read()
    check_no_pointer(path, content)
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text (byte 0x{content[error.start]:02X}); save the file as UTF-8") from None


def write_text(path: str, text: str) -> None:
    """Writes a small UTF-8 file so that it is seen whole or not at all."""
    partial = f"{path}.partial"
    with explain_full_disk(path):
        make_dirs(os.path.dirname(path) or ".")
        with open_binary(partial, "wb") as file:
            file.write(text.encode("utf8", errors="backslashreplace"))
        rename(partial, path)


def read_json(path: str) -> Any:
    """Returns a JSON file's value.

    Raises:
      UserError: it does not parse, for example because it was cut short.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg}; the file is damaged or cut short") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: not usable JSON: {error}") from None


def read_json_object(path: str) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      UserError: it does not parse, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON {type(value).__name__} where an object belongs")
    return value


def check_no_pointer(path: str, head: bytes) -> None:
    """Raises UserError where a file, by its first bytes, is only git-lfs's note of where the real one is."""
    if head.startswith(LFS_POINTER):
        raise UserError(
            f"{path}: this is a git-lfs pointer, not the file itself; run `git lfs pull` in its repository, or download "
            "the file"
        )


def check_whole(path: str) -> None:
    """Raises UserError where a file is empty, or only git-lfs's pointer to it."""
    with open_binary(path) as file:
        head = file.read(len(LFS_POINTER))
    check_no_pointer(path, head)
    if not head:
        raise UserError(f"{path}: the file is empty; fetch it again")


def write_json(path: str, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: str, values: Iterable[Any]) -> None:
    """Writes a JSON value a line, whole or not at all."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def write_sealed(path: str, value: Mapping[str, Any]) -> None:
    """Writes a JSON object with a hash of its content."""
    write_json(path, {**value, SEAL: _seal_of(value)})


def read_sealed(path: str) -> dict[str, Any]:
    """Returns an object from `write_sealed`, without its hash; one that has none passes.

    Raises:
      UserError: it is not what was written.
    """
    value = read_json_object(path)
    seal = value.pop(SEAL, None)
    if seal is not None and seal != _seal_of(value):
        raise UserError(f"{path} is damaged: its content is not what was written")
    return value


def _seal_of(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256(path: str) -> str:
    """Returns a file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with open_binary(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def expand(pattern: str, key: str) -> list[str]:
    """Returns the sorted files that a path or glob names; of names in braces, {de,en}, one file each, in their order.

    Raises:
      UserError: no file; the message opens with the config key that named it and lists near names.
    """
    if exists(pattern) and not is_dir(pattern):
        return [pattern]
    if is_dir(pattern):
        raise UserError(f"{key}: {pattern} is a folder; name its files, as {join(pattern, '*.csv')}")
    if each := alternatives(pattern):
        paths = [expand(one, key) for one in each.values()]
        if several := next((names for names in paths if len(names) > 1), None):
            raise UserError(f"{key}: {pattern}: names in braces stand for one file each, and these are {len(several)}")
        return [path for (path,) in paths]
    found = _glob(pattern)
    if not found:
        folder = os.path.dirname(pattern) or "."
        there = ", ".join(list_dir(folder)[:8])
        beside = f"; in {folder} there are: {there}" if there else f"; the folder {folder} is empty or not there"
        raise UserError(f"{key}: no file {pattern}{beside}")
    return sorted(found)


@contextmanager
def explain_full_disk(path: str) -> Iterator[None]:
    """Turns a full disk (ENOSPC, or TensorFlow's word for it) into an error that says where and how much is free."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(_full_disk_message(path)) from error
    except Exception as error:
        if "No space left on device" not in str(error):
            raise
        raise UserError(_full_disk_message(path)) from error


def _full_disk_message(path: str) -> str:
    folder = Path(path).parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return (
        f"the disk is full: writing {path} failed with {free / 1e6:.0f} MB free. Nothing that was finished is lost; "
        "free some space (or choose another --workdir or data.records_dir) and run the same command again"
    )
