"""Every reader of files from the outside, on damaged files: rows, refusals or a message; no other error, no hang, no flood.

    FUZZ_INPUTS=100000 .venv/bin/python -m pytest -m slow tests/fuzz     (about an hour and a half on two cores)

A find is fixed, with a test beside the reader's own, as those of manifests in tests/data/test_records.py.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import traceback

import numpy as np
import pytest

from tests.conftest import ROOT, minilm_folder, tiny_config
from tests.fuzz.mutations import damaged
from tests.models import test_pytorch_pickle as pytorch
from trainer.errors import UserError

MOST_SECONDS, MOST_GROWTH = 5, 1 << 30
SQUAD = {
    "version": "v2.0",
    "data": [{"title": "t", "paragraphs": [{"context": "Ada wrote it in 1843.", "qas": [
        {"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}], "is_impossible": False},
        {"id": "2", "question": "Where?", "answers": [], "is_impossible": True}]}]}],
}  # fmt: skip


class Reader:
    """One reader: the files that are whole, which of them is damaged, and what reads them."""

    def __init__(self, name, files, target, read):
        self.name, self.files, self.target, self.read = name, files, target, read

    def __repr__(self):
        return self.name


def rows_of(folder, name):
    from trainer.data.sources import SourceFormat, read_rows

    for _ in read_rows(str(folder / name), "data.train", SourceFormat()):
        pass


def rows_reader(ending, content):
    return Reader(ending, {f"rows.{ending}": content}, f"rows.{ending}", lambda folder: rows_of(folder, f"rows.{ending}"))


def parquet():
    import io

    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": ["a b", "c", "d é"] * 5, "label": [0, 1, 2] * 5, "tokens": [["a", "b"], [], ["c"]] * 5})
    target = io.BytesIO()
    pyarrow.parquet.write_table(table, target)
    return target.getvalue()


def config_of(folder):
    from trainer.run import experiment

    experiment.load(str(folder / "config.yaml"))


def manifest_of(folder):
    from trainer.data.records import Manifest

    manifest = Manifest.load(str(folder))
    for split in manifest.splits:
        manifest.check(split)


def tokenizer_of(folder):
    from trainer.text.tokenizer import load_tokenizer

    load_tokenizer(str(folder)).encode("a text")


def weights_of(folder):
    from trainer.models.checkpoint_formats import read_weights

    read_weights(str(folder), tiny_config())


def pickles(folder, arrays):
    """Arrays in PyTorch's two formats."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        pytorch.name_torch(monkeypatch)
        found = []
        for write in (pytorch.write_zip, pytorch.write_legacy):
            write(folder / write.__name__, pytorch.tensors_of(arrays))
            found.append((folder / write.__name__).read_bytes())
        return found


def h5(arrays):
    import io

    import h5py

    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(f"bert/{name.replace('.', '/')}:0", data=array)
    return target.getvalue()


def google_checkpoint(folder):
    """{name: content} of a checkpoint as google-research/bert's."""
    import tensorflow as tf

    variable = tf.Variable(np.ones([4], np.float32))
    tf.raw_ops.SaveV2(
        prefix=str(folder / "bert_model.ckpt"),
        tensor_names=["bert/pooler/dense/bias"],
        shape_and_slices=[""],
        tensors=[variable],
    )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def checkpoint_of(folder):
    import tensorflow as tf

    from trainer.runtime.checkpoints import CheckpointStore

    store = CheckpointStore(str(folder))
    store.restore_latest({"kernel": tf.Variable(tf.zeros([8, 4])), "bias": tf.Variable(tf.zeros([4]))})


