"""An export as a side of `benchmarks/inference.py`: EXPORT TEXTS FIRST. Needs TensorFlow and its text package only."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import inference_protocol
import tensorflow as tf
import tensorflow_text  # noqa: F401  the tokenizer's operations


def main(export, texts, first):
    operations = Path(export, "assets.extra/operations.so")
    if operations.exists():
        tf.config.threading.set_inter_op_parallelism_threads(1)  # as docs/serving.md says: the operations have their own
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.load_op_library(str(operations))
    model = tf.saved_model.load(export)
    signature = model.signatures["serving_default"]

    def predict(chunk):
        return signature(text=tf.constant(chunk))["probabilities"].numpy()[:, 1]

    inference_protocol.serve(predict, json.loads(Path(texts).read_text()), int(first))


if __name__ == "__main__":
    main(*sys.argv[1:])
