"""The tokenizer of an encoder: Hugging Face's fast tokenizer, loaded, checked, saved, sent to workers.

An encoder's folder is read as transformers reads it: every file and key that decides ids counts. transformers' own fast class
combines them, and what it builds is taken over whole: BERT's WordPiece, RoBERTa's byte-level BPE, or SentencePiece's unigram
model as XLM-R, CamemBERT and ALBERT have it. What is none of them is refused by name.
"""

from __future__ import annotations

import array
import collections
import functools
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from typing import Any

import tokenizers

from trainer import files
from trainer.errors import UserError
from trainer.features import ID_TYPE
from trainer.text.word_cache import IdsOfWords, added_texts, splits_at_spaces

COMMON_MARKS = ",.()\"'-:;"  # ASCII punctuation: always a word of its own to BERT
VOCABULARY_FILES = ("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model")
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", *VOCABULARY_FILES)
# Classes of transformers that build the same tokenizer as BertTokenizerFast does.
BERT_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")
OTHER_CLASSES = ("RobertaTokenizer", "XLMRobertaTokenizer", "CamembertTokenizer", "AlbertTokenizer")
KNOWN_CLASSES = (*BERT_CLASSES, *OTHER_CLASSES, "PreTrainedTokenizer")
CLASS_OF_ENCODER = {
    # Where no file names the tokenizer's class: config.json's model_type → the class
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "albert": "AlbertTokenizer",
}
MODELS = ("WordPiece", "BPE", "Unigram")
SPACE_SIGNS = "Ġ▁"  # what begins a token that has the space before it: byte-level BPE's sign, SentencePiece's
SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


class Tokenizer:
    """Hugging Face's fast tokenizer, held as its JSON so that worker processes need nothing else.

    Args:
      tokenizer_json: the `tokenizer.json` text.
      special_tokens: {"pad", "unk", "cls", "sep", "mask": the token}, where they have other names than BERT's usual ones.

    Attributes:
      json: the `tokenizer.json` text; padding and truncation switched off (they are the pipeline's work).
      special_tokens: as given.
      pad_id, unk_id, cls_id, sep_id, mask_id: the special tokens' ids.
    """

    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    def __init__(self, tokenizer_json: str, special_tokens: Mapping[str, str] | None = None):
        self.special_tokens = dict(special_tokens or SPECIAL_TOKENS)
        self.backend = tokenizers.Tokenizer.from_str(tokenizer_json)
        self.backend.no_padding()
        self.backend.no_truncation()
        self.json = self.backend.to_str()
        for name, token in self.special_tokens.items():
            number = self.backend.token_to_id(token)
            if number is None:
                raise UserError(f"the tokenizer's vocabulary lacks {token}, which BERT needs; is it a BERT vocabulary?")
            setattr(self, f"{name}_id", number)
        added = added_texts(self.backend)
        self._is_by_words = splits_at_spaces(self.backend, added)
        is_plain = self._is_by_words and not any(text.isalnum() for text in added)  # such a one could match inside a word
        self._ids_of = IdsOfWords(self.backend, self.lowercase if is_plain else None)
        self._set_apart = [mark for mark in COMMON_MARKS if mark not in "".join(added)]

    def __reduce__(self):
        return Tokenizer, (self.json, self.special_tokens)

    @functools.cached_property
    def separators(self) -> list[int]:
        """The ids between the two texts of a pair: [SEP] once, as BERT has it, or twice, as RoBERTa."""
        between = self.backend.encode("a", "a").ids.count(self.sep_id) - 1
        return [self.sep_id] * max(between, 1)

    @property
    def piece_prefix(self) -> str:
        """What a token begins with that goes on with a word, "##" for WordPiece; "" where tokens do not say so."""
        return getattr(self.backend.model, "continuing_subword_prefix", None) or ""

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, added tokens included: the highest one and one more."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def tokens(self) -> list[str]:
        """Returns the tokens in the order of their ids; "" for an id without one, as a repeated line of vocab.txt leaves it."""
        tokens = [""] * self.vocabulary_size
        for token, number in self.backend.get_vocab(with_added_tokens=True).items():
            tokens[number] = token
        return tokens

    def with_tokens(self, tokens: list[str]) -> Tokenizer:
        """Returns this tokenizer with a longer WordPiece vocabulary, which begins with its own tokens."""
        content = json.loads(self.json)
        content["model"]["vocab"] = {token: number for number, token in enumerate(tokens)}
        return Tokenizer(json.dumps(content), self.special_tokens)

    def with_lowercase(self, lowercase: bool) -> Tokenizer:
        """Returns this tokenizer with or without lower-casing; nothing else changes.

        Raises:
          UserError: its normalizer is not BERT's.
        """
        content = json.loads(self.json)
        normalizer = content["normalizer"] or {}
        if normalizer.get("type") != "BertNormalizer":
            raise UserError(f"encoder.lowercase: this tokenizer's normalizer is {normalizer.get('type')}, not BertNormalizer")
        normalizer["lowercase"] = lowercase
        return Tokenizer(json.dumps(content), self.special_tokens)

    def special_ids(self) -> set[int]:
        """Returns the ids of [PAD], [UNK], [CLS], [SEP] and [MASK]."""
        return {getattr(self, f"{name}_id") for name in SPECIAL_TOKENS}

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that decides the ids."""
        named = self.special_tokens != SPECIAL_TOKENS
        told = self.json + (json.dumps(self.special_tokens) if named else "")
        return hashlib.sha256(told.encode()).hexdigest()

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

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the ids of a text without [CLS] and [SEP], and where each begins and ends in it: text[start:end].

        >>> tokenizer.encode_with_offsets("Unaffable!")  # doctest: +SKIP
        ([14477, 20961, 3468, 999], [(0, 3), (3, 6), (6, 9), (9, 10)])
        """
        encoding = self.backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

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
        from transformers import BertTokenizerFast, PreTrainedTokenizerFast

        named = {f"{name}_token": token for name, token in self.special_tokens.items()}
        backend = tokenizers.Tokenizer.from_str(self.json)
        if isinstance(backend.normalizer, tokenizers.normalizers.BertNormalizer):
            # transformers would set all three to its own defaults.
            named |= {
                "do_lower_case": backend.normalizer.lowercase,
                "strip_accents": backend.normalizer.strip_accents,
                "tokenize_chinese_chars": backend.normalizer.handle_chinese_chars,
            }
            hugging_face = BertTokenizerFast(tokenizer_object=backend, **named)
        else:
            hugging_face = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
        with tempfile.TemporaryDirectory() as local:
            hugging_face.save_pretrained(local)
            files.make_dirs(folder)
            for name in files.list_dir(local):
                files.copy(files.join(local, name), files.join(folder, name))


