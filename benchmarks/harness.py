"""Measures one case: checks every variant against the oracle, then times them in turns.

The variants take turns in one process, so a clock that drifts meets all of them; what differs from
process to process (memory layout, seeds) is `run`'s to repeat.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from .bystanders import Bystanders
from .case import Call, Case, Variant, tensors
from .memory import peak_memory


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    Attributes:
        rounds: samples of each variant.
        sample: seconds a sample must last; short calls are repeated until they fill it.
        budget: seconds of samples after which a slow variant stops, with three samples or more;
            one call that is longer than this is sample enough.
        pause: seconds before each sample, in which the idle threads of other libraries, which wait
            in a loop for a while, go to sleep.
        flush_l2: on CUDA, overwrite the L2 cache before every call.
    """

    rounds: int = 15
    sample: float = 1e-3
    budget: float = 2.0
    pause: float = 0.02
    flush_l2: bool = False


class Timer(Protocol):
    def seconds(self, calls: Sequence[Call], repeats: int) -> float:
        """The time of one call, from `repeats` calls that take turns among `calls`."""


@dataclass
class WallTimer:
    clock: Callable[[], float] = time.perf_counter

    def seconds(self, calls: Sequence[Call], repeats: int) -> float:
        turns = [calls[i % len(calls)] for i in range(repeats)]
        start = self.clock()
        for call in turns:
            call()
        return (self.clock() - start) / repeats


class CudaTimer:
    """CUDA events around the calls; includes launch gaps when kernels are shorter than those.

    With `flush_l2` there are events around every single call, and a write of twice the cache's
    size before it, outside them.
    """

    def __init__(self, flush_l2: bool) -> None:
        size = torch.cuda.get_device_properties().L2_cache_size
        self._flush = torch.empty(2 * size, dtype=torch.uint8, device="cuda") if flush_l2 else None

    def seconds(self, calls: Sequence[Call], repeats: int) -> float:
        turns = [calls[i % len(calls)] for i in range(repeats)]
        groups = [turns] if self._flush is None else [[call] for call in turns]
        torch.cuda.synchronize()
        spans = []
        for group in groups:
            if self._flush is not None:
                self._flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for call in group:
                call()
            end.record()
            spans.append((start, end))
        torch.cuda.synchronize()
        milliseconds: float = sum(start.elapsed_time(end) for start, end in spans)
        return milliseconds / 1e3 / repeats


@dataclass
class _Contender:
    name: str
    calls: Sequence[Call]
    repeats: int  # calls a sample
    estimate: float  # seconds a call
    samples: list[float] = field(default_factory=list)

    def done(self, budget: float) -> bool:
        spent = sum(self.samples) * self.repeats
        return spent > budget and (len(self.samples) >= 3 or self.estimate > budget)


def alternate(
    contenders: Mapping[str, Sequence[Call]],
    timer: Timer,
    settings: Settings,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[float]]:
    """Seconds a call, sample by sample. Every round begins with another contender, and before each
    sample its calls run untimed, so that it meets the caches as it leaves them."""
    running = [
        _Contender(name, calls, *_repeats(calls, timer, settings.sample))
        for name, calls in contenders.items()
    ]
    for contender in running:
        if contender.estimate > settings.budget:
            contender.samples.append(contender.estimate)
    for turn in range(settings.rounds if running else 0):
        first = turn % len(running)
        for contender in running[first:] + running[:first]:
            if contender.done(settings.budget):
                continue
            sleep(settings.pause)
            if contender.estimate < 20 * settings.sample:
                timer.seconds(contender.calls, contender.repeats)
            contender.samples.append(timer.seconds(contender.calls, contender.repeats))
    return {contender.name: contender.samples for contender in running}


def _repeats(calls: Sequence[Call], timer: Timer, sample: float) -> tuple[int, float]:
    """Calls that fill a sample, and the seconds of one; found by doubling, which also warms up."""
    repeats = len(calls)
    while True:
        # One disturbed trial must not pass for a slow call.
        estimate = timer.seconds(calls, repeats)
        if estimate < 20 * sample:
            estimate = min(estimate, *(timer.seconds(calls, repeats) for _ in range(2)))
        if estimate * repeats >= sample:
            # Whole turns around the input sets, so that each counts alike.
            return math.ceil(sample / (estimate * len(calls))) * len(calls), estimate
        repeats *= 2


def measure(
    case: Case, device: str, seed: int, timer: Timer, settings: Settings, cache: int = 0
) -> dict[str, Any]:
    """The record of one case in one process: its work, the share of the cores that other processes
    used, and for each variant either its time and error, and the peak of its memory if the case
    wants it, or why there is none.

    Calls rotate among inputs that together overflow `cache` bytes.
    """
    torch.compiler.reset()
    with torch.no_grad():
        first = case.make_inputs(seed, device)
        sets = [first, *(case.make_inputs(seed + i, device) for i in range(1, _sets(first, cache)))]
        expected = case.oracle(first)
        calls: dict[str, Sequence[Call]] = {}
        found: dict[str, dict[str, Any]] = {}
        for variant in case.variants:
            bound, found[variant.name] = _checked(case, variant, device, sets, expected)
            if bound:
                calls[variant.name] = bound
        del expected
        bystanders = Bystanders()
        for name, samples in alternate(calls, timer, settings).items():
            found[name] |= {
                "seconds": statistics.median(samples),
                "fastest": min(samples),
                "samples": len(samples),
            }
        if case.memory:
            for name, bound in calls.items():
                found[name]["peak"] = peak_memory(bound[0], device)
    return {
        "op": case.op,
        "size": case.size_text,
        "work": case.work(first)._asdict(),
        "input_sets": len(sets),
        "others": bystanders.share(),
        "variants": found,
    }


def _sets(inputs: Any, cache: int) -> int:
    """Three times the cache, but no more than 16 sets."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors(inputs))
    return min(max(math.ceil(3 * cache / size), 1), 16)


def _checked(
    case: Case, variant: Variant, device: str, sets: Sequence[Any], expected: Any
) -> tuple[list[Call] | None, dict[str, Any]]:
    """The variant's calls when it is right, and the start of its record."""
    record: dict[str, Any] = {"kind": variant.kind}
    if device not in variant.devices:
        return None, record | {"status": "missing", "note": f"not for {device}"}
    if not variant.installed():
        return None, record | {"status": "missing", "note": f"{variant.module} is not installed"}
    try:
        calls = variant.bind(sets)
        error = case.error(calls[0](), expected, sets[0])
    except Exception as problem:  # an opponent that fails must not end the run
        text = f"{type(problem).__name__}: {problem}".splitlines()[0]
        return None, record | {"status": "failed", "note": text[:200]}
    record["error"] = error if math.isfinite(error) else None
    if variant.judged and not error <= case.tolerance:
        note = f"error {error:.2g}, tolerance {case.tolerance:.2g}"
        return None, record | {"status": "wrong", "note": note}
    return calls, record | {"status": "measured"}
