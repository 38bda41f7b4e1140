import numpy as np

from trainer.run.inference import collect


def test_collect_restores_the_order_of_rows():
    results = [
        ({"logits": np.array([[2.0], [0.0]])}, {"row_id": np.array([2, 0]), "label": np.array([20, 0])}),
        ({"logits": np.array([[1.0]])}, {"row_id": np.array([1]), "label": np.array([10])}),
    ]
    outputs, labels = collect(results)
    assert outputs["logits"].ravel().tolist() == [0.0, 1.0, 2.0] and labels["label"].tolist() == [0, 10, 20]
