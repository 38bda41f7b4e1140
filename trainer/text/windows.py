"""Windows over texts that are longer than an example may be: each token counts in the window that shows most around it."""

from typing import NamedTuple


class TokenWindow(NamedTuple):
    """One window over a text's tokens.

    Attributes:
      start, end: its first token and the one after its last.
      own_start, own_end: the tokens that count here; in its neighbours they are context only.
    """

    start: int
    end: int
    own_start: int
    own_end: int


def token_windows(length: int, size: int, stride: int) -> list[TokenWindow]:
    """Returns the windows of a text, one at least; every token is one window's own.

    Where two windows overlap, the first half of the overlap is the earlier one's.

    Args:
      length: tokens of the text.
      size: the most tokens of a window.
      stride: between the starts of two windows; from 1 to size.

    >>> token_windows(10, 6, 4)
    [TokenWindow(start=0, end=6, own_start=0, own_end=5), TokenWindow(start=4, end=10, own_start=5, own_end=10)]
    """
    count = 1 + max(-(-(length - size) // stride), 0)
    half = (size - stride) // 2
    cuts = [0, *(number * stride + half for number in range(1, count)), length]
    starts = [number * stride for number in range(count)]
    return [
        TokenWindow(start, min(start + size, length), own_start, own_end)
        for start, own_start, own_end in zip(starts, cuts, cuts[1:], strict=False)
    ]
