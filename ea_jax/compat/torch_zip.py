"""Read tensors from PyTorch's zip checkpoints without unpickling: nothing in the file is imported or called.

The file is a zip archive with a pickle program `data.pkl` and one raw file for each storage under `data/`. The program
is interpreted opcode by opcode: the opcodes that build dicts, tuples and names are executed, a call of
`torch._utils._rebuild_tensor_v2` on a storage of this file becomes an array, and everything else is an error.

Source: the format as `torch.save` writes it (torch/serialization.py); PEP 3154 for the opcodes.
"""

import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ea_jax.errors import CorruptCheckpoint

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
DICT, TENSOR, PARAMETER = (
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
)
MAX_PROGRAM = 1 << 24  # bytes
MAX_AXES = 8
PUSH = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINSTRING",
    "SHORT_BINSTRING",
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Name(NamedTuple):
    module: str
    name: str


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    numbers: int


class _Mark:
    pass


def read_torch_zip(path: Path) -> Any:
    """Read a `torch.save` checkpoint: dicts, lists and tuples of numbers, strings and arrays.

    Raises:
        CorruptCheckpoint: The file is not a checkpoint, is damaged, or holds anything but tensors and plain values.
            Nothing in it has been run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(path, archive).value()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, CorruptCheckpoint):
            raise
        raise CorruptCheckpoint(f"{path} is not a complete PyTorch zip checkpoint: {error}.") from error


class _Reader:
    """An interpreter with a stack and a memo that can only build plain values."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        programs = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
        if len(programs) != 1:
            raise self._bad(f"it has {len(programs)} files data.pkl instead of one")
        self.folder = programs[0].removesuffix("data.pkl")
        self.program = self._bytes(programs[0], MAX_PROGRAM)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, np.ndarray] = {}

    def value(self) -> Any:
        """Run the program, and return the value that it leaves on the stack."""
        try:
            for name, argument in self._opcodes():
                if name == "STOP":
                    (result,) = self.stack
                    return result
                self._step(name, argument)
        except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._bad(f"its program is broken ({type(error).__name__}: {error})") from error
        raise self._bad("its program has no end")

    def _bad(self, fault: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(
            f"{self.path}: {fault}. Of a PyTorch checkpoint, only tensors and plain values are read, and nothing in it "
            "is run. Ask its author for a plain state_dict, or for safetensors."
        )

    def _bytes(self, name: str, max_size: int | None = None) -> bytes:
        info = self.archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or (max_size is not None and info.file_size > max_size):
            raise self._bad(f"{name} is compressed or too large; torch.save writes no such file")
        return self.archive.read(info)

    def _opcodes(self) -> Iterator[tuple[str, Any]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about string escapes of another protocol
            for opcode, argument, _ in pickletools.genops(self.program):
                yield opcode.name, argument

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in PUSH:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "MARK":
            stack.append(_Mark)
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif name in TUPLES:
            size = TUPLES[name]
            stack[-size:] = [tuple(stack[-size:])]
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop_to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            self._check_type(dict, stack[-1]).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = self._pop_to_mark() if name == "APPENDS" else [stack.pop()]
            self._check_type(list, stack[-1]).extend(items)
        elif name == "GLOBAL":
            stack.append(self._name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(self._name(module, attribute))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments))
        elif name == "BUILD":  # attributes of an OrderedDict, such as module versions
            stack.pop()
            self._check_type(dict, stack[-1])
        else:
            raise self._bad(f"its program has the instruction {name}")

    def _pop_to_mark(self) -> list[Any]:
        mark = max(i for i, value in enumerate(self.stack) if value is _Mark)
        items = self.stack[mark + 1 :]
        del self.stack[mark:]
        return items

    def _check_type(self, kind: type, value: Any) -> Any:
        if type(value) is not kind:
            raise self._bad(f"its program fills a {type(value).__name__} as if it were a {kind.__name__}")
        return value

    def _name(self, module: Any, name: Any) -> _Name:
        qualified = _Name(module, name)
        if qualified not in (DICT, TENSOR, PARAMETER) and not (module == "torch" and name in STORAGES):
            raise self._bad(f"it asks for {module}.{name}")
        return qualified

    def _storage(self, identity: Any) -> _Storage:
        kind, storage, key, _, count = self._check_type(tuple, identity)
        if kind != "storage" or not isinstance(storage, _Name) or storage.name not in STORAGES:
            raise self._bad("it refers to an object that is not a storage")
        return _Storage(STORAGES[storage.name], str(key), int(count))

    def _call(self, function: Any, arguments: Any) -> Any:
        if function == DICT and arguments == ():
            return {}
        if function == PARAMETER and type(arguments) is tuple and isinstance(arguments[0], np.ndarray):
            return arguments[0]
        if function == TENSOR and type(arguments) is tuple and len(arguments) >= 4:
            return self._tensor(*arguments[:4])
        raise self._bad(f"it calls {function}")

    def _tensor(self, storage: Any, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
        if not isinstance(storage, _Storage) or len(shape) != len(stride) or len(shape) > MAX_AXES:
            raise self._bad("a tensor has no storage, or not as many strides as axes")
        values = self._values(storage)
        if min((offset, *shape, *stride)) < 0 or not all(type(n) is int for n in (offset, *shape, *stride)):
            raise self._bad(f"a tensor has offset {offset}, shape {shape} and strides {stride}")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if 0 not in shape and last >= len(values):
            raise self._bad(f"a tensor of shape {shape} reaches beyond its storage of {len(values)} numbers")
        if 0 in shape or np.prod([float(n) for n in shape]) > len(values):
            raise self._bad(f"a tensor has shape {shape}, which does not match its storage of {len(values)} numbers")
        step = values.dtype.itemsize
        return np.lib.stride_tricks.as_strided(values[offset:], shape, tuple(s * step for s in stride)).copy()

    def _values(self, storage: _Storage) -> np.ndarray:
        if storage.key not in self.storages:
            data = self._bytes(f"{self.folder}data/{storage.key}")
            if len(data) != storage.numbers * storage.dtype.itemsize:
                raise self._bad(f"storage {storage.key} has {len(data)} bytes for {storage.numbers} {storage.dtype}")
            self.storages[storage.key] = np.frombuffer(data, storage.dtype)
        values = self.storages[storage.key]
        if values.dtype != storage.dtype:
            raise self._bad(f"storage {storage.key} is used as {values.dtype} and as {storage.dtype}")
        return values
