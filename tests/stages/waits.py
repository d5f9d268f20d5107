"""Where a host would wait for a GPU, by file and line, counted without a GPU.

Inside `played_gpu()` tensors may be sent to `GPU`. There they compute on the CPU, but say that they
lie on a GPU, so that code takes the paths that it takes there. What makes the host wait is noted:
reading a number or a truth (`item`, `bool`), choosing by flags and all else whose size only the GPU
knows, a copy in either direction that is not `non_blocking`, and waiting for an event. A copy to
the host that is under way holds garbage until something has waited for it, as on a GPU; so what
is read too early shows. Kernels, streams beside the current one and pinned memory are not played.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tip.stages.models.language_model import LanguageModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_any, tree_map

GPU = torch.device("cuda", 0)

_SIZED_BY_VALUES = {"nonzero", "masked_select", "unique", "_unique", "_unique2", "argwhere"}
_TORCH = str(Path(torch.__file__).parent)
_LEFT_OUT = ("<", _TORCH, str(Path(__file__)))  # frames that only pass a call on


@dataclass
class Waits:
    """What was waited for. places: how often at each `file:line`, paths as far as tells them."""

    places: Counter[str]

    @property
    def total(self) -> int:
        """Return how often the host waited."""
        return self.places.total()

    def clear(self) -> None:
        """Begin anew."""
        self.places.clear()


class _Played(Tensor):
    """A tensor that lies on the GPU that is played. Its numbers are those of `held`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "_Played":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="cpu",  # for C++: autograd knows no GPU that is not there
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"on the played GPU: {self.held!r}"

    device = property(lambda _: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda _: True)  # type: ignore[assignment]
    is_cpu = property(lambda _: False)  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, _: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _reads_values(func, args):
            _wait()
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        written = _written(func, args, kwargs)
        return written if written is not None else tree_map(_on_gpu, out)


def _reads_values(func: Any, args: tuple) -> bool:
    """Tell whether a GPU's kernel of an operation hands something to the host."""
    name = func._overloadpacket.__name__
    if name in ("_local_scalar_dense", "is_nonzero", "equal", *_SIZED_BY_VALUES):
        return True
    if name == "repeat_interleave":
        return func._overloadname == "Tensor"  # sums its counts, to know its size
    if name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple):
        flags = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])
        scalar = name == "index_put_" and args[2].numel() == 1  # becomes masked_fill
        from_host = any(isinstance(i, Tensor) and not isinstance(i, _Played) for i in args[1])
        return from_host or (flags and not scalar)
    return False


