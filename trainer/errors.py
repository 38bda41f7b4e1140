"""The one exception that stands for a user's mistake: shown as a message, never as a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What was found, where, what is allowed and what to do, in the message itself."""


class NothingToLearnError(UserError):
    """The rows do not contain what the config leaves open, as class names; perhaps because they could not be read."""


def install_hint(extra: str) -> str:
    """Returns how to install an optional dependency of this project.

    The command names the project's folder: the name `bert-trainer` on the public index belongs to somebody else.
    """
    return f"in the project's folder, run: pip install -e '.[{extra}]'"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the closest known word, or "" when nothing is close.

    >>> suggestion("acuracy", ["accuracy", "f1"])
    "; did you mean 'accuracy'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
