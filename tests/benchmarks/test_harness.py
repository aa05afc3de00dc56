"""The measuring itself, with a clock that only the measured functions move."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks import harness, machine, memory
from benchmarks.bystanders import Bystanders, busy_seconds
from benchmarks.case import Case, Variant, Work, forms, in_chunks, largest, relative_error
from benchmarks.harness import Settings, WallTimer, alternate

SETTINGS = Settings(rounds=6)


class FakeClock:
    """Every call costs what it says, times the slowness of the moment; `log` holds the names."""

    def __init__(self) -> None:
        self.now, self.slowness, self.log = 0.0, 1.0, []

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, seconds: float):
        def run() -> None:
            self.log.append(name)
            self.now += seconds * self.slowness

        return run

    def pause(self, seconds: float) -> None:
        self.log.append("pause")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_a_timer_takes_turns_among_the_input_sets(clock: FakeClock) -> None:
    calls = [clock.call("a", 1.0), clock.call("b", 3.0)]
    assert WallTimer(clock).seconds(calls, 4) == 2.0
    assert clock.log == ["a", "b", "a", "b"]


def test_every_variant_gets_as_many_samples_as_rounds(clock: FakeClock) -> None:
    calls = {"fast": [clock.call("fast", 1e-5)], "slow": [clock.call("slow", 2e-3)]}
    samples = alternate(calls, WallTimer(clock), SETTINGS, clock.pause)
    assert samples["fast"] == pytest.approx([1e-5] * 6)
    assert samples["slow"] == pytest.approx([2e-3] * 6)


def test_short_calls_are_repeated_until_they_fill_a_sample(clock: FakeClock) -> None:
    calls = {"tiny": [clock.call("tiny", 1e-6)]}
    alternate(calls, WallTimer(clock), Settings(rounds=1), clock.pause)
    after_pause = clock.log[clock.log.index("pause") + 1 :]
    assert len(after_pause) == 2 * 1000  # untimed, then timed


def test_a_sample_is_whole_turns_around_the_input_sets(clock: FakeClock) -> None:
    calls = {"x": [clock.call(name, 3e-4) for name in "abc"]}
    alternate(calls, WallTimer(clock), Settings(rounds=1), clock.pause)
    assert clock.log[-6:] == list("abcabc")


def test_a_disturbed_first_trial_does_not_pass_for_a_slow_call(clock: FakeClock) -> None:
    disturbed = iter([1e-2])

    def call() -> None:
        clock.log.append("x")
        clock.now += next(disturbed, 1e-5)

    samples = alternate({"x": [call]}, WallTimer(clock), Settings(rounds=1), clock.pause)
    assert samples["x"] == pytest.approx([1e-5])


def test_variants_take_turns_and_each_round_begins_with_another(clock: FakeClock) -> None:
    calls = {name: [clock.call(name, 0.05)] for name in "abc"}
    alternate(calls, WallTimer(clock), Settings(rounds=3), clock.pause)
    order = "".join(clock.log[clock.log.index("pause") :]).replace("pause", "")
    assert order == "abc" + "bca" + "cab"


def test_a_clock_that_drifts_leaves_the_ratio_alone(clock: FakeClock) -> None:
    """Both variants meet each slowness equally often."""

    def pause(_: float) -> None:
        clock.slowness *= 1.02

    calls = {"one": [clock.call("one", 1e-3)], "two": [clock.call("two", 2e-3)]}
    samples = alternate(calls, WallTimer(clock), Settings(rounds=10), pause)
    ratio = sorted(samples["two"])[5] / sorted(samples["one"])[5]
    assert ratio == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize(
    ("seconds", "samples"),
    [(0.1, 6), (0.5, 5), (0.9, 3), (1.5, 3), (9.0, 1)],
)
def test_slow_variants_stop_at_their_budget(clock: FakeClock, seconds: float, samples: int) -> None:
    calls = {"slow": [clock.call("slow", seconds)]}
    assert len(alternate(calls, WallTimer(clock), SETTINGS, clock.pause)["slow"]) == samples


def test_nothing_to_time_is_no_error(clock: FakeClock) -> None:
    assert alternate({}, WallTimer(clock), SETTINGS, clock.pause) == {}


class Inputs(NamedTuple):
    x: Tensor


def _case(*variants: Variant) -> Case:
    return Case(
        op="double",
        size={"N": 4, "kind": "positive"},
        inputs=lambda generator: Inputs(torch.rand(4, generator=generator) + 1),
        oracle=lambda inputs: 2 * inputs.x.double(),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-5,
        work=lambda inputs: Work(16, 16, 4),
        variants=variants,
    )


def _variant(name: str, function, **options) -> Variant:
    return Variant(name, "torch", function, lambda inputs: (inputs.x,), **options)


def _fail(_: Tensor) -> Tensor:
    raise RuntimeError("out of something\nand a second line")


def _measured(*variants: Variant, clock: FakeClock, cache: int = 0, memory: bool = False) -> dict:
    # The clock moves by itself here: what is measured costs nothing that a test could rely on.
    def ticking() -> float:
        clock.now += 1e-3
        return clock.now

    settings = Settings(rounds=3, pause=0)
    case = replace(_case(*variants), memory=memory)
    return harness.measure(case, "cpu", 0, WallTimer(ticking), settings, cache)


def test_a_record_holds_the_work_and_every_variant(clock: FakeClock) -> None:
    record = _measured(_variant("right", lambda x: 2 * x), clock=clock)
    assert record["op"] == "double"
    assert record["size"] == "N=4 positive"
    assert record["work"] == {"read": 16, "written": 16, "flops": 4}
    assert 0 <= record["others"] <= 1
    right = record["variants"]["right"]
    assert right == {
        "kind": "torch",
        "status": "measured",
        "error": 0.0,
        "seconds": pytest.approx(1e-3),
        "fastest": pytest.approx(1e-3),
        "samples": 3,
    }


def test_the_peak_of_memory_is_measured_where_a_case_wants_it(clock: FakeClock) -> None:
    variants = [_variant(str(n), lambda x, n=n: 2 * x + torch.zeros(n << 18)[0]) for n in (64, 16)]
    found = _measured(*variants, clock=clock, memory=True)["variants"]
    for mebibytes in (64, 16):
        assert 0.9 < found[str(mebibytes)]["peak"] / (mebibytes << 20) < 1.5


def test_memory_is_not_measured_where_the_system_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "nothing")
    assert memory.peak_memory(lambda: None, "cpu") is None


@pytest.mark.parametrize(
    ("variant", "status", "note"),
    [
        (_variant("v", lambda x: 2.01 * x), "wrong", "error 0.005"),
        (_variant("v", lambda x: x * math.nan), "wrong", "error nan"),
        (_variant("v", lambda x: 2 * x[:3]), "wrong", "error inf"),
        (_variant("v", _fail), "failed", "RuntimeError: out of something"),
        (_variant("v", torch.clone, module="no_such_module"), "missing", "not installed"),
        (_variant("v", torch.clone, devices=("cuda",)), "missing", "not for cpu"),
    ],
)
def test_what_is_not_right_is_reported_and_never_timed(
    clock: FakeClock, variant: Variant, status: str, note: str
) -> None:
    record = _measured(variant, _variant("right", lambda x: 2 * x), clock=clock)
    found = record["variants"]["v"]
    assert found["status"] == status
    assert note in found["note"]
    assert "seconds" not in found
    assert record["variants"]["right"]["status"] == "measured"


@pytest.mark.parametrize(("cache", "sets"), [(0, 1), (16, 3), (1 << 20, 16)])
def test_inputs_rotate_until_they_overflow_the_cache(
    clock: FakeClock, cache: int, sets: int
) -> None:
    record = _measured(_variant("right", lambda x: 2 * x), clock=clock, cache=cache)
    assert record["input_sets"] == sets


def test_nan_is_never_hidden_by_a_larger_error() -> None:
    assert math.isnan(largest(torch.tensor(1.0), torch.tensor(math.nan)))
    assert math.isnan(largest(torch.tensor(math.nan), torch.tensor(1.0)))


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


def test_chunks_give_what_the_whole_batch_gives() -> None:
    a, b, shared = torch.rand(7, 3), torch.rand(7), torch.rand(3)

    def one(batch: Tensor, shared: Tensor) -> Tensor:
        return batch @ shared

    def two(batch: Pair, shared: Tensor) -> tuple[Tensor, Tensor]:
        return batch.a @ shared + batch.b, batch.b

    torch.testing.assert_close(in_chunks(one, 2)(a, shared), one(a, shared))
    torch.testing.assert_close(in_chunks(two, 3)(Pair(a, b), shared), two(Pair(a, b), shared))


def test_forms_are_eager_and_compiled_whole_and_in_chunks() -> None:
    found = {v.name: (v.kind, v.chunk) for v in forms("f", torch.neg, lambda x: (x,), chunk=10)}
    assert found == {
        "f": ("torch", None),
        "f, chunks of 10": ("torch", 10),
        "f, compiled": ("compiled", None),
        "f, chunks of 10, compiled": ("compiled", 10),
    }


MACHINE = {
    "memory": [
        {"name": "L2", "capacity": 1000, "read": 100.0, "copy": 100.0},
        {"name": "DRAM", "capacity": None, "read": 10.0, "copy": 8.0},
    ],
    "flops": {"sgemm": 50.0},
}


@pytest.mark.parametrize(
    ("work", "floor", "bound"),
    [
        ({"read": 500, "written": 0, "flops": 0}, 5.0, "L2"),
        ({"read": 500, "written": 500, "flops": 0}, 10.0, "L2"),
        ({"read": 2000, "written": 0, "flops": 0}, 200.0, "DRAM"),
        ({"read": 2000, "written": 2000, "flops": 0}, 500.0, "DRAM"),  # a copy at 8
        ({"read": 2000, "written": 0, "flops": 20_000}, 400.0, "sgemm"),
    ],
)
def test_the_floor_is_the_slower_of_bytes_and_flops(
    work: dict[str, int], floor: float, bound: str
) -> None:
    floors = machine.floors(work, MACHINE)
    assert max(floors, key=floors.__getitem__) == bound
    assert floors[bound] == pytest.approx(floor)


def test_caches_are_read_from_linux(tmp_path) -> None:
    caches = [("1", "Data", "48K"), ("2", "Unified", "2048K"), ("3", "Unified", "32768K")]
    for number, values in enumerate(caches):
        folder = tmp_path / "cpu0" / "cache" / f"index{number}"
        folder.mkdir(parents=True)
        for name, value in zip(("level", "type", "size"), values, strict=True):
            (folder / name).write_text(value + "\n")
    assert machine.cpu_caches(2, tmp_path) == [("L2", 4 << 20), ("L3", 32 << 20)]
    assert machine.cpu_caches(2, tmp_path / "nothing") == []


@pytest.mark.parametrize(
    ("end", "share"),
    [((20.0, 112.0, 7.0), 0.25), ((20.0, 105.0, 9.0), 0.0), ((20.0, 200.0, 5.0), 1.0)],
)
def test_bystanders_used_what_this_process_did_not(
    end: tuple[float, float, float], share: float
) -> None:
    readings = iter([(10.0, 100.0, 0.0), end])
    assert Bystanders(lambda: next(readings), cores=2).share() == share


def test_busy_is_all_but_idle_and_waiting_for_disk(tmp_path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 10 50 9000 800 5 5 30 7 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert busy_seconds(stat) == pytest.approx(200 / os.sysconf("SC_CLK_TCK"))
    assert busy_seconds(tmp_path / "nothing") == 0.0
