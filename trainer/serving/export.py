"""Writes an export and holds it to the model: saved aside, reloaded in a clean process, compared, then named."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer import files
from trainer.errors import UserError
from trainer.serving import reload
from trainer.serving.signatures import ServingModule
from trainer.serving.warmup import write_warmup

log = logging.getLogger(__name__)
LABELS_FILE = "labels.txt"
Reply = Mapping[str, list]  # {output: a value, or lists of values, for each row}
PADDING = {"U": "", "i": -1, "f": 0.0}  # of replies whose rows have different lengths, by the kind of a value
Requests = Mapping[str, Mapping[str, dict]]  # {signature: {input: {"dtype", "values"}}}
IsTie = Callable[[str, Mapping[str, np.ndarray], float], bool]  # (output, a row of the reply, tolerance)
RELOAD_SECONDS = 600
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}  # of 1, or of a larger number: other shapes round otherwise


def next_version(exports: str) -> int:
    """Returns the number after the highest version in a run's exports folder; servers take the highest."""
    return max([int(name) for name in files.list_dir(exports) if name.isdigit()], default=0) + 1


def write_export(
    exports: str,
    version: int,
    module: ServingModule,
    labels: Sequence[str] | None,
    requests: Requests,
    expected: Mapping[str, Reply],
    tolerance: float,
    is_tie: IsTie,
    library: Path | None = None,
) -> str:
    """Saves a module as exports/<version>, once a clean process has shown that it equals the model.

    Args:
      exports: the run's exports folder.
      version: a number that is not there yet.
      module: what to save.
      labels: lines of the labels asset, or None.
      requests: the same rows for each signature, see `requests_for`; the first signature's are the warm-up.
      expected: for each signature what the model itself gives for these rows, through the Hugging Face tokenizer.
      tolerance: how far numbers may differ.
      is_tie: whether a row's numbers are so close that another string is right as well, see `Task.is_tie`.
      library: compiled operations that the module needs, stored in the export as reload.OPERATIONS_FILE.

    Returns:
      The export's folder.

    Raises:
      UserError: the reloaded export differs, or cannot be loaded; nothing is left under exports/<version>.
    """
    target, partial = files.join(exports, str(version)), files.join(exports, f"partial-{version}")
    files.remove_tree(partial)
    try:
        with files.explain_full_disk(partial):
            _save(module, partial, labels)
            if library is not None:
                kept = files.join(partial, reload.OPERATIONS_FILE)
                files.make_dirs(kept.rpartition("/")[0])
                files.copy(str(library), kept)
            write_warmup(partial, "bert", tensors_of(requests["serving_default"]))
        for signature, reply in reload_and_call(partial, requests).items():
            problem = difference(reply, expected[signature], tolerance, is_tie)
            if problem:
                raise UserError(
                    f"the export is refused: signature {signature}, reloaded in a clean process, differs from the model: "
                    f"{problem}"
                )
        _publish(partial, target)
    finally:
        files.remove_tree(partial)
    return target


def _save(module: ServingModule, folder: str, labels: Sequence[str] | None) -> None:
    with tempfile.TemporaryDirectory() as local:
        if labels is not None:
            path = Path(local, LABELS_FILE)
            path.write_text("".join(f"{one_line(label)}\n" for label in labels), encoding="utf8")
            module.labels = tf.saved_model.Asset(str(path))
        tf.saved_model.save(module, folder, signatures=module.signatures())


def one_line(label: str) -> str:
    """Returns a label on one line: a line break in it is written as an escape, as in JSON.

    >>> print(one_line("two\\nlines"))
    two\\nlines
    """
    return "".join(c if len(f"x{c}x".splitlines()) == 1 else c.encode("unicode_escape").decode() for c in label)


def _publish(partial: str, target: str) -> None:
    if not files.is_remote(target):
        files.rename(partial, target)
        return
    # Object stores cannot rename a folder at once; servers look for saved_model.pb, which comes last.
    names = [path for path in _walk(partial) if not path.endswith("saved_model.pb")]
    for path in [*names, files.join(partial, "saved_model.pb")]:
        goal = target + path.removeprefix(partial)
        files.make_dirs(goal.rpartition("/")[0])
        files.copy(path, goal)


def _walk(folder: str) -> list[str]:
    found = []
    for name in files.list_dir(folder):
        path = files.join(folder, name)
        found += _walk(path) if files.is_dir(path) else [path]
    return found


