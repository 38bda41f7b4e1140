import tensorflow as tf

from trainer.serving.windows import Request, RequestWindows


def test_a_request_of_one_window_a_row_needs_none():
    request = Request((tf.constant(["a"]),), {"logits": tf.zeros([1, 2])})
    assert request.windows is None and RequestWindows({}, tf.constant([0])).about == {}
