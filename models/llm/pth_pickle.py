"""The list of tensors in a `.pth` file of PyTorch, of which no code is run.

A pickle is a program for a machine with a stack; Python's own lets it import and call
whatever it likes. The one here knows the operations that `torch.save` writes a
dictionary of tensors with, and a fixed table of names, none of which is looked up
anywhere: a storage type stands for a type of NumPy, a call for the record of a tensor.
Anything else is refused by name.
"""

import dataclasses
import math
import pickletools
from typing import Any, NoReturn

import ml_dtypes
import numpy as np


MOST_DIMENSIONS = 8
STORAGES = {
    "torch FloatStorage": np.dtype(np.float32),
    "torch DoubleStorage": np.dtype(np.float64),
    "torch HalfStorage": np.dtype(np.float16),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
}
CALLS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter")
HOOKS = "collections OrderedDict"
KNOWN = (*STORAGES, *CALLS, HOOKS)


@dataclasses.dataclass(frozen=True)
class Named:
    """A name of the table; it can be called in a pickle, and does nothing by itself."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """Which bytes of the file, as what, and how many of them."""

    record: str
    dtype: np.dtype
    entries: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides in entries."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where a list of arguments on the stack begins."""


def tensors_of(program: bytes, source: str = "the pickle") -> dict[str, Any]:
    """Runs a pickle that lists tensors, on a machine that can do nothing else.

    Raises:
        ValueError: for any operation, name or value that such a list does not need.
    """
    machine = _Machine(source)
    try:
        for operation, argument, _ in pickletools.genops(program):
            machine.run(operation.name, argument)
    except ValueError as error:
        if isinstance(error, _Refused):
            raise
        raise _Refused(f"{source} is damaged: {str(error)[:200]}") from None
    except (IndexError, KeyError, TypeError):  # of stack, memo, and what stands there
        raise _Refused(f"{source} is damaged: its operations do not fit") from None
    result = machine.result
    if not isinstance(result, dict):
        raise _Refused(f"{source} must be a dictionary of tensors, got {_kind(result)}")
    for name, value in result.items():
        if not isinstance(value, Tensor):
            raise _Refused(
                f"{source} must hold tensors only, got {_kind(value)} as {name[:80]!r}"
            )
    return result


class _Refused(ValueError):
    """An error with a message of our own."""


class _Machine:
    """The stack, the memo, and the operations of a pickle of tensors."""

    def __init__(self, source: str):
        self.source = source
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def run(self, operation: str, argument: Any) -> None:
        stack = self.stack
        match operation:
            case "PROTO":
                pass
            case "MARK":
                stack.append(_Mark())
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True}.get(operation, False))
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "TUPLE":
                stack.append(tuple(self.marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.popped(int(operation[-1]))))
            case "SETITEM":
                self.store(self.popped(2))
            case "SETITEMS":
                self.store(self.marked())
            case "GLOBAL":
                stack.append(self.named(argument))
            case "BINPERSID":
                stack.append(self.storage(stack.pop()))
            case "REDUCE":
                called, arguments = self.popped(2)
                stack.append(self.call(called, arguments))
            case "BUILD":
                self.build(stack.pop())
            case "STOP":
                (self.result,) = stack
            case _:
                self.refuse(f"the operation {operation}")

    def refuse(self, what: str) -> NoReturn:
        raise _Refused(
            f"{self.source} asks for {what}, which a dictionary of tensors does not "
            f"need: refused, for a pickle can run any code. Known are the names "
            f"{', '.join(KNOWN)}; write the tensors as safetensors where you trust it"
        )

    def popped(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        found = self.stack[-count:]
        del self.stack[-count:]
        return found

    def marked(self) -> list[Any]:
        at = len(self.stack) - 1
        while not isinstance(self.stack[at], _Mark):
            at -= 1  # below the bottom: IndexError
            if at < 0:
                raise IndexError
        found = self.popped(len(self.stack) - at)
        return found[1:]

    def store(self, items: list[Any]) -> None:
        into = self.stack[-1]
        if not isinstance(into, dict) or len(items) % 2:
            raise TypeError
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                self.refuse(f"{_kind(key)} as a key")
            into[key] = value

    def named(self, name: str) -> Named:
        if name not in KNOWN:
            self.refuse(f"the name {name.replace(' ', '.', 1)[:80]!r}")
        return Named(name)

    def storage(self, identity: Any) -> Storage:
        match identity:
            case ("storage", Named(name), str(record), str(), int(entries)):
                if name in STORAGES and entries >= 0:
                    return Storage(record, STORAGES[name], entries)
        raise _Refused(f"{self.source} refers to something that is no storage")

    def call(self, called: Any, arguments: Any) -> Any:
        match called, arguments:
            case Named(name), () if name == HOOKS:
                return {}
            case Named(name), (Tensor() as tensor, bool(), hooks):
                if name == CALLS[1] and hooks == {}:
                    return tensor
            case Named(name), (
                Storage() as storage,
                int(offset),
                tuple(shape),
                tuple(strides),
                bool(),
                hooks,
            ):
                if name == CALLS[0] and hooks == {}:
                    return _tensor(self.source, storage, offset, shape, strides)
        return self.refuse(f"a call of {_kind(called)} with such arguments")

    def build(self, state: Any) -> None:
        """Drops the versions of modules that torch hangs on a state dictionary."""
        if not (
            isinstance(self.stack[-1], dict)
            and isinstance(state, dict)
            and state.keys() == {"_metadata"}
        ):
            self.refuse(f"attributes of {_kind(self.stack[-1])}")


def _tensor(
    source: str, storage: Storage, offset: int, shape: tuple, strides: tuple
) -> Tensor:
    """Checks that a view stays within its storage and does not swell it."""
    numbers = [offset, *shape, *strides]
    natural = all(type(x) is int and 0 <= x < 1 << 62 for x in numbers)
    if not natural or len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS:
        raise _Refused(f"{source} has a tensor whose shape or strides are none")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    size = math.prod(shape)
    if size and (last >= storage.entries or size > storage.entries):
        raise _Refused(
            f"{source} has a tensor of shape {shape} on a storage of "
            f"{storage.entries} entries, beyond which it reaches"
        )
    return Tensor(storage, offset, shape, strides)


def _kind(value: Any) -> str:
    if isinstance(value, Named):
        return f"the name {value.name.replace(' ', '.')}"
    name = type(value).__name__.lower()
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
