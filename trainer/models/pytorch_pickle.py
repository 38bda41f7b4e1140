"""Tensors of `pytorch_model.bin`, read without PyTorch and without trusting the file.

A pickle can name any function for its reader to call. This reader knows a handful of names, all of which build tensors here;
any other name ends the reading. Both of PyTorch's formats are read: the zip archive (since 1.6) and the older plain one.
Source of the formats: PyTorch's `torch/serialization.py` (`_save`, `_legacy_save`) and `torch/_utils.py`.
"""

import collections
import dataclasses
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any

import ml_dtypes
import numpy as np

from trainer import files
from trainer.errors import UserError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
STORAGES: dict[str, np.dtype] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
Storages = Callable[[str, np.dtype, int], np.ndarray]  # (key, dtype, elements) → the storage's elements


class _Unchanged:
    """What a pickle cannot change: it sets attributes on parameters and dictionaries, and none of them matters here."""

    def __setstate__(self, state: Any) -> None:
        """Leaves the object as it is."""


@dataclasses.dataclass(frozen=True)
class _Storage(_Unchanged):
    """A storage that the pickle refers to; its elements come later in the file."""

    key: str
    dtype: np.dtype
    elements: int


class _Dictionary(_Unchanged, collections.OrderedDict):
    """A state dict."""


@dataclasses.dataclass(frozen=True)
class _Tensor(_Unchanged):
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, read: Storages) -> np.ndarray:
        """Returns the elements; raises ValueError for a view that leaves its storage."""
        values = read(self.storage.key, self.storage.dtype, self.storage.elements)
        if any(size < 0 for size in self.shape) or any(stride < 0 for stride in self.strides) or self.offset < 0:
            raise ValueError("a tensor with a negative size")
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        if last >= len(values) or math.prod(self.shape) > len(values) or values.dtype != self.storage.dtype:
            raise ValueError(f"a tensor of shape {list(self.shape)} in a storage of {len(values)} elements")
        step = values.dtype.itemsize
        view = np.lib.stride_tricks.as_strided(
            values[self.offset :], self.shape, [stride * step for stride in self.strides], writeable=False
        )
        return np.array(view)


class _RefusedError(Exception):
    """A name that no file of tensors needs."""


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_parameter(tensor, *_) -> _Tensor:
    return tensor


_BUILDERS: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return name  # a string, and no dtype: a pickle can change objects that it is given
        if (module, name) not in _BUILDERS:
            raise _RefusedError(f"{module}.{name}")
        builder = _BUILDERS[module, name]
        return lambda *arguments: builder(*arguments)  # its own each time, for the same reason

    def persistent_load(self, reference: Any) -> _Storage:
        kind, storage_type, key, _, elements, *_ = reference
        if kind != "storage" or storage_type not in STORAGES or int(elements) < 0:
            raise ValueError("a reference that is no storage")
        return _Storage(str(key), STORAGES[storage_type], int(elements))


def read_pytorch_weights(path: str) -> dict[str, np.ndarray]:
    """Returns {name: array} of all tensors in a file of PyTorch weights.

    Raises:
      UserError: the file is damaged, or holds something that is not a tensor.
    """
    try:
        with files.open_binary(path) as file:
            content = io.BytesIO(file.read())
        return _read_zip(content) if zipfile.is_zipfile(content) else _read_legacy(content)
    except _RefusedError as error:
        raise UserError(
            f"{path}: it holds {error}, which is no tensor, and is not read: unpickling it could run any program. If you trust "
            "the file, convert it where PyTorch is installed, with safetensors.torch.save_file(torch.load(path), ...)"
        ) from None
    except UserError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"{path}: no file of PyTorch weights, or a damaged one: {reason}") from None


def _read_zip(content: IO[bytes]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(content) as archive:
        names = archive.namelist()
        (pickled,) = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        folder = pickled.removesuffix("data.pkl")
        loaded = _Unpickler(io.BytesIO(archive.read(pickled))).load()

        def read(key: str, dtype: np.dtype, elements: int) -> np.ndarray:
            return np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)[:elements]

        return _arrays(loaded, read)


def _read_legacy(content: IO[bytes]) -> dict[str, np.ndarray]:
    content.seek(0)
    if (_Unpickler(content).load(), _Unpickler(content).load()) != (MAGIC, PROTOCOL):
        raise ValueError("it does not begin as PyTorch's files do")
    _Unpickler(content).load()  # sizes of the writing machine's numbers
    finder = _StorageNoting(content)
    loaded = finder.load()
    storages: dict[str, np.ndarray] = {}
    for key in _Unpickler(content).load():
        (elements,) = struct.unpack("<q", content.read(8))
        dtype = finder.dtypes[str(key)]
        if elements < 0:
            raise ValueError("a storage with a negative size")
        data = content.read(elements * dtype.itemsize)
        if len(data) < elements * dtype.itemsize:
            raise ValueError("the file is cut short")
        storages[str(key)] = np.frombuffer(data, dtype)
    return _arrays(loaded, lambda key, dtype, elements: storages[key])


class _StorageNoting(_Unpickler):
    """Notes the type of each storage, which only the pickle has in the older format."""

    def __init__(self, file: IO[bytes]):
        super().__init__(file)
        self.dtypes: dict[str, np.dtype] = {}

    def persistent_load(self, reference: Any) -> _Storage:
        storage = super().persistent_load(reference)
        if self.dtypes.setdefault(storage.key, storage.dtype) != storage.dtype:
            raise ValueError(f"storage {storage.key} has two types")
        return storage


def _arrays(loaded: Any, read: Storages) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dict, which may lie under "state_dict", "model_state_dict" or any other single name."""
    while isinstance(loaded, Mapping) and not any(isinstance(value, _Tensor) for value in loaded.values()):
        nested = [name for name, value in loaded.items() if isinstance(value, Mapping)]
        usual = [name for name in ("state_dict", "model_state_dict", "model") if name in nested]
        if not usual and len(nested) != 1:
            raise ValueError("it holds no dictionary of tensors")
        loaded = loaded[(usual or nested)[0]]
    if not isinstance(loaded, Mapping):
        raise ValueError("it holds no dictionary of tensors")
    return {str(name): value.array(read) for name, value in loaded.items() if isinstance(value, _Tensor)}