@pytest.fixture(scope="session")
def readers(tmp_path_factory, finished_run):
    import tensorflow as tf
    from safetensors.numpy import save

    from trainer.runtime.checkpoints import CheckpointStore
    from trainer.text.tokenizer import from_vocabulary

    jsonl = b'{"text": "a b", "label": "x"}\n{"text": "c \\u00e9", "label": "y", "tokens": ["a", "b"]}\n' * 3
    arrays = {"embeddings.word_embeddings.weight": np.ones([8, 4], np.float32), "pooler.dense.bias": np.zeros([4], np.float32)}
    pickled = pickles(tmp_path_factory.mktemp("pickles"), arrays)
    google = google_checkpoint(tmp_path_factory.mktemp("google"))
    stored = tmp_path_factory.mktemp("checkpoints")
    variables = {"kernel": tf.Variable(tf.ones([8, 4])), "bias": tf.Variable(tf.ones([4]))}
    CheckpointStore(str(stored)).save(3, variables, {"records": {}})
    checkpoint = {str(path.relative_to(stored)): path.read_bytes() for path in stored.rglob("*") if path.is_file()}
    records = finished_run / "records"
    prepared = {path.name: path.read_bytes() for path in records.iterdir() if path.is_file()}
    (shard,) = [name for name in prepared if name.startswith("train") and "tfrecord" in name]
    vocabulary = "\n".join(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *[f"##{letter}" for letter in "abcdefgh"]]
    )
    small = {
        "vocab.txt": vocabulary.encode(),
        "tokenizer_config.json": json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"}).encode(),
    }
    whole = {name: (minilm_folder() / name).read_bytes() for name in ("tokenizer_config.json", "vocab.txt")}
    saved = tmp_path_factory.mktemp("tokenizer")
    from_vocabulary(vocabulary.split("\n"), lowercase=True).save(str(saved))
    fast = {path.name: path.read_bytes() for path in saved.iterdir()}
    tiny = (ROOT / "configs/tiny/regression.yaml").read_bytes()
    found = [
        rows_reader("csv", b'text,label\n"a ""b"", c",x\nd,y\n"e\nf",x\n'),
        rows_reader("tsv", b"text\tlabel\na b\tx\nc\ty\n"),
        rows_reader("jsonl", jsonl),
        rows_reader("json", json.dumps(SQUAD).encode()),
        rows_reader("txt", "one line\nanother é\n\nthird\n".encode()),
        rows_reader("conll", b"-DOCSTART- O\n\nAda B-PER\nwrote O\n\n# a comment\nit O\nin O\n1843 B-DATE\n"),
        rows_reader("parquet", parquet()),
        rows_reader("tfrecord", prepared[shard]),
        Reader("config", {"config.yaml": tiny}, "config.yaml", config_of),
        Reader("manifest", prepared, "manifest.json", manifest_of),
        Reader("shard", prepared, shard, manifest_of),
        Reader("vocabulary", small, "vocab.txt", tokenizer_of),
        Reader("tokenizer_config", {**whole, **small}, "tokenizer_config.json", tokenizer_of),
        Reader("safetensors", {"model.safetensors": save(arrays)}, "model.safetensors", weights_of),
        Reader("tokenizer.json", fast, "tokenizer.json", tokenizer_of),
        Reader("pickle", {"pytorch_model.bin": pickled[0]}, "pytorch_model.bin", weights_of),
        Reader("legacy pickle", {"pytorch_model.bin": pickled[1]}, "pytorch_model.bin", weights_of),
        Reader("h5", {"tf_model.h5": h5(arrays)}, "tf_model.h5", weights_of),
        Reader("google checkpoint", google, "bert_model.ckpt.index", weights_of),
        Reader("checkpoint index", checkpoint, "step-00000003/weights.index", checkpoint_of),
        Reader("checkpoint data", checkpoint, "step-00000003/weights.data-00000-of-00001", checkpoint_of),
        Reader("checkpoint state", checkpoint, "step-00000003/state.json", checkpoint_of),
    ]
    return {reader.name: reader for reader in found}


NAMES = ("csv", "tsv", "jsonl", "json", "txt", "conll", "parquet", "tfrecord", "config", "manifest", "shard", "vocabulary",
         "tokenizer_config", "tokenizer.json", "safetensors", "pickle", "legacy pickle", "h5", "google checkpoint",
         "checkpoint index", "checkpoint data", "checkpoint state")  # fmt: skip


@contextlib.contextmanager
def within(seconds):
    """Raises TimeoutError in what takes longer."""

    def late(*_):
        raise TimeoutError(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def finds(reader, folder, inputs, seed):
    """Returns (the damaged bytes, what went wrong) of each input that is no row, refusal or message."""
    draw = random.Random(seed)
    for name, content in reader.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    reader.read(folder)  # whole, it is read
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = []
    for _ in range(inputs):
        content = damaged(reader.files[reader.target], draw)
        (folder / reader.target).write_bytes(content)
        try:
            with within(MOST_SECONDS):
                reader.read(folder)
        except UserError:
            continue
        except BaseException as error:
            found.append(
                (content, f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-3:])}")
            )
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024
    assert growth < MOST_GROWTH, f"{reader}: {growth / 1e6:,.0f} MB more memory"
    return found


def check(readers, name, folder, inputs, seed):
    try:
        found = finds(readers[name], folder, inputs, seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    kinds = {}
    for content, problem in found:
        kinds.setdefault(problem, content)
    listed = "\n".join(f"{content[:300]!r}\n  {problem}" for problem, content in list(kinds.items())[:10])
    assert not found, f"{name}: {len(found)} of {inputs} inputs, {len(kinds)} kinds:\n{listed}"


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_told(readers, name, tmp_path):
    check(readers, name, tmp_path / "files", 150, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_files_are_told(readers, name, tmp_path):
    check(readers, name, tmp_path / "files", int(os.environ.get("FUZZ_INPUTS", 2000)), seed=2)
