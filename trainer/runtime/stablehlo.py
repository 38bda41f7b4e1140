"""Reads and mends StableHLO modules as TensorFlow writes them, with the MLIR library that JAX brings."""

import math
import re

from trainer.runtime.jax_library import jax_library


def without_copies(serialized: bytes) -> tuple[bytes, dict[int, int], int]:
    """Returns a module that every PJRT plugin reads.

    TensorFlow writes `mhlo.copy`, which only keeps a buffer apart and which StableHLO does not have: each gives way to what
    it copies. Which outputs may lie in the memory of which parameters stands in the module's attributes, and stays there.

    Args:
      serialized: from `experimental_get_compiler_ir`, stage "stablehlo_serialized".

    Returns:
      (the module as bytecode; {output: the parameter whose memory it may take}; how many outputs there are).
    """
    mlir, ir = jax_library().interpreters.mlir, jax_library().interpreters.mlir.ir
    with mlir.make_ir_context(), ir.Location.unknown():
        module = ir.Module.parse(serialized)
        _drop_copies(module.operation)
        attributes = module.operation.attributes
        aliases = {}
        if "mhlo.input_output_alias" in attributes:
            for entry in attributes["mhlo.input_output_alias"]:
                (output,) = ir.DenseI64ArrayAttr(entry["output_index"])
                aliases[output] = ir.IntegerAttr(entry["alias"]["parameter_number"]).value
        main = ir.SymbolTable(module.operation)["main"]
        return mlir.module_to_bytecode(module), aliases, len(main.type.results)


def _drop_copies(operation) -> None:
    for region in operation.regions:
        for block in region:
            for inner in list(block):
                _drop_copies(inner.operation)
                if inner.operation.name == "mhlo.copy":
                    inner.operation.results[0].replace_all_uses_with(inner.operation.operands[0])
                    inner.operation.erase()


def all_reduced_bytes(module: bytes) -> int:
    """Returns the bytes that a replica gives into sums over all replicas, in one run of a program."""
    ir = jax_library().interpreters.mlir.ir

    def size(operand) -> int:
        shape = ir.RankedTensorType(operand.type)
        return math.prod(shape.shape) * shape.element_type.width // 8

    sums = (operation for operation in _operations(module) if operation.name == "stablehlo.all_reduce")
    return sum(size(operand) for operation in sums for operand in operation.operands)


def dynamic_shape(module: bytes) -> str | None:
    """Returns where, by TensorFlow's names, a program first makes a shape that depends on values; None: nowhere."""
    found = (operation for operation in _operations(module) if operation.name.endswith("set_dimension_size"))
    return next((re.sub(r'^loc\("?|"?\)$', "", str(operation.location)) for operation in found), None)


def _operations(module: bytes) -> list:
    """Returns all operations of a module, the inner ones too."""
    mlir, ir = jax_library().interpreters.mlir, jax_library().interpreters.mlir.ir
    with mlir.make_ir_context(), ir.Location.unknown():
        found = []
        waiting = [ir.Module.parse(module).operation]
        while waiting:
            operation = waiting.pop()
            found.append(operation)
            waiting += [inner.operation for region in operation.regions for block in region for inner in block]
        return found
