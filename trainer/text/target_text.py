"""Text as it is generated: WordPiece ids that tell where a space is, and back; the same in a graph.

BERT's tokenizer forgets spaces: "t-shirt" and "t - shirt" have the same ids. A target has to be written again, so what follows
without a space is a continuation here, as "##-" and "##shirt", which BERT's vocabularies have for marks as for parts of words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.errors import UserError
from trainer.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorflow as tf

# Characters beside which there is no space: Chinese, its marks, and full-width forms. Python's and RE2's syntax alike.
_CJK = "[\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0002fa1f]"
_BESIDE_CJK = (f"({_CJK}) ", f" ({_CJK})")


class TargetText:
    """Turns texts into the ids of targets, and ids into texts.

    Args:
      tokenizer: of a WordPiece vocabulary.

    Raises:
      UserError: a tokenizer of another kind.
    """

    def __init__(self, tokenizer: Tokenizer):
        kind = json.loads(tokenizer.json)["model"]["type"]
        if kind != "WordPiece":
            raise UserError(f"encoder.init_from: generation writes text by WordPiece ids, and this tokenizer is {kind}")
        self._tokenizer = tokenizer
        self._tokens = tokenizer.tokens()
        self._numbers = {token: number for number, token in enumerate(self._tokens)}
        self._unwanted = tokenizer.special_ids() - {tokenizer.unk_id}
        self._pieces = [self._piece(number, token) for number, token in enumerate(self._tokens)]

    def _piece(self, number: int, token: str) -> str:
        """Returns what an id adds to a text."""
        if number in self._unwanted:
            return ""
        return token[2:] if token.startswith("##") else f" {token}"

    def ids(self, text: str) -> list[int]:
        """Returns the ids of a text, without special ones."""
        ids, offsets = self._tokenizer.encode_with_offsets(text)
        found: list[int] = []
        end = None
        for number, (start, stop) in zip(ids, offsets, strict=True):
            if number in self._unwanted:
                continue
            token = self._tokens[number]
            is_glued = start == end and not token.startswith("##") and not _is_cjk(text[start - 1 : start + 1])
            found += self._continued(token, number) if is_glued else [number]
            end = stop
        return found

    def _continued(self, token: str, number: int) -> list[int]:
        """Returns the ids of a word that follows another without a space; its own where the vocabulary has no others."""
        found: list[int] = []
        while token:
            piece = next((token[:size] for size in range(len(token), 0, -1) if f"##{token[:size]}" in self._numbers), None)
            if piece is None:
                return [number]
            found.append(self._numbers[f"##{piece}"])
            token = token[len(piece) :]
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Returns the text of ids; special ones add nothing."""
        text = "".join(self._pieces[number] for number in ids).strip(" ")
        for pattern in _BESIDE_CJK:
            text = re.sub(pattern, r"\1", text)
        return text

    def text_in_graph(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the texts of ids: int32 [..., tokens] to string [...]."""
        import tensorflow as tf

        pieces = tf.gather(tf.constant(self._pieces), ids)
        text = tf.strings.regex_replace(tf.strings.reduce_join(pieces, axis=-1), "^ +| +$", "")
        for pattern in _BESIDE_CJK:
            text = tf.strings.regex_replace(text, pattern, r"\1")
        return text


def _is_cjk(characters: str) -> bool:
    return re.search(_CJK, characters) is not None
