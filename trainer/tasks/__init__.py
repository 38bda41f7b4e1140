"""Tasks by name: `task.name` is the module's name, nothing is registered."""

import importlib
import pkgutil
from types import ModuleType

from trainer.errors import UserError, suggestion


def task_names() -> list[str]:
    """Returns the names of all tasks: the modules of this package but `base`."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def task_module(name: str) -> ModuleType:
    """Returns a task's module, which holds its `Config` and its `Task`.

    Raises:
      UserError: no such task.
    """
    if name not in task_names():
        raise UserError(f"task.name: {name!r} is not one of {', '.join(task_names())}{suggestion(name, task_names())}")
    return importlib.import_module(f"trainer.tasks.{name}")
