"""Pre-training against the contract, and against what is its own."""

from tests.tasks.contract import TaskContract

TEXT = [
    "The lobster lives on the sea floor. It has large [MASK] and eats at night.",
    "Anarchism began as a term of abuse. It is now a [MASK] label.\nThe word comes from the Greek.",
    "A short one with a [MASK] in it.\nAnd a second sentence after it.",
    "Nobody knows [MASK] the bread was sold out so early.\nThe baker did not say.\nThen it rained.",
]


class TestNextSentence(TaskContract):
    name = "pretraining"
    config = {"masked_rate": 0.2}
    rows = [{"text": text} for text in TEXT]


class TestMaskedAlone(TaskContract):
    name = "pretraining"
    config = {"sentence_objective": "none", "masking": "whole_word"}
    rows = [{"text": text} for text in TEXT]
