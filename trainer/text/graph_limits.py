"""What the tokenizer inside an export reproduces of a Hugging Face tokenizer; the rest is refused by name."""

import json
from collections.abc import Mapping, Sequence

from trainer.errors import UserError
from trainer.text.tokenizer import Tokenizer

MAX_CHARACTERS_PER_WORD = 100  # WordPiece's max_input_chars_per_word: a longer word is [UNK]


def problem_with(tokenizer: Tokenizer) -> str | None:
    """Returns why an export cannot hold this tokenizer, or None; known before the training, not after it."""
    try:
        special_tokens(tokenizer)
        if is_byte_pairs(tokenizer):
            byte_pair_model(tokenizer)
        else:
            check_character_steps(tokenizer)
            pieces(tokenizer)
    except UserError as error:
        return str(error)
    return None


def is_byte_pairs(tokenizer: Tokenizer) -> bool:
    """Returns whether the model is BPE, as RoBERTa's."""
    return type(tokenizer.backend.model).__name__ == "BPE"


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
    # Byte-level BPE has no normalizer, so that it is the same before and after; its mask takes the spaces before it.
    options = ("rstrip", "single_word") if is_byte_pairs(tokenizer) else ("normalized", "lstrip", "rstrip", "single_word")
    found = []
    for number, token in added.items():
        if any(getattr(token, option) for option in options):
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


def byte_pair_model(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Returns (the vocabulary, the merges in order) of a byte-level BPE.

    Raises:
      UserError: it does more than RoBERTa's, or its merges are not in the order in which they build on each other, so that it
        matters whether a word's equal pairs are merged one by one or all at once, as the graph does.
    """
    content = json.loads(tokenizer.json)
    model, step = content["model"], content["pre_tokenizer"] or {}
    given = {
        "normalizer": content["normalizer"],
        "pre_tokenizer": None if step.get("type") == "ByteLevel" else step.get("type"),
        "add_prefix_space": step.get("add_prefix_space", True),
        "use_regex": not step.get("use_regex", True),
        **{name: model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")},
        **{name: model.get(name) for name in ("byte_fallback", "ignore_merges")},
    }
    others = [name for name, value in given.items() if value]
    if others:
        raise UserError(
            "the tokenizer inside an export reproduces byte-level BPE as RoBERTa has it; this tokenizer differs in "
            f"{', '.join(others)}"
        )
    merges = [(a, b) for a, b in (one.split(" ") if isinstance(one, str) else one for one in model["merges"])]
    _check_order(merges)
    return model["vocab"], merges


def _check_order(merges: Sequence[tuple[str, str]]) -> None:
    last = {a + b: rank for rank, (a, b) in enumerate(merges)}
    for rank, (a, b) in enumerate(merges):
        if max(last.get(a, -1), last.get(b, -1)) >= rank:
            raise UserError(
                f"the tokenizer's merge {rank + 1}, {a!r} and {b!r}, comes before a merge that makes one of them; the "
                "tokenizer inside an export needs them in order"
            )