def from_vocabulary(vocabulary: list[str], lowercase: bool | None = None) -> Tokenizer:
    """Builds the tokenizer of a list of WordPiece tokens, in id order: what transformers' BertTokenizerFast would build.

    Raises:
      UserError: a token is listed twice, or one that BERT needs is missing.
    """
    lowercase = guessed_lowercase(vocabulary) if lowercase is None else lowercase
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


def load_tokenizer(folder: str, lowercase: bool | None = None) -> Tokenizer:
    """Loads the tokenizer of an encoder's folder: Hugging Face files, or a bare `vocab.txt` as Google's checkpoints have.

    Args:
      folder: local or remote folder.
      lowercase: overrides what the files say: only the normalizer inside the tokenizer changes. None keeps it; for a bare
        `vocab.txt`, None means: lower-case unless the vocabulary has capital letters.

    Raises:
      UserError: no tokenizer in the folder, a damaged file, or a tokenizer of another kind than BERT's WordPiece.
    """
    names = files.list_dir(folder)
    if not {"tokenizer.json", *VOCABULARY_FILES} & set(names):
        raise UserError(f"{folder}: no tokenizer.json or vocab.txt there; found {', '.join(names[:8]) or 'nothing'}")
    stated = _json_in(folder, names, "tokenizer_config.json")
    config = _json_in(folder, names, "config.json")
    kind = _checked_kind(folder, stated, _json_in(folder, names, "tokenizer.json"), config)
    for name in ("special_tokens_map.json", "added_tokens.json"):
        _json_in(folder, names, name)
    with tempfile.TemporaryDirectory() as local:
        for name in (name for name in FILES if name in names):
            files.copy(files.join(folder, name), files.join(local, name))
        if "vocab.txt" in names:
            vocabulary = files.read_text(files.join(folder, "vocab.txt"))  # names the file where it is no UTF-8
            files.write_text(files.join(local, "vocab.txt"), vocabulary)  # without a byte-order mark, as editors add it
            if stated is None and "tokenizer.json" not in names:
                lowercase = guessed_lowercase(lines_of(vocabulary)) if lowercase is None else lowercase
        tokenizer = _from_transformers(local, folder, stated, kind)
    return tokenizer if lowercase is None else tokenizer.with_lowercase(lowercase)


def load_vocabulary(path: str, lowercase: bool | None = None) -> Tokenizer:
    """Loads the tokenizer of a vocabulary file, read as a folder's `vocab.txt`."""
    with tempfile.TemporaryDirectory() as local:
        vocabulary = files.read_text(path)
        files.write_text(files.join(local, "vocab.txt"), vocabulary)
        _check_vocabulary(path, lines_of(vocabulary))
        return load_tokenizer(local, lowercase)


