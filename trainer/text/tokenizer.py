"""The WordPiece tokenizer of a BERT encoder: Hugging Face's fast tokenizer, loaded, checked, saved, sent to workers."""

import functools
import hashlib
import json
import os
import tempfile

import tokenizers

from trainer import files
from trainer.errors import UserError

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

    def __reduce__(self):
        return Tokenizer, (self.json,)

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that decides the ids."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    @property
    def lowercase(self) -> bool:
        """Whether text is lower-cased."""
        return bool((json.loads(self.json)["normalizer"] or {}).get("lowercase", False))

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text without [CLS] and [SEP].

        >>> tokenizer.encode("Unaffable!")  # doctest: +SKIP
        [14477, 20961, 3468, 999]
        """
        return self.backend.encode(text, add_special_tokens=False).ids

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
    """Builds a tokenizer from a list of WordPiece tokens, in id order, through transformers' own BertTokenizerFast."""
    from transformers import BertTokenizerFast

    if lowercase is None:
        lowercase = not any(token[0].isupper() and token[1:].islower() for token in vocabulary if len(token) > 2)
    with tempfile.TemporaryDirectory() as local:
        path = os.path.join(local, "vocab.txt")
        with open(path, "w", encoding="utf8") as file:
            file.write("\n".join(vocabulary) + "\n")
        hugging_face = BertTokenizerFast(vocab_file=path, do_lower_case=lowercase)
    return Tokenizer(hugging_face.backend_tokenizer.to_str())
