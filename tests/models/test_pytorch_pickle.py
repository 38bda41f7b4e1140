"""pytorch_model.bin without PyTorch: the two formats, as PyTorch writes them, and files that would run programs."""

import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from trainer.errors import UserError
from trainer.models.pytorch_pickle import MAGIC, PROTOCOL, read_pytorch_weights

KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage"}


class Storage:
    """Stands for one of PyTorch's storages in a pickle."""

    def __init__(self, key, array):
        self.key, self.array = key, array


class Tensor:
    """Pickles as a torch.Tensor does."""

    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


@pytest.fixture(autouse=True)
def names_of_torch(monkeypatch):
    name_torch(monkeypatch)


def name_torch(monkeypatch):
    """Sets names that pickles refer to, so that they can be written without PyTorch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_):
        raise AssertionError("the reader must not call PyTorch's functions")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in KINDS.values():
        kind = type(name, (), {})
        kind.__module__ = "torch"
        setattr(torch, name, kind)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


class Pickler(pickle.Pickler):
    def __init__(self, file, legacy):
        super().__init__(file, 2)
        self.storages, self.legacy = {}, legacy

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages[value.key] = value.array
        kind = getattr(sys.modules["torch"], KINDS[value.array.dtype.name])
        reference = ("storage", kind, value.key, "cpu", value.array.size)
        return (*reference, None) if self.legacy else reference


def tensors_of(arrays):
    found = collections.OrderedDict()
    for number, (name, array) in enumerate(arrays.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        found[name] = Tensor(Storage(str(number), array.ravel(order="K")), 0, array.shape, strides)
    return found


def write_zip(path, content):
    buffer = io.BytesIO()
    pickler = Pickler(buffer, legacy=False)
    pickler.dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        for key, array in pickler.storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def write_legacy(path, content):
    with open(path, "wb") as file:
        for value in (MAGIC, PROTOCOL, {"little_endian": True}):
            pickle.dump(value, file, 2)
        pickler = Pickler(file, legacy=True)
        pickler.dump(content)
        pickle.dump(list(pickler.storages), file, 2)
        for array in pickler.storages.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())


ARRAYS = {
    "weight": np.arange(12, dtype="float32").reshape(3, 4),
    "transposed": np.arange(12, dtype="float32").reshape(3, 4).T,
    "half": np.linspace(0, 1, 5).astype("float16"),
    "brain": np.linspace(0, 1, 5).astype(ml_dtypes.bfloat16),
    "position_ids": np.arange(6).reshape(1, 6),
    "empty": np.zeros([0, 3], "float32"),
}


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("wrap", [lambda tensors: tensors, lambda tensors: {"state_dict": tensors, "epoch": 3}])
def test_tensors_come_back(tmp_path, write, wrap):
    write(tmp_path / "pytorch_model.bin", wrap(tensors_of(ARRAYS)))
    found = read_pytorch_weights(str(tmp_path / "pytorch_model.bin"))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name


class Hostile:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, r"posix\.system"), (eval, r"(__builtin__|builtins)\.eval"), (open, r"(io|_io)\.open")],
)
def test_a_hostile_pickle_runs_nothing(tmp_path, write, function, name):
    marker = tmp_path / "it_ran"
    argument = (
        f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')" if function is eval else str(marker)
    )
    arguments = (argument, "w") if function is open else (argument,)
    write(tmp_path / "pytorch_model.bin", {"weight": Hostile(function, *arguments)})
    with pytest.raises(UserError, match=f"pytorch_model.bin: it holds {name}, which is no tensor, and is not read"):
        read_pytorch_weights(str(tmp_path / "pytorch_model.bin"))
    assert not marker.exists()


def test_a_view_that_leaves_its_storage_is_refused(tmp_path):
    small = Storage("0", np.zeros(4, "float32"))
    for tensor in (Tensor(small, 0, (3, 3), (3, 1)), Tensor(small, 9, (1,), (1,)), Tensor(small, 0, (2,), (-1,))):
        write_zip(tmp_path / "pytorch_model.bin", {"weight": tensor})
        with pytest.raises(UserError, match="pytorch_model.bin: no file of PyTorch weights, or a damaged one: a tensor"):
            read_pytorch_weights(str(tmp_path / "pytorch_model.bin"))


BUILD = b"b."  # sets an object's state, and ends the pickle


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02ctorch\nBFloat16Storage\n(K\x03X\x01\x00\x00\x00>NNNK@K\x08K?t" + BUILD,
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__(K\x01ts\x86" + BUILD,
    ],
    ids=["a type", "a function"],
)
def test_a_pickle_cannot_change_what_it_is_given(tmp_path, content):
    """BUILD calls __setstate__, or sets attributes: of NumPy's bfloat16 it would change the size for the whole process."""
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    with pytest.raises(UserError, match="no file of PyTorch weights, or a damaged one"):
        read_pytorch_weights(str(tmp_path / "pytorch_model.bin"))
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2
    write_zip(tmp_path / "pytorch_model.bin", tensors_of(ARRAYS))
    assert np.array_equal(read_pytorch_weights(str(tmp_path / "pytorch_model.bin"))["brain"], ARRAYS["brain"])


def test_a_storage_has_one_type_and_a_tensor_no_more_elements(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    tensors = {
        "a": Tensor(Storage("0", np.zeros(4, "float32")), 0, (4,), (1,)),
        "b": Tensor(Storage("0", np.zeros(4, "int64")), 0, (4,), (1,)),
    }
    write_legacy(path, tensors)
    with pytest.raises(UserError, match="damaged one: storage 0 has two types"):
        read_pytorch_weights(str(path))
    write_zip(path, {"a": Tensor(Storage("0", np.zeros(4, "float32")), 0, (1 << 40,), (0,))})
    with pytest.raises(UserError, match=r"damaged one: a tensor of shape \[1099511627776\] in a storage of 4 elements"):
        read_pytorch_weights(str(path))


@pytest.mark.parametrize("name", ["model_state_dict", "net"])
def test_tensors_may_lie_under_a_name(tmp_path, name):
    path = tmp_path / "pytorch_model.bin"
    write_zip(path, {"epoch": 3, name: {"state_dict": tensors_of(ARRAYS)}})
    assert list(read_pytorch_weights(str(path))) == list(ARRAYS)
    write_zip(path, {"epoch": 3})
    with pytest.raises(UserError, match="it holds no dictionary of tensors"):
        read_pytorch_weights(str(path))


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    write_legacy(path, tensors_of(ARRAYS))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged one: the file is cut short"):
        read_pytorch_weights(str(path))
    for content in (b"", b"not a pickle", pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path}: no file of PyTorch weights"):
            read_pytorch_weights(str(path))
