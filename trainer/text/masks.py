"""What may be masked, how, and masks that are drawn once, when data are prepared.

`data.masking` draws masks anew in each epoch, in the graph of the input pipeline; the masks here are for records that hold
them, as google-research/bert's do (`create_masked_lm_predictions`). Both follow one recipe.
"""

import dataclasses
import random
from collections.abc import Sequence

from trainer.text.tokenizer import Tokenizer

SPAN_LENGTHS = 0.2, 10  # of the geometric distribution, and the longest (Joshi et al. 2020, arXiv:1907.10529, section 3.1)


@dataclasses.dataclass(frozen=True)
class MaskingRecipe:
    """How tokens are masked.

    Attributes:
      unit: "token"; "whole_word": all pieces of a word or none; "ngram": up to max_ngram words, n with a probability in
        proportion to 1 / n (Lan et al. 2020, arXiv:1909.11942, section 4.1); "span": whole words, their number geometric,
        replaced alike (Joshi et al. 2020).
      masked_lm_prob: share of the tokens that are to be predicted.
      mask_token_prob, random_token_prob: of these, the share that becomes [MASK], and a random token; the rest stays.
      max_predictions: of an example, at most; 0 for no limit.
      max_ngram: of "ngram", the most words.
    """

    unit: str = "token"
    masked_lm_prob: float = 0.15
    mask_token_prob: float = 0.8
    random_token_prob: float = 0.1
    max_predictions: int = 0
    max_ngram: int = 3

    def word_count_probabilities(self) -> list[float]:
        """Returns the probability of 1, 2, ... words masked together."""
        if self.unit == "ngram":
            weights = [1 / n for n in range(1, self.max_ngram + 1)]
        elif self.unit == "span":
            rate, longest = SPAN_LENGTHS
            weights = [rate * (1 - rate) ** (n - 1) for n in range(1, longest + 1)]
        else:
            weights = [1.0]
        return [weight / sum(weights) for weight in weights]

    def predictions(self, length: int) -> int:
        """Returns how many tokens of an example of `length` are predicted: its rounded share, one at least."""
        wanted = max(round(length * self.masked_lm_prob), 1)
        return min(wanted, self.max_predictions) if self.max_predictions else wanted

    def most_predictions(self, row_length: int, examples: int) -> int:
        """Returns a bound on the masked tokens of a packed row."""
        return min(int(row_length * self.masked_lm_prob) + examples, row_length)


class MaskableTokens:
    """What a vocabulary says for masks.

    Args:
      tokenizer: the run's.

    Attributes:
      special: ids that are never masked, nor put in as random tokens.
      usable: ids that a random token may be: neither special nor "[unused...]".
      continues: for each id, whether it is a piece inside a word ("##...").
      mask_id: of [MASK].
    """

    def __init__(self, tokenizer: Tokenizer):
        tokens = tokenizer.tokens()
        self.special, self.mask_id = frozenset(tokenizer.special_ids()), tokenizer.mask_id
        self.usable = [i for i, token in enumerate(tokens) if i not in self.special and not token.startswith("[unused")]
        self.continues = [token.startswith("##") for token in tokens]


class StaticMasker:
    """Masks examples once and for all.

    Args:
      recipe: how.
      tokens: what a vocabulary says.
    """

    def __init__(self, recipe: MaskingRecipe, tokens: MaskableTokens):
        self._recipe, self._tokens = recipe, tokens
        self._counts = range(1, len(recipe.word_count_probabilities()) + 1)

    def __call__(
        self, ids: Sequence[int], draw: random.Random, continues: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """Masks one example.

        Args:
          ids: of the example, special tokens included.
          draw: all randomness.
          continues: 1 where a token belongs to the word of the one before it; None: where it begins with "##".

        Returns:
          (ids with masks, targets): of a token that is to be predicted its id plus one, of others 0.
        """
        masked, targets = list(ids), [0] * len(ids)
        wanted = self._recipe.predictions(len(ids))
        for span in self._spans(ids, draw, continues):
            if wanted <= 0:
                break
            if len(span) > wanted or any(targets[i] for i in span):
                continue
            wanted -= len(span)
            action = draw.random()
            for i in span:
                targets[i] = ids[i] + 1
                masked[i] = self._replacement(ids[i], action, draw)
                if self._recipe.unit != "span":
                    action = draw.random()
        return masked, targets

    def _spans(self, ids, draw, continues) -> list[list[int]]:
        """Returns the places of words (n-grams, spans) that may be masked together, in random order."""
        words: list[list[int]] = []
        is_new = True
        for i, number in enumerate(ids):
            if number in self._tokens.special:
                is_new = True
                continue
            inner = self._tokens.continues[number] if continues is None else continues[i]
            if words and not is_new and inner and self._recipe.unit != "token":
                words[-1].append(i)
            else:
                words.append([i])
            is_new = False
        if len(self._counts) > 1:
            counts = draw.choices(self._counts, self._recipe.word_count_probabilities(), k=len(words))
            words = [self._joined(words, first, count) for first, count in enumerate(counts)]
        draw.shuffle(words)
        return words

    @staticmethod
    def _joined(words, first, count):
        """Returns the places of `count` words from one on, as far as they stand next to each other."""
        places = list(words[first])
        for word in words[first + 1 : first + count]:
            if word[0] != places[-1] + 1:
                break
            places += word
        return places

    def _replacement(self, number: int, action: float, draw: random.Random) -> int:
        if action < self._recipe.mask_token_prob:
            return self._tokens.mask_id
        if action >= self._recipe.mask_token_prob + self._recipe.random_token_prob:
            return number
        while True:
            other = draw.choice(self._tokens.usable)
            if other != number:
                return other
