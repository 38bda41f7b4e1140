"""More words or more positions than an encoder was trained with: what the new rows of its tables begin as."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trainer.errors import UserError
from trainer.models.checkpoint_formats import Weights
from trainer.text.tokenizer import Tokenizer

WORDS, POSITIONS, WORD_BIAS = (
    "embeddings/word_embeddings/weight",
    "embeddings/position_embeddings/embeddings",
    "cls/predictions/bias",
)


def extension(before: Tokenizer | None, after: Tokenizer, positions: int) -> Callable[[Weights], Weights]:
    """Returns a function that fits an encoder's weights to a longer vocabulary and to more positions.

    A new word begins as the mean of the pieces that it was before (Yao et al. 2021, arXiv:2106.13474, section 3.3); a further
    position p as a copy of position p - N, N the old number of positions (Beltagy et al. 2020, arXiv:2004.05150, section 5).

    Args:
      before: the tokenizer that the weights were trained with; None where the vocabulary stays.
      after: the new one; the ids of `before` mean the same in it.
      positions: how many there are to be; fewer than there are cuts nothing off.

    Raises:
      UserError: the ids of the vocabularies mean different tokens.
    """
    pieces = _pieces_of_new_tokens(before, after) if before else []
    known = before.vocabulary_size if before else 0

    def extend(weights: Weights) -> Weights:
        extended = dict(weights)
        if WORDS in weights:
            extended[WORDS] = _with_means(weights[WORDS], known, pieces)
        if WORD_BIAS in weights:
            extended[WORD_BIAS] = _with_means(weights[WORD_BIAS], known, pieces)
        table = weights.get(POSITIONS)
        if table is not None and len(table) < positions:
            extended[POSITIONS] = table[np.arange(positions) % len(table)]
        return extended

    return extend


def _with_means(table: np.ndarray, known: int, pieces: Sequence[Sequence[int]]) -> np.ndarray:
    """Appends to the rows of the known tokens (a table may have some to spare) for each list of ids the mean of their rows."""
    if not pieces:
        return table
    return np.concatenate([table[:known], np.stack([table[list(ids)].mean(axis=0) for ids in pieces])])


def _pieces_of_new_tokens(before: Tokenizer, after: Tokenizer) -> list[list[int]]:
    old, new = before.tokens(), after.tokens()
    for number, (ours, theirs) in enumerate(zip(old, new, strict=False)):
        if ours != theirs:
            raise UserError(
                f"encoder.vocabulary_path: its id {number} is {theirs!r}, the encoder's is {ours!r}; an extended vocabulary "
                "begins with all of the encoder's tokens. bert-trainer vocabulary --extend makes one"
            )
    if len(new) < len(old):
        raise UserError(f"encoder.vocabulary_path: it has {len(new):,} tokens, fewer than the encoder's {len(old):,}")
    numbers = {token: number for number, token in enumerate(old)}
    return [
        _inner_pieces(token[2:], numbers, before.unk_id) if token.startswith("##") else before.encode(token) or [before.unk_id]
        for token in new[len(old) :]
    ]


def _inner_pieces(text: str, numbers: Mapping[str, int], unknown: int) -> list[int]:
    """Returns the pieces of what stands inside a word, the longest first, as WordPiece does."""
    pieces, start = [], 0
    while start < len(text):
        end = next((end for end in range(len(text), start, -1) if f"##{text[start:end]}" in numbers), None)
        if end is None:
            return [unknown]
        pieces.append(numbers[f"##{text[start:end]}"])
        start = end
    return pieces
