"""Commands in processes of their own, forked from one that has imported everything: a kill costs its work, not its imports."""

import multiprocessing
import os
import sys
from collections.abc import Callable

PRELOADED = ["trainer.cli", "tensorflow", "tensorflow_text", "jax", "transformers.models.bert.modeling_tf_bert",
             "trainer.commands.train", "trainer.commands.evaluate", "trainer.commands.export", "trainer.commands.prepare",
             "trainer.run.programs", "tests.forked"]  # fmt: skip
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


def start(
    arguments: list[str], log: str, environment: dict[str, str] | None = None, prepared_by: Callable[[], None] | None = None
) -> multiprocessing.process.BaseProcess:
    """Starts a command, its output added to a file.

    Args:
      arguments: of the command line.
      log: the file.
      environment: variables changed for it.
      prepared_by: called in the new process before the command; a function of a module.
    """
    process = _context.Process(target=_run, args=(list(map(str, arguments)), log, environment or {}, prepared_by))
    process.start()
    return process


def _run(arguments, log, environment, prepared_by):
    # Its own session: a kill of the process' group ends the workers that it started, as a scheduler does.
    os.setsid()
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if prepared_by is not None:
        prepared_by()
    from trainer.cli import main

    sys.exit(main(arguments))
