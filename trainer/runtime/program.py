"""A function that TensorFlow traces, as one StableHLO program: what PJRT compiles and runs on any device."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.errors import UserError
from trainer.runtime.replicas import across
from trainer.runtime.stablehlo import dynamic_shape, without_copies
from trainer.runtime.target import Target, tracing_for

Batch = Mapping[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced function of a batch.

    Its parameters are the batch's tensors in the order of their names, then what the function captured; its outputs are
    the results in the order of their names, then the new values of the variables that it changes.

    Attributes:
      name: for messages and the cache.
      module: StableHLO, as MLIR bytecode.
      batch: {name: (shape, dtype)} of a replica's batch.
      captured: a variable, or the value of a constant, for each further parameter.
      results: names.
      changed: of each further output, the place in `captured` of the variable that gets it.
      replicas: devices that it runs on together.
    """

    name: str
    module: bytes
    batch: dict[str, tuple[tuple[int, ...], np.dtype]]
    captured: tuple[tf.Variable | np.ndarray, ...]
    results: tuple[str, ...]
    changed: tuple[int, ...]
    replicas: int


def trace(
    name: str, function: Callable[[Batch], Mapping[str, tf.Tensor]], batch: Mapping[str, Any], target: Target, replicas: int = 1
) -> Program:
    """Traces a function of a batch for a kind of device.

    Args:
      name: of the program.
      function: takes {name: tensor}; returns {name: tensor}; may change variables.
      batch: {name: TensorSpec} of a replica's batch, every dimension known.
      target: the kind of device.
      replicas: devices that run it together; sums over them are part of the program.

    Raises:
      UserError: something in it has no program: a dynamic shape, a string, a call back to the host. The place in our code is
        named.
    """
    open_dimensions = [key for key, spec in batch.items() if not spec.shape.is_fully_defined()]
    if open_dimensions:
        raise UserError(
            f"the {name} step cannot become one program: {', '.join(open_dimensions)} have no fixed shape; "
            "runtime.static_rows gives batches one shape"
        )
    with across(replicas), tracing_for(target):
        compiled = tf.function(function, jit_compile=True, autograph=False)
        empty = {key: tf.zeros(spec.shape, spec.dtype) for key, spec in batch.items()}
        concrete = compiled.get_concrete_function(empty)
        try:
            serialized = compiled.experimental_get_compiler_ir(empty)(stage="stablehlo_serialized")
        except (tf.errors.OpError, ValueError) as error:
            raise UserError(f"the {name} step cannot become one program: {_reason(error, concrete.graph)}") from error
    by_handle = {id(variable.handle): variable for variable in concrete.variables}
    captured = tuple(
        by_handle[id(value)] if id(value) in by_handle else np.asarray(value) for value in concrete.captured_inputs
    )
    module, aliases, outputs = without_copies(serialized)
    dynamic = dynamic_shape(module)
    if dynamic:
        raise UserError(f"the {name} step cannot become one program: the size of {dynamic} is known only when it runs")
    results = tuple(sorted(concrete.structured_outputs))
    if outputs != len(results) + len(aliases):
        raise RuntimeError(f"the {name} program has {outputs} outputs, not {len(results)} results and {len(aliases)} variables")
    described = {key: (tuple(batch[key].shape), np.dtype(batch[key].dtype.as_numpy_dtype)) for key in sorted(batch)}
    changed = tuple(aliases[len(results) + place] - len(described) for place in range(len(aliases)))
    return Program(name, module, described, captured, results, changed, replicas)


def _reason(error: Exception, graph: tf.Graph) -> str:
    """Returns what of a compiler's message a reader needs: the operation that XLA lacks, and the line of ours it comes from."""
    text = str(error)
    named = re.search(r"(\w+) \(No registered", text)
    if "DT_STRING" in text:
        return f"it reads strings, which only a host can{_place(_reader_of_strings(graph))}"
    if named and "PyFunc" in named[1]:
        return f"{named[1]} calls back to the host{_place(_first(graph, lambda one: one.type == named[1]))}"
    if named:
        return f"XLA has no {named[1]}{_place(_first(graph, lambda one: one.type == named[1]))}"
    return next(iter(text.strip().splitlines()), type(error).__name__)


def _first(graph: tf.Graph, is_sought: Callable[[tf.Operation], bool]) -> tf.Operation | None:
    """Returns an operation of a graph, or of the bodies of its loops, branches and calls."""
    for operation in graph.get_operations():
        if is_sought(operation):
            return operation
        for attribute in operation.node_def.attr.values():
            inner = getattr(graph._get_function(attribute.func.name), "graph", None) if attribute.HasField("func") else None
            found = _first(inner, is_sought) if inner is not None else None
            if found is not None:
                return found
    return None


def _reader_of_strings(graph: tf.Graph) -> tf.Operation | None:
    makes = ("Placeholder", "Const")
    return _first(
        graph, lambda one: one.type not in makes and any(value.dtype == tf.string for value in (*one.inputs, *one.outputs))
    )


def _place(operation: tf.Operation | None) -> str:
    """Returns where in our code, or a user's, an operation was made."""
    if operation is None:
        return ""
    frames = [one for one in operation.traceback if "site-packages" not in one.filename and one.filename != __file__]
    return f" ({frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""
