"""FeatureSpec: one description of a task's features drives writing, parsing, packing and padding.

Token-level features belong to a sequence, which has a length of its own and is packed on its own. Most tasks have one, without
a name: `input_ids`. The names of others begin with the sequence's: `query_input_ids`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from trainer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature of an example.

    Attributes:
      dtype: "int32" or "float32" in batches (records store int64 and float32).
      per: "token", a value for each token of its sequence; or "example", one value for each example.
      sequence: of a token-level feature, the sequence that it belongs to; the feature's name begins with it and "_".
      aligned_with: of a token-level feature, another sequence, the same for all features of its own: each example is then in
        the same row and slot of both, so that one may attend to the other.
    """

    dtype: Literal["int32", "float32"]
    per: Literal["token", "example"]
    sequence: str = ""
    aligned_with: str | None = None


FeatureSpec = Mapping[str, Feature]
# A sequence of numbers for each-token features, a number for others. Small numbers may come as bytes, ids as an array of
# ID_TYPE: these are written fastest.
Example = Mapping[str, Any]

ID_TYPE = "I"  # of arrays of ids: unsigned, 4 bytes
TOKENS = {"input_ids": Feature("int32", "token"), "token_type_ids": Feature("int32", "token")}
ROW_ID = {"row_id": Feature("int32", "example")}  # which row, in source order, an example came from


def in_sequence(sequence: str, name: str) -> str:
    """Returns the name of a sequence's feature or input: "query_input_ids"; of the sequence without a name "input_ids"."""
    return f"{sequence}_{name}" if sequence else name


def sequences_of(spec: FeatureSpec) -> tuple[str, ...]:
    """Returns the names of a spec's sequences; examples are numbered by their place in the first one's rows."""
    found = dict.fromkeys(feature.sequence for feature in spec.values() if feature.per == "token")
    return tuple(sequence for sequence in found if in_sequence(sequence, "input_ids") in spec)


def aligned_sequences(spec: FeatureSpec) -> dict[str, str]:
    """Returns {sequence: the one whose rows it shares} of the sequences that are not packed on their own."""
    return {feature.sequence: feature.aligned_with for feature in spec.values() if feature.aligned_with is not None}


def lead_of(spec: FeatureSpec) -> str | None:
    """Returns the sequence with which others are aligned, where some do: its rows decide how many there are."""
    return next(iter(aligned_sequences(spec).values()), None)


def check_example(example: Example, spec: FeatureSpec, max_seq_length: int) -> None:
    """Raises UserError where an example is not what the spec says: a task's mistake, found before it is written."""
    if set(example) != set(spec):
        raise UserError(f"the task gave features {sorted(example)}, but its features() declare {sorted(spec)}")
    lengths = token_counts(example, spec)
    for length in lengths.values():
        if not 0 < length <= max_seq_length:
            raise UserError(f"an example of {length} tokens; allowed are 1 to data.max_seq_length={max_seq_length}")
    for name, feature in spec.items():
        if feature.per == "token" and len(example[name]) != lengths[feature.sequence]:
            raise UserError(f"feature {name!r} has {len(example[name])} values for {lengths[feature.sequence]} tokens")


def token_counts(example: Example, spec: FeatureSpec) -> dict[str, int]:
    """Returns {sequence: the tokens that an example has in it}."""
    return {sequence: len(example[in_sequence(sequence, "input_ids")]) for sequence in sequences_of(spec)}


def spec_to_json(spec: FeatureSpec) -> dict[str, dict[str, str]]:
    """Returns the spec as the manifest stores it."""
    told = {name: dataclasses.asdict(feature) for name, feature in sorted(spec.items())}
    return {name: {key: value for key, value in one.items() if value is not None} for name, one in told.items()}


def spec_from_json(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, Feature]:
    """Returns the spec that `spec_to_json` stored."""
    return {name: Feature(**feature) for name, feature in stored.items()}
