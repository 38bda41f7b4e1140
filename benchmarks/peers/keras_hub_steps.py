"""keras-hub's BertTextClassifier on JAX as a side of `benchmarks/speed.py`, padded to the case's length, float32."""

import argparse
import os

import protocol

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--encoder", required=True)
    options = parser.parse_args()

    import keras
    import keras_hub
    import numpy as np

    case = protocol.load_case(options.case)
    backbone = keras_hub.models.BertBackbone.from_preset(options.encoder)
    model = keras_hub.models.BertTextClassifier(backbone, num_classes=case["classes"], preprocessor=None)
    model.get_layer("logits").set_weights([np.array(case["head"]["kernel"]), np.array(case["head"]["bias"])])
    optimizer = keras.optimizers.AdamW(1e-6, weight_decay=0.01, global_clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    examples, size, width = case["examples"], case["batch_size"], case["max_length"]

    def tensors(rows):
        ids = np.zeros([len(rows), width], np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(examples[row])] = examples[row]
        inputs = {"token_ids": ids, "padding_mask": (ids > 0).astype(np.int32), "segment_ids": np.zeros_like(ids)}
        return inputs, np.array([case["labels"][row] for row in rows])

    inputs, labels = tensors(range(size))
    first_loss = float(model.test_on_batch(inputs, labels, return_dict=True)["loss"])

    batches = protocol.drawn_batches(examples, size)

    def next_batch():
        rows = next(batches)
        batch = tensors(rows)
        return batch, int(batch[0]["padding_mask"].sum()), len(rows), batch[0]["token_ids"].size

    protocol.serve(first_loss, next_batch, lambda batch: float(model.train_on_batch(*batch, return_dict=True)["loss"]))


if __name__ == "__main__":
    main()