def _written(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Return what an operation was told to write to, None where it makes its result."""
    values = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    names = [a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
    written = [values[name] for name in names if values.get(name) is not None]
    if not written or not func._schema.returns:
        return None
    return written[0] if len(func._schema.returns) == 1 else tuple(written)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, _Played) else value


def _on_gpu(value: Any) -> Any:
    return _Played(value) if isinstance(value, Tensor) else value


class _Machine(TorchFunctionMode):
    """What torch's functions mean on a machine that has the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = Waits(Counter())
        self.under_way: list[tuple[Tensor, Tensor]] = []  # copies to the host

    def wait(self, copies: int | None = None) -> None:
        """Note a wait, after which so many of the oldest copies are there."""
        self.waits.places[_place()] += 1
        self.arrive(len(self.under_way) if copies is None else copies)

    def arrive(self, copies: int) -> None:
        """Let so many of the oldest copies be there."""
        for host, sent in self.under_way[:copies]:
            host.copy_(sent)
        del self.under_way[:copies]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "pin_memory":
            return args[0]
        kwargs.pop("pin_memory", None)
        if name in ("to", "cpu", "copy_", "numpy", "tolist"):
            moved = self._moved(name, args, kwargs)
            if moved is not None:
                return moved
        there = any(map(_is_gpu, (*args, kwargs.get("device"))))
        if there:  # for C++ all lies on the CPU
            args = tuple("cpu" if _is_gpu(a) else a for a in args)
            kwargs |= {"device": "cpu"} if "device" in kwargs else {}
        out = func(*args, **kwargs)
        if name == "tensor" and there and out.numel():
            self.wait()  # torch copies it over from memory that is not pinned
        return tree_map(_on_gpu, out) if there and not tree_any(_is_played, out) else out

    def _moved(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return what a copy between host and GPU gives, None where it is none."""
        first, *more = args
        here, later = isinstance(first, _Played), bool(kwargs.get("non_blocking"))
        if name == "copy_":
            if isinstance(more[0], _Played) == here:
                return None
            self._send(first, more[0], later)
            return first
        if name in ("numpy", "tolist"):
            assert not here or name == "tolist", "a tensor on a GPU has no numpy array"
            return self._listed(first) if here else None
        target = torch.device("cpu") if name == "cpu" else _target(more, kwargs)
        if target is None or (target.type == "cuda") == here:
            return None
        dtype = next((a for a in (*more, kwargs.get("dtype")) if isinstance(a, torch.dtype)), None)
        source = first.to(dtype) if dtype else first
        found = torch.empty_like(_held(source))
        self._send(found if here else _Played(found), source, later)
        return found if here else _Played(found)

    def _listed(self, tensor: _Played) -> Any:
        self.wait()
        return tensor.held.tolist()

    def _send(self, target: Tensor, source: Tensor, later: bool) -> None:
        """Copy between host and GPU."""
        if isinstance(target, _Played):
            target.held.copy_(source)
            if not later:
                self.wait()
            return
        sent = source.held.clone()
        if later:
            target.view(torch.uint8).fill_(0x7F)  # what is read too early
            self.under_way.append((target, sent))
        else:
            self.wait()
            target.copy_(sent)


def _is_played(value: Any) -> bool:
    return isinstance(value, _Played)


def _is_gpu(value: Any) -> bool:
    named = isinstance(value, torch.device | str)
    return named and str(value).startswith(GPU.type)


def _target(more: list[Any], kwargs: dict[str, Any]) -> torch.device | None:
    """Return the device that `to` was told of."""
    for value in (*more, kwargs.get("device"), kwargs.get("other")):
        if isinstance(value, Tensor):
            return value.device
        if isinstance(value, torch.device | str):
            return torch.device(value)
    return None


_machine: _Machine | None = None


def _wait() -> None:
    assert _machine is not None, "a tensor on the played GPU outlived it"
    _machine.wait()


def _place() -> str:
    """Return the innermost line that is neither torch's nor this file's."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_LEFT_OUT):
        frame = frame.f_back
    assert frame is not None
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno}"


class _Event:
    """`torch.cuda.Event` of the played GPU."""

    def record(self, *_: Any) -> None:
        assert _machine is not None
        self._copies = [host for host, _ in _machine.under_way]

    def synchronize(self) -> None:
        assert _machine is not None
        _machine.wait(self._left())

    def query(self) -> bool:
        return self._left() == 0

    def _left(self) -> int:
        """Return how many copies it stands for are still under way; they arrive in order."""
        assert _machine is not None
        left = {id(host) for host, _ in _machine.under_way}
        return sum(id(host) in left for host in self._copies)


def _grouped(*args: Any, _of: Any = torch._C._group_tensors_by_device_and_dtype) -> Any:
    """Return tensors by device and type, as C++ does, and where they are said to lie."""
    groups = _of(*args).items()
    return {(lists[0][0].device, dtype): (lists, places) for (_, dtype), (lists, places) in groups}


@contextmanager
def played_gpu() -> Iterator[Waits]:
    """Play a GPU inside the block; what makes the host wait is in what this gives."""
    global _machine  # noqa: PLW0603  # a tensor finds its machine here
    _machine = _Machine()
    with pytest.MonkeyPatch.context() as patch, _machine:
        patch.setattr(torch.cuda, "Event", _Event)
        patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", _grouped)
        try:
            yield _machine.waits
        finally:
            _machine = None


def on_gpu(model: LanguageModel) -> LanguageModel:
    """Return a model whose numbers lie on the played GPU. It is changed in place."""
    made: dict[int, Any] = {}  # a tied weight stays one
    for module in model.model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    moved: Any = _Played(tensor.detach())
                    if isinstance(tensor, nn.Parameter):
                        moved = nn.Parameter(moved, requires_grad=tensor.requires_grad)
                    made[id(tensor)] = moved, tensor
                tensors[name] = made[id(tensor)][0]
    return replace(model, device=GPU)
