"""The WordPiece tokenizer of a BERT encoder: Hugging Face's fast tokenizer, loaded, checked, saved, sent to workers."""

from __future__ import annotations

import array
import collections
import functools
import hashlib
import json
import tempfile

import tokenizers

from trainer import files
from trainer.errors import UserError
from trainer.features import ID_TYPE

COMMON_MARKS = ",.()\"'-:;"  # ASCII punctuation: always a word of its own to BERT
MAX_WORDS, LONGEST_WORD_KEPT = 1 << 18, 32  # with their ids about 50 MB; longer "words" are texts without spaces
SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


class Tokenizer:
    """Hugging Face's fast BERT tokenizer, held as its JSON so that worker processes need nothing else.

    Attributes:
      json: the `tokenizer.json` text; padding and truncation switched off (they are the pipeline's work).
      pad_id, unk_id, cls_id, sep_id, mask_id: the special tokens' ids.
    """

    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    def __init__(self, tokenizer_json: str):
        self.backend = tokenizers.Tokenizer.from_str(tokenizer_json)
        self.backend.no_padding()
        self.backend.no_truncation()
        self.json = self.backend.to_str()
        for name, token in SPECIAL_TOKENS.items():
            number = self.backend.token_to_id(token)
            if number is None:
                raise UserError(f"the tokenizer's vocabulary lacks {token}, which BERT needs; is it a BERT vocabulary?")
            setattr(self, f"{name}_id", number)
        added = _added_texts(self.backend)
        self._is_by_words = _splits_at_spaces(self.backend, added)
        is_plain = self._is_by_words and not any(text.isalnum() for text in added)  # such a one could match inside a word
        self._ids_of = _IdsOfWords(self.backend, self.lowercase if is_plain else None)
        self._set_apart = [mark for mark in COMMON_MARKS if mark not in "".join(added)]

    def __reduce__(self):
        return Tokenizer, (self.json,)

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def tokens(self) -> list[str]:
        """Returns the tokens in the order of their ids."""
        numbered = self.backend.get_vocab(with_added_tokens=True)
        return sorted(numbered, key=numbered.__getitem__)

    def with_tokens(self, tokens: list[str]) -> Tokenizer:
        """Returns this tokenizer with a longer WordPiece vocabulary, which begins with its own tokens."""
        content = json.loads(self.json)
        content["model"]["vocab"] = {token: number for number, token in enumerate(tokens)}
        return Tokenizer(json.dumps(content))

    def special_ids(self) -> set[int]:
        """Returns the ids of [PAD], [UNK], [CLS], [SEP] and [MASK]."""
        return {getattr(self, f"{name}_id") for name in SPECIAL_TOKENS}

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that decides the ids."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    @property
    def lowercase(self) -> bool:
        """Whether text is lower-cased."""
        return bool((json.loads(self.json)["normalizer"] or {}).get("lowercase", False))

    def encode(self, text: str, most: int | None = None) -> list[int]:
        """Returns the ids of a text without [CLS] and [SEP].

        Args:
          text: any.
          most: ids beyond this many are not needed; the rest of the text is then not tokenized.

        >>> tokenizer.encode("Unaffable!")  # doctest: +SKIP
        [14477, 20961, 3468, 999]
        """
        return self.encode_compactly(text, most).tolist()

    def encode_compactly(self, text: str, most: int | None = None) -> array.array[int]:
        """Returns what `encode` does as an array of four bytes an id: little to hold, quick to cut and to join."""
        if not self._is_by_words:
            return array.array(ID_TYPE, self.backend.encode(text, add_special_tokens=False).ids[:most])
        words, rest = self._words(text, most)
        ids = array.array(ID_TYPE, b"".join(map(self._ids_of.__getitem__, words)))
        if most is not None and rest and len(ids) < most:
            return self.encode_compactly(text)[:most]  # a word of nothing but control characters gives no id
        return ids[:most]

    def _words(self, text: str, most: int | None) -> tuple[list[str], str]:
        """Returns the first `most` words of a text, and the rest of it."""
        for mark in self._set_apart:  # "word," and "word" are then one word to learn
            if mark in text:
                text = text.replace(mark, f" {mark} ")
        if most is None:
            return text.split(" "), ""
        words = text.split(" ", most + text.count("  "))
        return (words[:-1], words[-1]) if len(words) > most else (words, "")

    def save(self, folder: str) -> None:
        """Writes the Hugging Face tokenizer files (tokenizer.json, vocab.txt, ...) into a folder, local or remote."""
        from transformers import BertTokenizerFast

        names = {f"{name}_token": token for name, token in SPECIAL_TOKENS.items()}
        hugging_face = BertTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer.from_str(self.json), do_lower_case=self.lowercase, **names
        )
        with tempfile.TemporaryDirectory() as local:
            hugging_face.save_pretrained(local)
            files.make_dirs(folder)
            for name in files.list_dir(local):
                files.copy(files.join(local, name), files.join(folder, name))


