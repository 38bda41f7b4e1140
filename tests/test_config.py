"""The config engine: YAML's traps closed, every message told."""

import dataclasses
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import config
from trainer.config import ConfigError, FieldError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    path: str | None = None
    """Where."""
    batch_size: int = 32
    """How many."""
    names: tuple[str, ...] = ()
    """The names."""
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """By name."""
    shuffle: bool = True
    """Whether."""

    def __post_init__(self):
        config.check(self.batch_size > 0, "batch_size", f"must be over 0, got {self.batch_size}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    learning_rate: float = 5e-5
    """The
    rate."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of products."""
    needed: str
    """Must be given."""


SCHEMA = {"data": Data, "train": Train}


def load(text: str, *overrides: str):
    leaves = config.read_leaves(text, "x.yaml") | config.read_overrides(["train.needed=yes", *overrides])
    return config.build(SCHEMA, leaves)


def error_of(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    return str(caught.value)


def test_precedence_is_default_file_set():
    assert load("")["data"].batch_size == 32
    assert load("data: {batch_size: 8}")["data"].batch_size == 8
    assert load("data: {batch_size: 8}", "data.batch_size=4", "data.batch_size=2")["data"].batch_size == 2


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001", "1E-5"])
def test_exponents_are_numbers(text):
    assert load(f"train: {{learning_rate: {text}}}")["train"].learning_rate == 1e-5


def test_words_and_times_stay_text():
    names = load("data: {names: [no, off, yes, 12:30, 1.10, null, 0x1F, 2021-01-01, ~]}")["data"].names
    assert names == ("no", "off", "yes", "12:30", "1.10", "null", "0x1F", "2021-01-01", "~")


def test_null_is_none_only_where_it_may_be():
    assert load("data: {path: null}")["data"].path is None
    assert load("data: {path: 'null'}")["data"].path == "null"
    assert error_of("data: {batch_size: }") == "x.yaml:1: data.batch_size: expected int, got nothing"


def test_messages_name_key_place_and_way_out():
    assert error_of("train:\n  learning_rat: 1") == (
        "x.yaml:2: unknown config key 'train.learning_rat'; did you mean 'train.learning_rate'?"
    )
    assert (
        error_of("", "data.learning_rate=1") == "unknown config key 'data.learning_rate'; did you mean 'train.learning_rate'?"
    )
    assert error_of("", "zzz.qqq=1") == "unknown config key 'zzz.qqq'; `bert-trainer describe` lists every key"
    assert error_of("", "train.precision=bf16") == (
        "train.precision: 'bf16' is not one of float32, bfloat16, float16; did you mean 'bfloat16'?"
    )
    assert error_of("", "data.batch_size=big") == "data.batch_size: expected int, got 'big'"
    assert error_of("", "data.batch_size=1.5") == "data.batch_size: expected int, got '1.5'"
    assert error_of("", "data.batch_size=-1") == "data.batch_size: must be over 0, got -1"
    assert error_of("data:\n  batch_size: 0") == "x.yaml:2: data.batch_size: must be over 0, got 0"
    assert error_of("", "data.shuffle=off") == "data.shuffle: expected true or false, got 'off'"
    assert error_of("", "data.names=a") == "data.names: expected a list, as [a, b], got 'a'"
    assert error_of("", "data.weights=a") == "data.weights: expected a mapping, as {a: 1}, got 'a'"
    assert error_of("", "data.weights={a: b}") == "data.weights.a: expected float, got 'b'"
    assert error_of("data: {path: [a]}") == "x.yaml:1: data.path: expected str, got a list"


def test_structure_errors():
    assert error_of("data: {batch_size: 1}\ntrain: {}\ndata: {}") == "x.yaml:3: key 'data' is given twice"
    assert error_of("data:\n  path: a\n  path: b") == "x.yaml:3: key 'path' is given twice"
    assert error_of("- a") == "x.yaml:1: the file must be a mapping of 'key: value' lines, got a list"
    assert error_of("data: 3") == "x.yaml:1: section 'data' must be a mapping of 'key: value' lines, got '3'"
    assert error_of("data: [a").startswith("x.yaml:1: not valid YAML: ")
    assert error_of("", "batch_size") == ("--set=batch_size: expected key=value with a dotted key, as train.learning_rate=3e-5")
    with pytest.raises(ConfigError, match="config key 'train.needed' is required: Must be given."):
        config.build(SCHEMA, {})


def test_values_of_set():
    values = load("", "data.names=[a, 'b c']", "data.weights={x: 2}", "data.path=a: b: c", "train.learning_rate=3e-5")
    assert values["data"].names == ("a", "b c")
    assert values["data"].weights == {"x": 2.0}
    assert values["train"].learning_rate == 3e-5
    assert load("", "data.path=")["data"].path is None
    assert load("", "data.path=|")["data"].path == "|"


def test_documentation_is_the_docstring_under_the_field():
    assert config.documentation(Train) == {
        "learning_rate": "The rate.", "precision": "Of products.", "needed": "Must be given."
    }  # fmt: skip


def test_type_names():
    annotations = config.fields_of(Data) | config.fields_of(Train)
    assert config.type_name(annotations["path"]) == "str or null"
    assert config.type_name(annotations["names"]) == "list of str"
    assert config.type_name(annotations["weights"]) == "mapping of str to float"
    assert config.type_name(annotations["precision"]) == "float32|bfloat16|float16"


def test_differences_name_the_keys():
    before, after = load(""), load("", "data.batch_size=8")
    assert config.differences(before, after) == {"data.batch_size": (32, 8)}


def test_check_raises_field_error():
    with pytest.raises(FieldError) as caught:
        config.check(False, "field", "why")
    assert caught.value.field == "field"


@given(
    st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])), max_size=5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])),
)
def test_dump_and_load_give_the_same_values(names, rate, path):
    sections = {
        "data": Data(names=tuple(names), path=path, weights={"no": 1.0, "1e-5": 2.0}),
        "train": Train(learning_rate=rate, needed="off"),
    }
    assert config.build(SCHEMA, config.read_leaves(config.dump(sections), "y.yaml")) == sections
