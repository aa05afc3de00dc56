"""What a benchmark case is: an op at one size, its inputs, its oracle and those who compete."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["clfast", "loop", "torch", "compiled", "library", "base"]
Call = Callable[[], Any]


class Work(NamedTuple):
    """The least an op must do: every input read once, every output written once."""

    read: int  # bytes
    written: int  # bytes
    flops: int = 0


@dataclass(frozen=True)
class Variant:
    """One way to do the work of a case.

    Attributes:
        name: unique within its case.
        kind: "clfast"; "loop", what people write first; "torch", vectorised PyTorch; "compiled",
            that under torch.compile; "library", the one a user would pick instead; "base", what
            clfast's variant does and more.
        function: called with what `arguments` returns.
        arguments: of the inputs, once and untimed: also what a user keeps between calls.
        chunk: run on this many queries at a time; the first argument is split, see `in_chunks`.
        module: what must be installed.
        judged: False: the error is recorded, and may be any.
        devices: where it runs.
    """

    name: str
    kind: Kind
    function: Callable[..., Any]
    arguments: Callable[[Any], tuple[Any, ...]]
    chunk: int | None = None
    module: str | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")
    judged: bool = True

    def installed(self) -> bool:
        return self.module is None or importlib.util.find_spec(self.module) is not None

    def bind(self, input_sets: Sequence[Any]) -> list[Call]:
        """One call without arguments for each set of inputs."""
        function = self.function
        if self.kind == "compiled":
            function = torch.compile(function, fullgraph=True, dynamic=False)
        if self.chunk:
            function = in_chunks(function, self.chunk)
        return [_bound(function, self.arguments(inputs)) for inputs in input_sets]


@dataclass(frozen=True, eq=False)
class Case:
    """An op at one size.

    Attributes:
        size: what the letters of the op's shapes are, and other choices, in the order to show.
        inputs: makes them on the CPU from a generator; a NamedTuple of tensors and NamedTuples.
        oracle: the right result in float64.
        error: of a variant's output, given the oracle's and the inputs; NaN counts as wrong.
        tolerance: largest `error` of a variant that is right.
        small: so small that only the overhead of a call is seen; also what slow checkers run.
        memory: the peak of its memory is measured, too.
    """

    op: str
    size: Mapping[str, int | str]
    inputs: Callable[[torch.Generator], Any]
    oracle: Callable[[Any], Any]
    error: Callable[[Any, Any, Any], float]
    tolerance: float
    work: Callable[[Any], Work]
    variants: tuple[Variant, ...]
    small: bool = False
    memory: bool = False

    @property
    def name(self) -> str:
        return f"{self.op} {self.size_text}"

    @property
    def size_text(self) -> str:
        return " ".join(
            f"{key}={value}" if isinstance(value, int) else value
            for key, value in self.size.items()
        )

    def variants_on(self, device: str) -> list[Variant]:
        return [variant for variant in self.variants if device in variant.devices]

    def make_inputs(self, seed: int, device: str) -> Any:
        return moved(self.inputs(torch.Generator().manual_seed(seed)), device)


def forms(
    name: str,
    function: Callable[..., Any],
    arguments: Callable[[Any], tuple[Any, ...]],
    *,
    chunk: int | None = None,
) -> list[Variant]:
    """A vectorised function as it is and under torch.compile; with `chunk`, on CPUs also in chunks,
    which stay in the cache there."""
    whole = Variant(name, "torch", function, arguments)
    found = [whole]
    if chunk:
        name = f"{name}, chunks of {chunk}"
        found.append(replace(whole, name=name, chunk=chunk, devices=("cpu",)))
    return found + [replace(v, name=f"{v.name}, compiled", kind="compiled") for v in found]


def in_chunks(function: Callable[..., Any], size: int) -> Callable[..., Any]:
    """`function` on `size` queries at a time.

    The first argument is a tensor with one row a query, or a tuple of such; the others are shared.
    """

    def run(batch: Any, *shared: Any) -> Any:
        parts = [function(part, *shared) for part in _split(batch, size)]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    return run


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def moved(value: Any, device: str | torch.device) -> Any:
    """Nested tuples with their tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return _like(value, (moved(part, device) for part in value))
    return value


def in_float64(value: Any) -> Any:
    """Nested tuples with their floating tensors in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return _like(value, (in_float64(part) for part in value))
    return value


def _like(value: tuple[Any, ...], parts: Iterable[Any]) -> tuple[Any, ...]:
    """A tuple, or a NamedTuple of the same type."""
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


def relative_error(output: Any, expected: Any) -> float:
    """||output - expected|| / ||expected||, the largest over the tensors of a result."""
    pairs = list(zip(tensors(output), tensors(expected), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return math.inf
    return largest(*((a.double() - b).norm() / b.norm() for a, b in pairs))


def largest(*values: Tensor) -> float:
    """The maximum of scalars, and NaN when there is one among them."""
    return float(torch.stack(values).max())


def _split(batch: Any, size: int) -> list[Any]:
    if isinstance(batch, Tensor):
        return list(batch.split(size))
    columns = [_split(part, size) for part in batch]
    return [type(batch)(*row) for row in zip(*columns, strict=True)]


def _bound(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Call:
    return lambda: function(*arguments)
