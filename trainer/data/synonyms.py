"""A table of words that may stand for others, for the augmentation of training texts; read from a file of the user's."""

from collections.abc import Mapping, Sequence

from trainer import files
from trainer.errors import UserError
from trainer.text.tokenizer import SPACE_SIGNS, Tokenizer

Words = Mapping[str, Sequence[str]]


def read_synonyms(path: str) -> Words:
    """Reads {word: those that may stand for it}.

    A line is a word and, each after a tab, those that may stand for it, as exported from a thesaurus. Empty lines and those
    that begin with "#" say nothing. A word may have several lines.

    Raises:
      UserError: no such file, a line with one word only, or no line with words.
    """
    if not files.exists(path):
        raise UserError(f"data.augment_synonyms: no file {path}")
    found: dict[str, list[str]] = {}
    with files.open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            word, *others = (part.strip() for part in line.split("\t"))
            others = [other for other in others if other and other != word]
            if not word or not others:
                raise UserError(
                    f"data.augment_synonyms: {path}:{number}: a word and at least one other are needed, with tabs between"
                )
            found.setdefault(word, []).extend(others)
    if not found:
        raise UserError(f"data.augment_synonyms: {path}: no line with words")
    return found


def inner_tokens(tokenizer: Tokenizer) -> list[bool]:
    """Returns for each id whether its token goes on with a word: "##ing"; "ing" where words begin with a sign for the space."""
    tokens = tokenizer.tokens()
    if tokenizer.piece_prefix:
        return [token.startswith(tokenizer.piece_prefix) for token in tokens]
    return [token[:1].isalnum() and token[0] not in SPACE_SIGNS for token in tokens]  # Python takes BPE's sign for a letter


def synonym_ids(words: Words, tokenizer: Tokenizer) -> dict[int, list[int]]:
    """Returns the table for token ids: of the words that are one token each, as common ones are.

    A tokenizer that has the space before a word in its tokens gives the words as they are inside of a text.

    Raises:
      UserError: no pair of words is one token each.
    """
    inside = "a {}"  # a word's tokens behind a space
    lead = len(tokenizer.encode(inside.format("").strip()))

    def token_of(word: str) -> int | None:
        ids = tokenizer.encode(inside.format(word))[lead:]
        return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unk_id else None

    found: dict[int, list[int]] = {}
    for word, others in words.items():
        token, alternatives = token_of(word), [token_of(other) for other in others]
        usable = [other for other in alternatives if other is not None and other != token]
        if token is not None and usable:
            found.setdefault(token, []).extend(usable)
    if not found:
        raise UserError(
            "data.augment_synonyms: no word of the table has one that may stand for it where both are one token of this "
            "encoder; only these are replaced"
        )
    return {token: sorted(set(others)) for token, others in found.items()}
