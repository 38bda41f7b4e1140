"""Reads a program as XLA compiled it for a TPU: what moves between a chip's main memory and its cores.

XLA's own count, "bytes accessed", takes what is read from a core's own memory (VMEM, "S(1)" in the text) as well as the copies
into it: a byte that is fetched ahead counts three times. A step cannot be faster than what its main memory must move.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64}
BITS |= {"f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64}
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id")
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
HEADER = re.compile(r"(ENTRY )?(%[\w.\-]+) \(")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?(%[\w.\-]+) = (.*?[\])}]) ([a-z][\w\-]*)\((.*)")


@dataclasses.dataclass(frozen=True)
class _Instruction:
    """One line: its name, the text of its type, what it does, and the rest from the arguments on."""

    name: str
    type: str
    kind: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%[\w.\-]+", self.rest.split("), ")[0])

    def called(self, role: str) -> list[str]:
        """Returns the computations that it calls in a role, as body or calls."""
        found = re.search(rf"\b{role}=(%[\w.\-]+|\{{[^}}]*\}})", self.rest)
        return re.findall(r"%[\w.\-]+", found[1]) if found else []


def memory_traffic(text: str) -> int:
    """Returns the bytes that a run of a program reads from and writes to main memory; the body of a loop counts once.

    Args:
      text: an HLO module after compilation, as `str(module)` has it.
    """
    computations, entry = _computations(text)
    return _traffic(computations, entry)


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Returns {computation: its instructions}, and the name of the first one to run."""
    found: dict[str, list[_Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        header = HEADER.match(line)
        if header:
            current = header[2]
            found[current] = []
            entry = current if header[1] else entry
        elif match := INSTRUCTION.match(line):
            found[current].append(_Instruction(*match.groups()))
    return found, entry


def _traffic(computations: Mapping[str, list[_Instruction]], name: str) -> int:
    sizes, total = {}, 0
    for one in computations[name]:
        arrays = _arrays(one.type)
        sizes[one.name] = sum(size for size, is_in_main in arrays if is_in_main)
        if one.kind in FREE or one.kind.endswith("-done") or "ConcatBitcast" in one.rest:
            continue
        if one.kind == "while":
            total += _traffic(computations, one.called("body")[0])
        elif one.kind == "conditional":
            branches = one.called("branch_computations") or [*one.called("true_computation"), *one.called("false_computation")]
            total += max(_traffic(computations, branch) for branch in branches)
        elif one.kind == "call":
            total += _traffic(computations, one.called("to_apply")[0])
        elif one.kind in ("copy-start", "slice-start"):
            # Its type lists the source, the target, and what it waits with.
            source, target = sorted(arrays[:2])
            total += source[0] * (source[1] + target[1])
        else:
            total += sizes[one.name] + sum(
                _read(computations, one, place, sizes.get(operand, 0)) for place, operand in enumerate(one.operands)
            )
    return total


def _arrays(text: str) -> list[tuple[int, bool]]:
    """Returns (bytes, whether it lies in main memory) of each array in the text of a type.

    >>> _arrays("(f32[2,3]{1,0:T(8,128)}, bf16[4]{0:T(1024)S(1)})")
    [(24, True), (8, False)]
    """
    found = []
    for kind, shape, layout in ARRAY.findall(text):
        if kind in BITS:
            found.append((math.prod(int(size) for size in shape.split(",") if size) * BITS[kind] // 8, "S(" not in layout))
    return found


def _read(computations, one: _Instruction, place: int, size: int) -> int:
    """Returns what an instruction reads of an operand of this size: of a table that rows are gathered from only these rows."""
    called = one.called("calls")
    if one.kind != "fusion" or not called or not size:
        return size
    inner = computations[called[0]]
    parameter = next((each.name for each in inner if each.kind == "parameter" and each.rest.startswith(f"{place})")), None)
    users = [each for each in inner if parameter in each.operands]
    if users and all(each.kind in ("gather", "dynamic-slice") and each.operands[0] == parameter for each in users):
        return min(size, sum(bytes_ for each in users for bytes_, _ in _arrays(each.type)))
    return size
