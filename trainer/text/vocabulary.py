"""WordPiece vocabularies: trained on raw text, laid out as BERT's are, and judged on text they have not seen."""

import collections
import dataclasses
import string
from collections.abc import Callable, Iterable

import tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from trainer.errors import UserError
from trainer.text.tokenizer import SPECIAL_TOKENS, Tokenizer

SIZE_UNIT = 128  # a TPU's matrix unit takes so many columns at a time; vector units and GPU tiles divide it


def rounded_size(size: int) -> int:
    """Returns a vocabulary size that hardware divides evenly: the next multiple of SIZE_UNIT."""
    return -(-size // SIZE_UNIT) * SIZE_UNIT


def train_vocabulary(
    texts: Callable[[], Iterable[str]], size: int, lowercase: bool, unused: int = 99, min_frequency: int = 2
) -> list[str]:
    """Trains a WordPiece vocabulary; the same text gives the same vocabulary.

    Args:
      texts: gives raw text in pieces of any size; called twice.
      size: tokens, special and unused ones included; rounded up to a multiple of SIZE_UNIT.
      lowercase: whether the text is lower-cased and stripped of accents first, as in BERT's uncased models.
      unused: "[unused0]", ... slots, for tokens that are to be added later without making the embeddings larger.
      min_frequency: a piece that is seen less often is left out.

    Returns:
      The tokens in the order of their ids: [PAD], [UNK], [CLS], [SEP], [MASK], the unused ones, single characters (ASCII, and
      the most frequent others), then pieces as they were found. What the text is too small to fill is filled with further
      unused slots.
    """
    size = rounded_size(size)
    model = tokenizers.Tokenizer(WordPiece(unk_token=SPECIAL_TOKENS["unk"]))
    model.normalizer = BertNormalizer(lowercase=lowercase)
    model.pre_tokenizer = BertPreTokenizer()
    alphabet = _alphabet(texts(), model.normalizer, lowercase, size // 4, min_frequency)
    # The library numbers what it meets in the order of a hash table, another one in each run, and breaks ties between pieces
    # by these numbers. So all single characters are given their numbers here.
    inner = [f"##{character}" for character in alphabet if character.isalnum() and not _is_ideograph(character)]
    first = [*SPECIAL_TOKENS.values(), *(f"[unused{i}]" for i in range(unused)), *alphabet, *inner]
    if len(first) > size:
        raise UserError(
            f"--size={size:,} is too small: special tokens, {unused} unused slots and {len(alphabet) + len(inner)} single "
            f"characters are {len(first):,} already"
        )
    trainer = WordPieceTrainer(
        vocab_size=size,
        special_tokens=first,
        min_frequency=min_frequency,
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    model.train_from_iterator(texts(), trainer)
    numbered = model.get_vocab(with_added_tokens=True)
    tokens = sorted(numbered, key=numbered.__getitem__)[:size]
    return tokens + [f"[unused{i}]" for i in range(unused, unused + size - len(tokens))]


def _alphabet(texts: Iterable[str], normalizer: BertNormalizer, lowercase: bool, most: int, min_frequency: int) -> list[str]:
    """Returns all of ASCII and the most frequent other characters, in the order of their code points."""
    seen: collections.Counter = collections.Counter()
    for text in texts:
        seen.update(normalizer.normalize_str(text))
    letters = string.ascii_lowercase if lowercase else string.ascii_letters
    alphabet = set(string.digits + string.punctuation + letters)
    frequent = (c for c in seen if seen[c] >= min_frequency and c not in alphabet and not c.isspace())
    others = sorted(frequent, key=lambda c: (-seen[c], c))
    return sorted(alphabet | set(others[: max(most - len(alphabet), 0)]))


def _is_ideograph(character: str) -> bool:
    """Whether BERT makes this single character a word (google-research/bert's tokenization.py, `_is_chinese_char`)."""
    return 0x3400 <= ord(character) <= 0x9FFF or 0xF900 <= ord(character) <= 0xFAFF or 0x20000 <= ord(character) <= 0x2FA1F


def extended_vocabulary(base: list[str], trained: list[str], size: int) -> list[str]:
    """Returns a vocabulary with the base's tokens, ids unchanged, and further ones of a trained vocabulary.

    Args:
      base: an encoder's tokens, in the order of their ids.
      trained: of `train_vocabulary`, on the text that the encoder is to learn.
      size: tokens of the result, at most; rounded up to a multiple of SIZE_UNIT.
    """
    known = set(base)
    new = [token for token in trained if token not in known and not token.startswith("[")]
    new.sort(key=lambda token: len(token.removeprefix("##")) == 1)  # words first, as frequent as they were found
    return base + new[: max(rounded_size(size) - len(base), 0)]


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How a vocabulary does on a text.

    Attributes:
      words, tokens: of the text, split at white space and punctuation; its pieces.
      unknown_words: words that became [UNK].
      whole_words: words that are one token, not [UNK].
      unknown_characters: the characters that no unknown word does without, the most frequent first, with their number.
    """

    words: int
    tokens: int
    unknown_words: int
    whole_words: int
    unknown_characters: tuple[tuple[str, int], ...]

    def lines(self) -> list[str]:
        """Returns the figures for people."""
        words, tokens = max(self.words, 1), max(self.tokens, 1)
        lines = [
            f"{self.words:,} words, {self.tokens:,} tokens: {tokens / words:.2f} tokens a word",
            f"words that are one token: {self.whole_words / words:.1%}",
            f"[UNK]: {self.unknown_words / tokens:.3%} of the tokens, {self.unknown_words / words:.3%} of the words",
        ]
        if self.unknown_characters:
            shown = " ".join(f"{character} ({count})" for character, count in self.unknown_characters)
            lines.append(f"characters it does not know: {shown}")
        return lines


def coverage(tokenizer: Tokenizer, texts: Iterable[str], characters_shown: int = 10) -> Coverage:
    """Judges a tokenizer's vocabulary on texts."""
    words: collections.Counter = collections.Counter()
    for text in texts:
        normalized = tokenizer.backend.normalizer.normalize_str(text)
        words.update(word for word, _ in tokenizer.backend.pre_tokenizer.pre_tokenize_str(normalized))
    known = {token.removeprefix("##") for token in tokenizer.tokens() if len(token.removeprefix("##")) == 1}
    tokens = unknown = whole = 0
    strange: collections.Counter = collections.Counter()
    for word, count in words.items():
        ids = tokenizer.encode(word)
        tokens += count * len(ids)
        if tokenizer.unk_id in ids:
            unknown += count
            strange.update(dict.fromkeys(set(word) - known, count))
        elif len(ids) == 1:
            whole += count
    return Coverage(words.total(), tokens, unknown, whole, tuple(strange.most_common(characters_shown)))
