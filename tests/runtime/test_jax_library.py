"""JAX is there with 64-bit integers, or the extra that brings it is named."""

import sys

import pytest

from trainer.errors import UserError
from trainer.runtime import jax_library


def test_it_counts_in_64_bits():
    pytest.importorskip("jax")
    assert jax_library.has_jax()
    assert jax_library.jax_library().numpy.asarray(2**40).item() == 2**40


def test_without_it_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(UserError, match=r"need JAX .*pip install -e '.\[pjrt\]'"):
        jax_library.jax_library.__wrapped__()
