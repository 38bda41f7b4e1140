import numpy as np

from trainer.data.labels import has_half_a_surrogate_pair, label_problem, label_text


def test_missing_labels_are_no_class():
    missing = [None, "", " ", float("nan"), np.float32("nan"), np.datetime64("NaT"), "NaT", "nan", "NaN", "<NA>"]
    assert [label_text(value) for value in missing] == [None] * len(missing)


def test_one_class_however_it_is_written():
    same = {"1": [1, 1.0, "1", np.int64(1), np.float32(1)], "true": [True, "true", "True", "TRUE", np.bool_(True)]}
    for name, values in same.items():
        assert {label_text(value) for value in values} == {name}
    assert label_text(b"gut") == "gut" and label_text(1.5) == "1.5" and label_text("01") == "01" and label_text("1.0") == "1.0"


def test_what_is_no_class_is_told():
    assert label_problem(["a"]) == label_problem({"a": 1}) == "holds a list or an object; a class is one value"
    assert label_problem("half \ud83d") == "holds half of a surrogate pair, which is no character"
    assert label_problem("😀") is None and not has_half_a_surrogate_pair("😀") and has_half_a_surrogate_pair("\ude00")
