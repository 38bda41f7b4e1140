"""Warm-up requests, read back field by field, and played against the export as TensorFlow Serving does."""

import tensorflow as tf

from trainer.serving.warmup import WARMUP_FILE, predict_request


def fields(message: bytes) -> dict[int, list]:
    """Parses one level of a protobuf message: {field number: [bytes or int]}."""
    found, place = {}, 0

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        key = varint()
        assert key & 7 == 2, "only nested messages and strings here"
        length = varint()
        found.setdefault(key >> 3, []).append(message[place : place + length])
        place += length
    return found


def parse(log: bytes):
    """Returns (model, signature, {input: tensor}) by the field numbers of prediction_log.proto and predict.proto."""
    request = fields(fields(fields(log)[6][0])[1][0])
    spec = fields(request[1][0])
    inputs = {}
    for entry in request[2]:
        pair = fields(entry)
        inputs[pair[1][0].decode()] = tf.make_ndarray(type(tf.make_tensor_proto(0)).FromString(pair[2][0]))
    return spec[1][0].decode(), spec[3][0].decode(), inputs


def test_a_request_has_model_signature_and_inputs():
    log = predict_request("bert", "serving_default", {"text": tf.constant(["a", "ü" * 200])})
    model, signature, inputs = parse(log)
    assert (model, signature) == ("bert", "serving_default")
    assert [value.decode() for value in inputs["text"]] == ["a", "ü" * 200]


def test_the_exports_requests_play(exported):
    model = tf.saved_model.load(str(exported))
    sizes = []
    for record in tf.data.TFRecordDataset(str(exported / WARMUP_FILE)):
        _, signature, inputs = parse(record.numpy())
        reply = model.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        sizes.append(reply["label"].shape[0])
    assert sizes == [1, 4, 32]
