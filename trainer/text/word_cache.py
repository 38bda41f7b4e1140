"""The ids of words, kept: most words of a corpus are seen again and again, and need no second tokenization."""

import array

import tokenizers

from trainer.features import ID_TYPE

MAX_WORDS, LONGEST_WORD_KEPT = 1 << 18, 32  # with their ids about 50 MB; longer "words" are texts without spaces


class IdsOfWords(dict):
    """{word: its ids, as the bytes of an array}; a word that is not there yet is tokenized, and kept unless it is very long.

    Args:
      backend: gives the ids.
      lowercase: whether it lower-cases, where WordPiece may do plain words; None: all go through the whole tokenizer.
    """

    def __init__(self, backend: tokenizers.Tokenizer, lowercase: bool | None):
        super().__init__()
        self._encode, self._pieces, self._lowercase = backend.encode, backend.model.tokenize, lowercase

    def __missing__(self, word: str) -> bytes:
        if self._lowercase is not None and word.isascii() and word.isalnum():
            # Only its case is normalized and nothing splits it: WordPiece is all there is to do, in a third of the time.
            ids = [piece.id for piece in self._pieces(word.lower() if self._lowercase else word)]
        else:
            ids = self._encode(word, add_special_tokens=False).ids
        content = array.array(ID_TYPE, ids).tobytes()
        if len(word) <= LONGEST_WORD_KEPT:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = content
        return content


def splits_at_spaces(backend: tokenizers.Tokenizer, added: list[str]) -> bool:
    """Returns whether a text's ids are those of its words between spaces, one after the other.

    So it is with BERT's normalizer, which maps character by character and reorders marks within a word at most, BERT's
    splitting at white space, and WordPiece, which knows no neighbours; unless an added token has white space in it.

    Args:
      added: all that added tokens are matched with.
    """
    is_berts = (
        isinstance(backend.normalizer, tokenizers.normalizers.BertNormalizer)
        and isinstance(backend.pre_tokenizer, tokenizers.pre_tokenizers.BertPreTokenizer)
        and isinstance(backend.model, tokenizers.models.WordPiece)
    )
    return is_berts and not any(character.isspace() for text in added for character in text)


def added_texts(backend: tokenizers.Tokenizer) -> list[str]:
    """Returns what the added tokens are matched with: as they are written, and normalized."""
    written = [token.content for token in backend.get_added_tokens_decoder().values()]
    return written + [backend.normalizer.normalize_str(text) for text in written if backend.normalizer]
