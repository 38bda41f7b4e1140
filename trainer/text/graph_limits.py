"""What the tokenizer inside an export reproduces of a Hugging Face tokenizer; the rest is refused by name."""

from collections.abc import Mapping

from trainer.errors import UserError
from trainer.text.tokenizer import Tokenizer

MAX_CHARACTERS_PER_WORD = 100  # WordPiece's max_input_chars_per_word: a longer word is [UNK]


def problem_with(tokenizer: Tokenizer) -> str | None:
    """Returns why an export cannot hold this tokenizer, or None; known before the training, not after it."""
    try:
        check_character_steps(tokenizer)
        special_tokens(tokenizer)
        pieces(tokenizer)
    except UserError as error:
        return str(error)
    return None


def check_character_steps(tokenizer: Tokenizer) -> None:
    """Raises UserError for another normalizer or pre-tokenizer than BERT's."""
    normalizer, pre_tokenizer = tokenizer.backend.normalizer, tokenizer.backend.pre_tokenizer
    if type(normalizer).__name__ != "BertNormalizer" or type(pre_tokenizer).__name__ != "BertPreTokenizer":
        raise UserError(
            "the tokenizer inside an export reproduces BertNormalizer and BertPreTokenizer; this tokenizer has "
            f"{type(normalizer).__name__} and {type(pre_tokenizer).__name__}"
        )


def special_tokens(tokenizer: Tokenizer) -> list[tuple[str, int]]:
    """Returns [(token, id)] of the tokens that are found in the raw text before anything else."""
    added: Mapping = tokenizer.backend.get_added_tokens_decoder()
    found = []
    for number, token in added.items():
        if token.normalized or token.lstrip or token.rstrip or token.single_word:
            options = ("normalized", "lstrip", "rstrip", "single_word")
            given = ", ".join(option for option in options if getattr(token, option))
            raise UserError(
                f"the tokenizer inside an export does not reproduce the added token {token.content!r}, which is {given}; add "
                "it as a special token (normalized=False) without these options"
            )
        found.append((token.content, number))
    for token, _ in found:
        for other, _ in found:
            overlaps = any(token.endswith(other[:width]) for width in range(1, len(other) + (token != other)))
            if overlaps or (token != other and other in token):
                raise UserError(f"special tokens {token!r} and {other!r} can overlap in a text; rename one of them")
    return found


def pieces(tokenizer: Tokenizer) -> list[str]:
    """Returns WordPiece's vocabulary by id, "" where an id has no piece.

    Raises:
      UserError: the tokenizer's model is not WordPiece.
    """
    model = tokenizer.backend.model
    if type(model).__name__ != "WordPiece" or model.max_input_chars_per_word != MAX_CHARACTERS_PER_WORD:
        raise UserError(
            f"the tokenizer inside an export reproduces WordPiece with words up to {MAX_CHARACTERS_PER_WORD} characters"
        )
    ids = tokenizer.backend.get_vocab(with_added_tokens=False)
    vocabulary = [""] * (max(ids.values()) + 1)
    for token, number in ids.items():
        vocabulary[number] = token
    return vocabulary