class _IdsOfWords(dict):
    """{word: its ids, as the bytes of an array}; a word that is not there yet is tokenized, and kept unless it is very long.

    Args:
      backend: gives the ids.
      lowercase: whether it lower-cases, where WordPiece alone may do plain words; None: all go through the whole tokenizer.
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


def _splits_at_spaces(backend: tokenizers.Tokenizer, added: list[str]) -> bool:
    """Whether a text's ids are those of its words between spaces, one after the other.

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


def _added_texts(backend: tokenizers.Tokenizer) -> list[str]:
    """Returns what the added tokens are matched with: as they are written, and normalized."""
    written = [token.content for token in backend.get_added_tokens_decoder().values()]
    return written + [backend.normalizer.normalize_str(text) for text in written if backend.normalizer]


def load_tokenizer(folder: str, lowercase: bool | None = None) -> Tokenizer:
    """Loads the tokenizer of an encoder's folder: Hugging Face files, or a bare `vocab.txt` as Google's checkpoints have.

    Args:
      folder: local or remote folder.
      lowercase: overrides what the files say; None keeps it. For a bare `vocab.txt`, None means: lower-case
        unless the vocabulary has capital letters.

    Raises:
      UserError: no tokenizer in the folder, or one without BERT's special tokens.
    """
    names = files.list_dir(folder)
    if lowercase is None and "tokenizer.json" in names:
        return Tokenizer(files.read_text(files.join(folder, "tokenizer.json")))
    if "vocab.txt" not in names:
        raise UserError(f"{folder}: no tokenizer.json or vocab.txt there; found {', '.join(names[:8]) or 'nothing'}")
    if lowercase is None:
        lowercase = _stated_lowercase(folder, names)
    vocabulary = files.read_text(files.join(folder, "vocab.txt"))
    return from_vocabulary(vocabulary.rstrip("\n").split("\n"), lowercase)


def _stated_lowercase(folder: str, names: list[str]) -> bool | None:
    if "tokenizer_config.json" in names:
        return files.read_json(files.join(folder, "tokenizer_config.json")).get("do_lower_case")
    return None


def from_vocabulary(vocabulary: list[str], lowercase: bool | None = None) -> Tokenizer:
    """Builds the tokenizer of a list of WordPiece tokens, in id order: what transformers' BertTokenizerFast would build.

    Raises:
      UserError: a token stands there twice, or one that BERT needs is missing.
    """
    if lowercase is None:
        lowercase = not any(token[0].isupper() and token[1:].islower() for token in vocabulary if len(token) > 2)
    numbered = {token: number for number, token in enumerate(vocabulary)}
    if len(numbered) < len(vocabulary):
        token, count = collections.Counter(vocabulary).most_common(1)[0]
        raise UserError(
            f"the vocabulary has {token!r} {count} times, first as id {vocabulary.index(token)}; a token has one id"
        )
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(numbered, unk_token=SPECIAL_TOKENS["unk"]))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    special = [token for token in vocabulary if token in SPECIAL_TOKENS.values()]
    backend.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True) for token in special])
    ends = [
        (SPECIAL_TOKENS[name], numbered[SPECIAL_TOKENS[name]]) for name in ("cls", "sep") if SPECIAL_TOKENS[name] in numbered
    ]
    if len(ends) == 2:  # a vocabulary without them is refused below, with a message
        cls, sep = (f"{token}:0" for token, _ in ends)
        pair = f"{cls} $A:0 {sep} $B:1 {SPECIAL_TOKENS['sep']}:1"
        backend.post_processor = tokenizers.processors.TemplateProcessing(f"{cls} $A:0 {sep}", pair, ends)
    return Tokenizer(backend.to_str())
