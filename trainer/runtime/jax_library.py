"""JAX, imported only where a run asks for PJRT: it brings the compilers and runtimes of TPU, GPU and CPU."""

import functools
import importlib.util
from types import ModuleType

from trainer.errors import UserError, install_hint
from trainer.runtime.target import has_tpu_chip


def has_jax() -> bool:
    """Returns whether JAX is installed."""
    return importlib.util.find_spec("jax") is not None


@functools.cache
def jax_library() -> ModuleType:
    """Returns JAX, with 64-bit integers: the number of a step is one.

    Raises:
      UserError: it is not installed.
    """
    try:
        import jax
        import jax.extend
        import jax.interpreters.mlir
    except ImportError as error:
        raise UserError(f"runtime.distribution=pjrt and preflight need JAX ({error}); {install_hint('pjrt')}") from None
    jax.config.update("jax_enable_x64", True)
    has_gpus = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    if not jax.config.values.get("jax_platforms") and not has_tpu_chip() and not has_gpus:
        jax.config.update("jax_platforms", "cpu")  # or a libtpu that is installed looks for its chips, and complains
    return jax