def load_saved_tokenizer(folder: str) -> Tokenizer:
    """Loads the tokenizer that a run saved: its tokenizer.json says everything."""
    stored = files.read_json_object(files.join(folder, "tokenizer_config.json"))
    special_tokens = {name: _content(stored.get(f"{name}_token", default)) for name, default in SPECIAL_TOKENS.items()}
    return Tokenizer(files.read_text(files.join(folder, "tokenizer.json")), special_tokens)


def lines_of(vocabulary: str) -> list[str]:
    """Returns the lines of a vocabulary, a token each, as Python's text files end them.

    Not `str.splitlines`: it also cuts at U+2028, which is a token of bert-base-chinese.
    """
    lines = re.split("\r\n|\r|\n", vocabulary)
    return lines[:-1] if lines[-1] == "" else lines


def guessed_lowercase(tokens: list[str]) -> bool:
    """Returns whether a vocabulary is of lower-cased text: it has no word with a capital letter at its start."""
    return not any(token[0].isupper() and token[1:].islower() for token in tokens if len(token) > 2)


def _json_in(folder: str, names: list[str], name: str) -> dict[str, Any] | None:
    return files.read_json_object(files.join(folder, name)) if name in names else None


def _checked_kind(folder: str, stated: dict | None, content: dict | None, config: dict | None) -> str:
    """Returns the class of a folder's tokenizer, as "BertTokenizer"; raises UserError for one that is not supported."""
    name = (stated or {}).get("tokenizer_class") or (config or {}).get("tokenizer_class")
    if name and name.removesuffix("Fast") not in KNOWN_CLASSES:
        raise UserError(
            f"{folder}: the tokenizer is a {name}, which is not supported; supported are {', '.join(KNOWN_CLASSES)}, each also "
            "as ...Fast"
        )
    for key, usual in (("word_tokenizer_type", "basic"), ("subword_tokenizer_type", "wordpiece")):
        value = (stated or {}).get(key, usual)
        if value != usual:
            raise UserError(f"{folder}: tokenizer_config.json asks for {key} {value!r}; supported is {usual!r}")
    kind = ((content or {}).get("model") or {}).get("type", "WordPiece")
    if kind not in MODELS:
        raise UserError(f"{folder}: tokenizer.json holds a {kind} model; supported are {', '.join(MODELS)}")
    usual_class = CLASS_OF_ENCODER.get(str((config or {}).get("model_type")), "BertTokenizer")
    found = (name or usual_class).removesuffix("Fast")
    if kind != "WordPiece" and found in BERT_CLASSES:
        raise UserError(f"{folder}: tokenizer.json holds a {kind} model, which is none of a {found}; which class is it of?")
    return found


def _check_vocabulary(path: str, tokens: list[str]) -> None:
    missing = [token for token in SPECIAL_TOKENS.values() if token not in tokens]
    if missing:
        raise UserError(f"{path}: the vocabulary lacks {missing[0]}, which BERT needs; is it a BERT vocabulary?")


def _from_transformers(local: str, folder: str, stated: dict | None, kind: str) -> Tokenizer:
    import transformers

    loader = getattr(transformers, f"{kind if kind in (*OTHER_CLASSES, 'PreTrainedTokenizer') else 'BertTokenizer'}Fast")
    if "tokenizer.json" not in files.list_dir(local) and kind in BERT_CLASSES:
        _check_vocabulary_of_folder(local, folder, stated)
    try:
        loaded = loader.from_pretrained(local)
    except Exception as error:  # transformers and the Rust library raise a dozen kinds; all mean: these files do not work
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: transformers cannot load the tokenizer's files: {reason}") from None
    special_tokens = {name: getattr(loaded, f"{name}_token") or usual for name, usual in SPECIAL_TOKENS.items()}
    return Tokenizer(loaded.backend_tokenizer.to_str(), special_tokens)


def _check_vocabulary_of_folder(local: str, folder: str, stated: dict | None) -> None:
    """Checks a vocab.txt by itself: transformers would add special tokens that it lacks, with ids that no encoder has."""
    names, stated = files.list_dir(local), stated or {}
    added = _json_in(local, names, "added_tokens.json") or {}
    decoder = stated.get("added_tokens_decoder") or {}
    mapped = {} if decoder else _json_in(local, names, "special_tokens_map.json") or {}  # as transformers: one of the two
    given = {name: token for name, token in {**stated, **mapped}.items() if token is not None}
    special = [_content(given.get(f"{name}_token", usual)) for name, usual in SPECIAL_TOKENS.items()]
    tokens = {*lines_of(files.read_text(files.join(local, "vocab.txt"))), *added, *map(_content, decoder.values())}
    missing = [token for token in special if token not in tokens]
    if missing:
        raise UserError(f"{folder}: vocab.txt lacks {missing[0]}, which BERT needs; is it a BERT vocabulary?")


def _content(token: Any) -> str:
    """Returns a token that is stored as text, or as an object with its text in "content"."""
    return token["content"] if isinstance(token, dict) else str(token)
