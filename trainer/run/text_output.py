"""Where a command's lines go: standard output, or a file."""

import os
import sys
from types import TracebackType
from typing import IO

from trainer import files
from trainer.errors import UserError


class TextOutput:
    """Standard output, or a file that is whole or not there.

    Args:
      target: a path, local or remote; - for standard output.

    Raises:
      UserError: the file cannot be written, which is seen before anything is computed.
    """

    def __init__(self, target: str):
        self._target = target
        # A device or a pipe, as /dev/null, is written to; a file takes its name when it is whole.
        is_device = not files.is_remote(target) and os.path.exists(target) and not os.path.isfile(target)
        self._written = target if is_device else f"{target}.partial"
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "TextOutput":
        if self._target != "-":
            try:
                files.make_dirs(self._target.rpartition("/")[0] or ".")
                self._file = files.open_binary(self._written, "wb")
            except OSError as error:  # before the work, not after it
                raise UserError(
                    f"{self._target} cannot be written: {error.strerror or error}; choose another place with --output"
                ) from None
        return self

    def write(self, text: str) -> None:
        """Writes text, at once where it goes to a person."""
        if self._file is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            with files.explain_full_disk(self._target):
                self._file.write(text.encode())

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
            if self._written == self._target:
                return
            if kind is None:
                files.rename(self._written, self._target)
            else:
                files.remove_tree(self._written)