def requests_for(
    texts: Mapping[str, Sequence[str]],
    ids: Mapping[str, Sequence[Sequence[int]]],
    takes_strings: bool = True,
    text_signatures: Mapping[str, int] | None = None,
) -> Requests:
    """Returns the requests of the comparison for each signature, as `reload.py` reads them.

    Args:
      texts: {name of a text input: its texts}, equally many.
      ids: the same rows as int32 [rows, length] for each of TOKEN_INPUTS.
      takes_strings: False for an export that takes token ids only.
      text_signatures: {a signature for one text: which of the text inputs it is}.
    """
    tokens = {name: {"dtype": "int32", "values": [list(row) for row in rows]} for name, rows in ids.items()}
    if not takes_strings:
        return {"serving_default": tokens, "tokens": tokens}
    strings = {name: {"dtype": "string", "values": list(column)} for name, column in texts.items()}
    examples = []
    for row in zip(*texts.values(), strict=True):
        feature = {
            name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
            for name, text in zip(texts, row, strict=True)
        }
        examples.append(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString().hex())
    columns = list(strings.values())
    single = {signature: {"text": columns[number]} for signature, number in (text_signatures or {}).items()}
    of_examples = {"examples": {"dtype": "bytes", "values": examples}}
    return {"serving_default": strings, "examples": of_examples, "tokens": tokens, **single}


def tensors_of(request: Mapping[str, dict]) -> dict[str, tf.Tensor]:
    """Returns a request of strings or ids as tensors."""
    return {name: tf.constant(entry["values"], entry["dtype"]) for name, entry in request.items()}


def reload_and_call(export: str, requests: Requests) -> dict[str, dict]:
    """Calls an export's signatures in a process that has only tensorflow and tensorflow-text.

    Raises:
      UserError: the process fails; its last line says why.
    """
    with tempfile.TemporaryDirectory() as local:
        inputs, outputs = Path(local, "inputs.json"), Path(local, "outputs.json")
        inputs.write_text(json.dumps(requests), encoding="utf8")
        command = [sys.executable, "-I", reload.__file__, export, str(inputs), str(outputs)]
        environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=RELOAD_SECONDS, env=environment)
        except subprocess.TimeoutExpired:
            raise UserError(f"the export {export} did not answer within {RELOAD_SECONDS} s in a clean process") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"the export {export} cannot be loaded in a clean process: {last}")
        return json.loads(outputs.read_text(encoding="utf8"))


def difference(reply: Reply, expected: Reply, tolerance: float, is_tie: IsTie) -> str | None:
    """Returns how a reply differs from the model's, or None. All outputs are compared, strings too.

    A tensor is as wide as its widest row: where the model's own row is shorter, the rest must be `PADDING`.
    """
    if set(reply) != set(expected):
        return f"it has the outputs {', '.join(sorted(reply))}, the model {', '.join(sorted(expected))}"
    ties: set[int] = set()

    def of_row(row):
        return {name: np.asarray(found[row]) for name, found in expected.items()}

    # What is no float first: where another string is right as well, the numbers that go with it are other ones, too.
    for name, values in sorted(expected.items(), key=lambda entry: _kind(entry[1]) == "f"):
        ours = np.asarray(reply[name])
        theirs = _padded(values, ours.shape)
        if ours.shape != theirs.shape:
            return f"{name} has shape {list(ours.shape)}, not {list(theirs.shape)}"
        if theirs.dtype.kind != "f":
            for row in np.flatnonzero((ours != theirs).reshape(len(theirs), -1).any(axis=1)):
                if row not in ties and not is_tie(name, of_row(row), 2 * tolerance):
                    return f"{name} of row {row} is {reply[name][row]!r}, not {values[row]!r}"
                ties.add(int(row))
            continue
        # A row's logits are rounded as its largest one is.
        largest = np.abs(theirs).max(axis=tuple(range(1, theirs.ndim)), keepdims=True, initial=1.0)
        gaps = np.abs(ours - theirs) / largest
        wrong = ~(gaps <= tolerance)  # so that NaN is wrong, too
        for row in np.flatnonzero(wrong.reshape(len(theirs), -1).any(axis=1)):
            if row in ties or is_tie(name, of_row(row), 2 * tolerance):
                ties.add(int(row))
            else:
                return f"{name} of row {row} by up to {float(np.max(np.abs(ours - theirs)[row])):.3g}, over {tolerance:g}"
    return None


def _kind(values: list) -> str:
    """Returns the kind of the values in nested lists: one of PADDING's; of empty lists that of a string."""
    for value in values:
        found = _kind(value) if isinstance(value, list) else np.asarray(value).dtype.kind
        if found:
            return found
    return ""


def _padded(values: list, shape: tuple[int, ...]) -> np.ndarray:
    """Returns nested lists of different lengths as an array of a shape, or of their own where they do not fit into it."""
    try:
        return np.asarray(values)
    except ValueError:  # rows of different lengths
        pass
    padding = PADDING[_kind(values)]
    array = np.full((len(values), *shape[1:]), padding, dtype=object)

    def fill(target, found):
        for place, value in enumerate(found):
            if isinstance(value, list):
                fill(target[place], value)
            else:
                target[place] = value

    try:
        fill(array, values)
    except IndexError:
        return np.empty(0)
    return array.astype({"U": str, "i": np.int64, "f": np.float64}[_kind(values)])
