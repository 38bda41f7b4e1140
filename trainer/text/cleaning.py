"""What classic text pipelines do before anything else: mark-up and addresses out, stop words out, words to their stems.

BERT needs none of it and mostly learns less from what is left; it is here for texts full of mark-up, and to be compared with.
"""

import functools
import html
import html.parser
import re
from collections.abc import Callable, Sequence
from typing import Literal

from trainer.errors import UserError, install_hint, suggestion

CleaningStep = Literal["html", "urls", "emails", "stop_words", "stem"]
ORDER: Sequence[CleaningStep] = ("html", "urls", "emails", "stop_words", "stem")
URL = re.compile(r"(?:https?://|www\.)\S*[^\s.,;:!?)\]}'\"]", re.IGNORECASE)
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
UNREAD = ("script", "style")  # elements whose content is no text
BREAKS = ("br", "p", "div", "li", "tr", "td", "th", "h1", "h2", "h3", "h4", "h5", "h6")  # two words, not one, around them


class _Text(html.parser.HTMLParser):
    """Gathers the text of a piece of HTML."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unread = 0

    def handle_starttag(self, tag, attrs):
        self._unread += tag in UNREAD
        self.parts += [" "] if tag in BREAKS else []

    def handle_endtag(self, tag):
        self._unread -= tag in UNREAD and self._unread > 0
        self.parts += [" "] if tag in BREAKS else []

    def handle_data(self, data):
        self.parts += [] if self._unread else [data]


def cleaner(steps: Sequence[CleaningStep], language: str) -> Callable[[str], str]:
    """Returns what cleans a text: the steps in the order of ORDER, whatever order they are given in; spaces are joined.

    Args:
      steps: of ORDER.
      language: of stop words and stems, as english.

    Raises:
      UserError: a package is missing, or has no such language.

    >>> cleaner(["html", "urls"], "english")("<p>See <b>this</b> &amp; that:</p> https://example.org/a?b=1.")
    'See this & that: .'
    """
    makers: dict[CleaningStep, Callable[[], Callable[[str], str]]] = {
        "html": lambda: _without_html,
        "urls": lambda: functools.partial(URL.sub, " "),
        "emails": lambda: functools.partial(EMAIL.sub, " "),
        "stop_words": lambda: _without(_stop_words(language)),
        "stem": lambda: _stemmed(_stemmer(language)),
    }
    chosen = [makers[step]() for step in ORDER if step in steps]

    def clean(text: str) -> str:
        for step in chosen:
            text = step(text)
        return " ".join(text.split())

    return clean


def _without_html(text: str) -> str:
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


def _without(words: frozenset[str]) -> Callable[[str], str]:
    return lambda text: WORD.sub(lambda found: "" if found[0].lower().replace("’", "'") in words else found[0], text)


def _stemmed(stem: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: WORD.sub(lambda found: stem(found[0].lower()), text)


def _stop_words(language: str) -> frozenset[str]:
    try:
        import stop_words
    except ImportError:
        raise UserError(f"task.clean_texts: stop_words needs the package stop-words: {install_hint('cleaning')}") from None
    if language not in stop_words.AVAILABLE_LANGUAGES:
        raise _unknown(language, "stop_words", stop_words.AVAILABLE_LANGUAGES)
    return frozenset(stop_words.get_stop_words(language))


def _stemmer(language: str) -> Callable[[str], str]:
    try:
        import snowballstemmer
    except ImportError:
        raise UserError(f"task.clean_texts: stem needs the package snowballstemmer: {install_hint('cleaning')}") from None
    if language not in snowballstemmer.algorithms():
        raise _unknown(language, "stem", snowballstemmer.algorithms())
    return functools.cache(snowballstemmer.stemmer(language).stemWord)


def _unknown(language: str, step: str, known: Sequence[str]) -> UserError:
    return UserError(
        f"task.clean_language: {step} knows no {language!r}; it knows {', '.join(sorted(known))}{suggestion(language, known)}"
    )
