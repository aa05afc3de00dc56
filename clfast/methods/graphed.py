"""`Graphed`: functions of tensors that are captured in a CUDA graph once their arguments repeat."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from .._warnings import warn_caller
from ..nn.buffers import saved_buffers

Inputs: TypeAlias = "Sequence[Tensor | None]"
Outputs: TypeAlias = "tuple[Tensor, ...]"
Function: TypeAlias = "Callable[..., Outputs]"

# Graphs of the same networks. Shapes beyond these run as without graphs: to make room would mean to
# capture, which takes longer than to run, again and again.
_MOST_SHAPES = 16


class Recorder(ABC):
    """Records functions on one device, of inputs that stay where they are in memory."""

    kind: str
    """The type of the device."""

    @abstractmethod
    def __init__(self, device: torch.device) -> None: ...

    @abstractmethod
    def warm_up(self, function: Function, inputs: Inputs) -> None:
        """Run it once; RuntimeError if that shows that it cannot be captured."""

    @abstractmethod
    def capture(self, function: Function, inputs: Inputs) -> Callable[[], Outputs]:
        """Record it without running it; RuntimeError if that cannot be done.

        Returns:
            A call that runs what was recorded; the next call overwrites its outputs.
        """


class CudaRecorder(Recorder):
    """Records CUDA graphs, which share one pool of memory: they never run at the same time, and
    their outputs are copied before the next one runs."""

    kind = "cuda"

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, function: Function, inputs: Inputs) -> None:
        now = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(now)
        try:
            with _never_waiting(), torch.cuda.stream(self._stream):
                function(*inputs)
        finally:
            now.wait_stream(self._stream)

    def capture(self, function: Function, inputs: Inputs) -> Callable[[], Outputs]:
        graph = torch.cuda.CUDAGraph()
        # The outer block sets the stream back where the end of a failed capture raises. Threads
        # other than this one, as those that pin batches of a DataLoader, may go on.
        with (
            torch.cuda.stream(torch.cuda.current_stream(self._stream.device)),
            torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"),
        ):
            outputs = function(*inputs)

        def run() -> Outputs:
            graph.replay()
            return outputs

        return run


@contextmanager
def _never_waiting() -> Iterator[None]:
    """Raises RuntimeError after a block in which torch has waited for the device.

    To capture such a block would fail as well, but leave torch's allocator, and in some versions
    its generator, in the middle of a capture. Other threads may wait: they are only warned of it.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
    if any("called a synchronizing CUDA operation" in str(each.message) for each in heard):
        raise RuntimeError("the host waits for the device")


class _Recording(NamedTuple):
    inputs: Inputs
    run: Callable[[], Outputs]

    def __call__(self, given: Inputs) -> Outputs:
        for static, now in zip(self.inputs, given, strict=True):
            if static is not None and now is not None:
                static.copy_(now.detach())
        return tuple(output.clone() for output in self.run())


class Graphed:
    """Runs functions of tensors, from the second time on as a graph.

    A graph is of networks, as they are and where they lie in memory, and of the shapes of the
    inputs: the first call with these runs as ever, the second captures, and it and all later ones
    replay. Running statistics and random state move as in calls without graphs. What a function
    does on the host, it does when it is captured and not when it is replayed.

    Where the device is of another kind than the recorder's nothing is captured. Where capturing
    fails, as it does when the host waits for the device or draws random numbers, a warning says so
    once, and all calls run as ever. Copies and pickles have no graphs.

    Args:
        name: of the learner, for the warning.
        recorder: what captures.
    """

    def __init__(self, name: str, recorder: type[Recorder] = CudaRecorder) -> None:
        self._name = name
        self._kind = recorder
        self._failed = False
        self.forget()

    def forget(self) -> None:
        """Drop the graphs and their memory."""
        self._of: object = None
        self._recorder: Recorder | None = None
        self._recordings: dict[Any, _Recording | None] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._name, self._kind)

    def __call__(
        self,
        function: Function,
        inputs: Inputs,
        networks: Sequence[nn.Module],
        *constants: object,
    ) -> Outputs:
        """``function(*inputs)``.

        Args:
            function: writes to none of its inputs, and depends on them, on the networks and on the
                constants alone.
            inputs: tensors on one device, the first of which is there.
            networks: whose running statistics the function may move.
            constants: compared by ``==``.

        Returns:
            Tensors without a gradient, the caller's to keep.
        """
        assert inputs[0] is not None
        device = inputs[0].device
        if self._failed or device.type != self._kind.kind:
            return function(*inputs)
        of = (constants, _ambient(device), [_fingerprint(network) for network in networks])
        if of != self._of:
            self.forget()
            self._of = of
        shapes = tuple(None if t is None else _layout(t) for t in inputs)
        if shapes not in self._recordings:
            if len(self._recordings) < _MOST_SHAPES:
                self._recordings[shapes] = None
            return function(*inputs)
        recording = self._recordings[shapes]
        if recording is None:
            try:
                recording = self._record(function, inputs, networks, device)
            except RuntimeError as error:
                self._give_up(error)
                return function(*inputs)
            self._recordings[shapes] = recording
        return recording(inputs)

    def _record(
        self,
        function: Function,
        inputs: Inputs,
        networks: Sequence[nn.Module],
        device: torch.device,
    ) -> _Recording:
        if self._recorder is None:
            self._recorder = self._kind(device)
        static = [None if t is None else t.detach().clone() for t in inputs]
        put_back = saved_buffers(*networks)
        dtype, enabled = _ambient(device)
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            # A cached weight in 16 bits would be captured as it is now.
            torch.autocast(device.type, dtype, enabled, cache_enabled=False),
        ):
            try:
                self._recorder.warm_up(function, static)
            finally:
                put_back()
            before = torch.get_rng_state()
            run = self._recorder.capture(function, static)
            if not torch.equal(before, torch.get_rng_state()):
                raise RuntimeError("random numbers are drawn on the host")
        return _Recording(static, run)

    def _give_up(self, error: RuntimeError) -> None:
        self.forget()
        self._failed = True
        reason = str(error).partition("\n")[0]
        warn_caller(
            f"{self._name}: what the networks do cannot be captured in a CUDA graph: {reason}; "
            "everything runs as with cuda_graph=False"
        )


def _ambient(device: torch.device) -> tuple[torch.dtype, bool]:
    """The caller's autocast."""
    return torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)


def _fingerprint(network: nn.Module) -> object:
    """What a graph of the network depends on: its modules, with hooks, modes, and other numbers
    that are attributes, and where parameters and buffers lie. It keeps the modules alive, so that
    no other is taken for one of them."""
    modules = [
        (module, [*module._forward_pre_hooks, *module._forward_hooks], _numbers(module))
        for module in network.modules()
    ]
    tensors = (*network.parameters(), *network.buffers())
    return modules, [(t.data_ptr(), _layout(t)) for t in tensors]


def _numbers(module: nn.Module) -> list[float]:
    return [value for value in vars(module).values() if isinstance(value, int | float)]


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
