"""[CLS] text [SEP], [CLS] first [SEP] second [SEP]: BERT's input sequences, and how long pairs are cut."""

from collections.abc import Sequence

from trainer.text.tokenizer import Tokenizer


def single_sequence(ids: Sequence[int], tokenizer: Tokenizer, max_seq_length: int) -> list[int]:
    """Returns [CLS] ids [SEP], cut at the end to max_seq_length."""
    return [tokenizer.cls_id, *ids[: max_seq_length - 2], tokenizer.sep_id]


def pair_sequence(
    first: Sequence[int], second: Sequence[int], tokenizer: Tokenizer, max_seq_length: int
) -> tuple[list[int], list[int]]:
    """Returns (input_ids, token_type_ids) of [CLS] first [SEP] second [SEP], the longer text cut first.

    Where the tokenizer separates texts by two [SEP], as RoBERTa's, there are two.
    """
    between = tokenizer.separators
    first_length, second_length = pair_lengths(len(first), len(second), max_seq_length - 2 - len(between))
    ids = [tokenizer.cls_id, *first[:first_length], *between, *second[:second_length], tokenizer.sep_id]
    return ids, [0] * (first_length + 1 + len(between)) + [1] * (second_length + 1)


def pair_lengths(first: int, second: int, budget: int) -> tuple[int, int]:
    """Returns how many tokens of each text stay when both may have `budget` together.

    The rule of Hugging Face's `longest_first` (tokenizers, `truncate_encodings`): the longer text gives way until both
    are equal, then both share, the odd token going to the longer one (the second, when they are equal).

    >>> pair_lengths(10, 3, 8), pair_lengths(10, 9, 7), pair_lengths(2, 3, 9)
    ((5, 3), (4, 3), (2, 3))
    """
    if first + second <= budget:
        return first, second
    short = min(first, second)
    long = max(short, budget - short)
    if short + long > budget:
        short, long = budget // 2, budget // 2 + budget % 2
    return (long, short) if first > second else (short, long)
