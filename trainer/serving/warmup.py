"""Warm-up requests for TensorFlow Serving: played when the model is loaded, so that the first user does not wait.

The PredictionLog messages (tensorflow_serving/apis/prediction_log.proto) are encoded here: their Python package would
bring gRPC and a second TensorFlow requirement for four nested fields.
"""

from collections.abc import Mapping

import tensorflow as tf

from trainer import files
from trainer.data.records import proto_field

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
_PREDICT_LOG = 6  # PredictionLog.predict_log
_REQUEST = 1  # PredictLog.request
_MODEL_SPEC, _INPUTS = 1, 2  # PredictRequest
_NAME, _SIGNATURE = 1, 3  # ModelSpec
_KEY, _VALUE = 1, 2  # of a map entry


def predict_request(model_name: str, signature: str, inputs: Mapping[str, tf.Tensor]) -> bytes:
    """Returns a serialized PredictionLog of one PredictRequest."""
    spec = proto_field(_NAME, model_name.encode()) + proto_field(_SIGNATURE, signature.encode())
    request = proto_field(_MODEL_SPEC, spec)
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += proto_field(_INPUTS, proto_field(_KEY, name.encode()) + proto_field(_VALUE, tensor))
    return proto_field(_PREDICT_LOG, proto_field(_REQUEST, request))


def write_warmup(folder: str, model_name: str, inputs: Mapping[str, tf.Tensor]) -> None:
    """Writes requests of one, a few and many rows into an export.

    Args:
      folder: the export.
      model_name: as the server knows it.
      inputs: of the default signature, [rows, ...] each.
    """
    path = files.join(folder, WARMUP_FILE)
    files.make_dirs(path.rpartition("/")[0])
    rows = next(iter(inputs.values())).shape[0]
    with tf.io.TFRecordWriter(path) as writer:
        for count in sorted({1, min(4, rows), rows}):
            some = {name: value[:count] for name, value in inputs.items()}
            writer.write(predict_request(model_name, "serving_default", some))
