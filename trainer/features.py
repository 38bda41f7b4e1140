"""FeatureSpec: one description of a task's features drives writing, parsing, packing and padding."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from trainer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature of an example.

    Attributes:
      dtype: "int32" or "float32" in batches (records store int64 and float32).
      per: "token", a value for each token, as long as `input_ids`; or "example", one value for each example.
    """

    dtype: Literal["int32", "float32"]
    per: Literal["token", "example"]


FeatureSpec = Mapping[str, Feature]
# A sequence of numbers for each-token features, a number for others. Small numbers may come as bytes, ids as an array of
# ID_TYPE: these are written fastest.
Example = Mapping[str, Any]

ID_TYPE = "I"  # of arrays of ids: unsigned, 4 bytes
TOKENS = {"input_ids": Feature("int32", "token"), "token_type_ids": Feature("int32", "token")}
ROW_ID = {"row_id": Feature("int32", "example")}  # which row, in source order, an example came from


def check_example(example: Example, spec: FeatureSpec, max_seq_length: int) -> None:
    """Raises UserError where an example is not what the spec says: a task's mistake, found before it is written."""
    if set(example) != set(spec):
        raise UserError(f"the task gave features {sorted(example)}, but its features() declare {sorted(spec)}")
    length = len(example["input_ids"])
    if not 0 < length <= max_seq_length:
        raise UserError(f"an example of {length} tokens; allowed are 1 to data.max_seq_length={max_seq_length}")
    for name, feature in spec.items():
        if feature.per == "token" and len(example[name]) != length:
            raise UserError(f"feature {name!r} has {len(example[name])} values for {length} tokens")


def spec_to_json(spec: FeatureSpec) -> dict[str, dict[str, str]]:
    """Returns the spec as the manifest stores it."""
    return {name: dataclasses.asdict(feature) for name, feature in sorted(spec.items())}


def spec_from_json(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, Feature]:
    """Returns the spec that `spec_to_json` stored."""
    return {name: Feature(**feature) for name, feature in stored.items()}
