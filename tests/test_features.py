import pytest

from trainer.errors import UserError
from trainer.features import Feature, check_example, spec_from_json, spec_to_json

SPEC = {"input_ids": Feature("int32", "token"), "tags": Feature("int32", "token"), "label": Feature("int32", "example")}


def test_spec_survives_the_manifest():
    assert spec_from_json(spec_to_json(SPEC)) == SPEC


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"input_ids": [1]}, "the task gave features ['input_ids'], but its features() declare"),
        ({"input_ids": [], "tags": [], "label": 0}, "an example of 0 tokens; allowed are 1 to data.max_seq_length=4"),
        ({"input_ids": [1] * 5, "tags": [0] * 5, "label": 0}, "an example of 5 tokens"),
        ({"input_ids": [1, 2], "tags": [0], "label": 0}, "feature 'tags' has 1 values for 2 tokens"),
    ],
)
def test_examples_that_do_not_fit_are_told(example, message):
    with pytest.raises(UserError) as caught:
        check_example(example, SPEC, 4)
    assert str(caught.value).startswith(message)


def test_fitting_example_passes():
    check_example({"input_ids": [1, 2], "tags": [0, 1], "label": 1}, SPEC, 4)
