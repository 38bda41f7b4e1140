"""Sentence splitting, by the library that Wikimedia keeps for its translation tools: rules for over 200 languages."""

from collections.abc import Callable, Iterator

from trainer.errors import UserError, install_hint


def sentence_splitter(language: str) -> Callable[[str], Iterator[str]]:
    """Returns a function from a text to its sentences, stripped and not empty.

    Line breaks always end a sentence.

    Args:
      language: an ISO 639 code, "en"; one that the library has no rules for falls back to a related one, then to English.

    Raises:
      UserError: the library is not installed.
    """
    try:
        import sentencex
    except ImportError:
        raise UserError(
            f"task.split_sentences needs the package sentencex: {install_hint('pretraining')}; "
            "or write one sentence per line and set task.split_sentences=false"
        ) from None

    def split(text: str) -> Iterator[str]:
        for line in text.splitlines():
            if line.strip():
                for sentence in sentencex.segment(language, line):
                    if sentence.strip():
                        yield sentence.strip()

    return split
