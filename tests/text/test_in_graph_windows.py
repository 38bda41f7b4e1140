import tensorflow as tf

from trainer.text.in_graph_windows import graph_windows


def test_no_row_no_window():
    none = tf.zeros([0], tf.int32)
    windows = graph_windows(none, none, none)
    assert windows.row.shape == [0] and windows.cut(tf.RaggedTensor.from_row_lengths(none, none)).to_list() == []
