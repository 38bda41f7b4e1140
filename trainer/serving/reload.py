"""Runs in a clean process, as `python -I reload.py EXPORT INPUTS OUTPUTS`: only tensorflow and tensorflow-text.

Loads a SavedModel and calls every signature, as a server would. It must import nothing of this project.
"""

import importlib.abc
import json
import os
import sys
import tempfile

OPERATIONS_FILE = "assets.extra/operations.so"  # of an export that needs operations of this project

NOT_ON_A_SERVER = {"trainer", "transformers", "tokenizers", "tf_keras", "tensorflow_datasets", "torch"}


class NotHere(importlib.abc.MetaPathFinder):
    """Refuses the packages that a server does not have, so that an export which needs one fails here and now."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NOT_ON_A_SERVER:
            raise ModuleNotFoundError(f"{name} is not on a server", name=name)
        return


def main(export: str, inputs_path: str, outputs_path: str) -> None:
    """Calls each signature in INPUTS, {signature: {name: {"dtype", "values"}}}, and writes {signature: {name: values}}."""
    sys.meta_path.insert(0, NotHere())
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the operations of the in-graph tokenizer

    _load_operations(tf, f"{export.rstrip('/')}/{OPERATIONS_FILE}")
    with open(inputs_path, encoding="utf8") as file:
        requests = json.load(file)
    model = tf.saved_model.load(export)
    replies = {}
    for signature, inputs in requests.items():
        tensors = {name: _tensor(tf, entry) for name, entry in inputs.items()}
        reply = model.signatures[signature](**tensors)
        replies[signature] = {name: _plain(value.numpy()) for name, value in reply.items()}
    with open(outputs_path, "w", encoding="utf8") as file:
        json.dump(replies, file)


def _load_operations(tf, path):
    if not tf.io.gfile.exists(path):
        return
    with tempfile.TemporaryDirectory() as folder:  # the export may be in an object store
        local = os.path.join(folder, "operations.so")
        tf.io.gfile.copy(path, local)
        tf.load_op_library(local)


def _tensor(tf, entry):
    if entry["dtype"] == "bytes":  # JSON has no bytes: they come in hexadecimal
        return tf.constant([bytes.fromhex(value) for value in entry["values"]])
    return tf.constant(entry["values"], dtype=entry["dtype"])


def _plain(array):
    values = array.tolist()
    return _decoded(values) if array.dtype == object else values


def _decoded(values):
    return values.decode() if isinstance(values, bytes) else [_decoded(value) for value in values]


if __name__ == "__main__":
    main(*sys.argv[1:4])
