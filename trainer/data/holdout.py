"""Rows held out of the training rows, by a hash of their text: `data.validation: 10%`."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trainer.data.sources import Rejected, Row
from trainer.errors import UserError, suggestion

HASH_BYTES = 8


@dataclasses.dataclass(frozen=True)
class Holdout:
    """Which of the training rows belong to which other split.

    Equal texts stay on one side. Within a class, the texts with the lowest hashes are held out: the same ones in each
    process, and nearly the same ones after rows were added.

    Attributes:
      fractions: {split: fraction of the distinct texts}, in order.
      chosen: {split: hashes of its texts}; None for a corpus, where a hash below the fraction decides, without a first pass.
      columns: that are hashed: of the text, or another by which rows stay together.
    """

    fractions: Mapping[str, float]
    chosen: Mapping[str, frozenset[bytes]] | None
    columns: tuple[str, ...]

    @classmethod
    def of(
        cls,
        rows: Iterable[Row | Rejected],
        fractions: Mapping[str, float],
        columns: Sequence[str],
        label: str | None,
        key: str = "task.text_columns",
        is_corpus: bool = False,
    ) -> Holdout:
        """Chooses the rows to hold out.

        Args:
          rows: all rows of data.train.
          fractions: {split: fraction}.
          columns: hashed.
          label: the column of the class, of each of which a fraction is held out; None where there are no classes.
          key: the config key that names the columns, for messages.
          is_corpus: the rows are too many to be looked at first.

        Raises:
          UserError: a split would hold no row at all.
        """
        columns = tuple(columns)
        if is_corpus:
            return cls(fractions, None, columns)
        strata = _texts_by_class(rows, columns, label, key)
        texts = sum(map(len, strata.values()))
        chosen: dict[str, set[bytes]] = {split: set() for split in fractions}
        for stratum in strata.values():
            ordered = iter(sorted(stratum))
            left = len(stratum) - 1  # every class keeps a text to train on
            for split, fraction in fractions.items():
                # Without classes one text at least is held out: of a class there may be too few.
                count = min(max(round(fraction * len(stratum)), label is None), left)
                left -= count
                chosen[split].update(itertools.islice(ordered, count))
        for split, keys in chosen.items():
            if not keys:
                raise UserError(
                    f"data.{split}: {fractions[split]:.3g} of the training rows is less than one row of each class: data.train "
                    f"has {texts} different texts in {len(strata)} class(es); ask for a larger share, or name a file"
                )
        return cls(fractions, {split: frozenset(keys) for split, keys in chosen.items()}, columns)

    def rows_of(self, split: str, rows: Iterable[Row | Rejected]) -> Iterator[Row | Rejected]:
        """Yields the rows of a split; rows that could not be read, or have no text, stay with the training rows."""
        for row in rows:
            if self._split_of(row) == split:
                yield row

    def _split_of(self, row: Row | Rejected) -> str:
        key = _hash(row, self.columns) if isinstance(row, Row) else None
        if key is None:
            return "train"
        if self.chosen is not None:
            return next((split for split, keys in self.chosen.items() if key in keys), "train")
        place, limit = int.from_bytes(key, "big") / 256**HASH_BYTES, 0.0
        for split, fraction in self.fractions.items():
            limit += fraction
            if place < limit:
                return split
        return "train"


@dataclasses.dataclass(frozen=True)
class Folds:
    """Rows in parts of about the same size, equal texts in one part, each class spread over all.

    Attributes:
      fold_of: {hash of a text: its part, from 0}.
      columns: that are hashed.
    """

    fold_of: Mapping[bytes, int]
    columns: tuple[str, ...]

    def of(self, row: Row) -> int | None:
        """Returns a row's part; None for a row without a text."""
        key = _hash(row, self.columns)
        return None if key is None else self.fold_of[key]


def folds_of(rows: Iterable[Row | Rejected], columns: Sequence[str], label: str | None, count: int, key: str) -> Folds:
    """Deals rows to `count` parts by the hash of their texts: stratified by class, grouped by equal values of the columns.

    Args:
      rows, columns, label, key: as `Holdout.of`'s.
      count: of parts.

    Raises:
      UserError: there are fewer different texts than parts.
    """
    strata = _texts_by_class(rows, columns, label, key)
    dealt = [text for name in sorted(strata) for text in sorted(strata[name])]  # class by class: each is dealt round
    if len(dealt) < count:
        raise UserError(f"--folds={count}: data.train has only {len(dealt)} different texts")
    return Folds({text: number % count for number, text in enumerate(dealt)}, tuple(columns))


def _texts_by_class(
    rows: Iterable[Row | Rejected], columns: Sequence[str], label: str | None, column_key: str
) -> dict[str, set[bytes]]:
    """Returns {class: hashes of its texts}; of equal texts the first row's class counts, and without a label there is one.

    Raises:
      UserError: not one row has these columns.
    """
    strata: dict[str, set[bytes]] = {}
    seen: set[bytes] = set()
    first: Row | None = None
    for row in rows:
        if not isinstance(row, Row):
            continue
        first, key = first or row, _hash(row, columns)
        if key is not None and key not in seen:
            seen.add(key)
            strata.setdefault("" if label is None else str(row.values.get(label)), set()).add(key)
    missing = [column for column in columns if first and not seen and column not in first.values]
    if first and missing:
        names = ", ".join(map(repr, first.values))
        raise UserError(
            f"{first.path}:{first.line}: no column {missing[0]!r} ({column_key}); the columns are {names}"
            f"{suggestion(missing[0], first.values)}"
        )
    return strata


def _hash(row: Row, columns: Sequence[str]) -> bytes | None:
    """Returns a hash of a row's values in the columns; None where it has none of them, or no text or number."""
    values: list[Any] = [row.values[column] for column in columns if column in row.values]
    values = [" ".join(map(str, value)) if isinstance(value, list) else value for value in values]
    if not values or not all(isinstance(value, str | int) for value in values):
        return None
    joined = "\0".join(str(value).strip() for value in values)
    return hashlib.blake2b(joined.encode("utf8", "surrogatepass"), digest_size=HASH_BYTES).digest()
