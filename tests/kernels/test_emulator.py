"""The SIMT emulator: right kernels come out right, and planted faults are found.

The kernels are in ``planted/``. ``planted/probe.cpp`` runs one of them per call; it is compiled
once without sanitizers, once with the address and the undefined-behaviour sanitizer, and once with
the thread sanitizer. Expected numbers are worked out here from CUDA's documentation.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
CUDA_KERNELS = HERE.parents[1] / "csrc" / "kernels" / "cuda"
INCLUDES = [f"-I{CUDA_KERNELS}", f"-I{HERE}"]
CXX = shlex.split(os.environ.get("CXX", "g++"))

SIZES = [1, 31, 32, 33, 127, 128, 129, 1000]
ORDERS = ["forward", "reverse", "random:1"]
ROWS = 5
INT_MAX = 2**31 - 1

BUILDS = {
    "plain": [],
    "address": ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    # The other two switch fibers in assembly where they can; this one covers the portable way.
    "thread": ["-g", "-fsanitize=thread", "-DSIMT_USE_UCONTEXT"],
}
EMULATOR_ERROR = 3
DATA_RACE = 66
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0",  # leak detection needs ptrace, which containers may refuse
    "TSAN_OPTIONS": f"exitcode={DATA_RACE} halt_on_error=1 atexit_sleep_ms=0",
}


class Probe:
    """One build of ``planted/probe.cpp``."""

    def __init__(self, build, folder):
        self.program = folder / f"probe_{build}"
        command = [
            *CXX,
            *["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"],
            *["-ffp-contract=off", "-ftrivial-auto-var-init=pattern"],
            *[*BUILDS[build], *INCLUDES, str(HERE / "planted" / "probe.cpp")],
            *["-o", str(self.program)],
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def run(self, check, order="forward", size=128, stdin=b""):
        """The finished process and the numbers it wrote."""
        done = subprocess.run(
            [str(self.program), check, order, str(size)],
            input=stdin,
            capture_output=True,
            env={**os.environ, **ENVIRONMENT},
            timeout=120,
        )
        done.stderr = done.stderr.decode()
        return done, np.frombuffer(done.stdout)

    def numbers(self, *args, **kwargs):
        """The numbers of a run without a finding."""
        done, numbers = self.run(*args, **kwargs)
        assert (done.returncode, done.stderr) == (0, "")
        return numbers


@pytest.fixture(scope="session")
def builds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulator")
    made = {}

    def get(name):
        if name not in made:
            made[name] = Probe(name, folder)
        return made[name]

    return get


@pytest.fixture
def plain(builds):
    return builds("plain")


@pytest.fixture
def address(builds):
    return builds("address")


@pytest.fixture
def thread(builds):
    probe = builds("thread")
    done, _ = probe.run("arithmetic", size=32)
    if "FATAL: ThreadSanitizer" in done.stderr:  # an address-space layout that it does not know
        pytest.skip(done.stderr.strip())
    return probe


def rows(columns):
    return np.random.default_rng(columns).normal(2.0, 3.0, (ROWS, columns)).astype(np.float32)


def error_of_statistics(x, numbers):
    """Largest error of a kernel's row statistics, relative to what rounding may do to each."""
    wide = x.astype(np.float64)
    mean = wide.mean(axis=1, keepdims=True)
    expected = np.stack(
        [wide.max(axis=1), wide.min(axis=1), wide.sum(axis=1), ((wide - mean) ** 2).sum(axis=1)],
        axis=1,
    )
    scale = np.stack(
        [
            np.abs(wide).max(axis=1),
            np.abs(wide).max(axis=1),
            np.abs(wide).sum(axis=1),
            (wide**2).sum(axis=1),
        ],
        axis=1,
    )
    return np.max(np.abs(numbers.reshape(ROWS, 4) - expected) / scale)


ROUNDING = 32 * float(np.finfo(np.float32).eps)


# ---- Right kernels ----


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("threads", [32, 128, 1024])
def test_block_reductions_match_the_oracle(plain, threads, columns, order):
    x = rows(columns)
    numbers = plain.numbers(f"row_statistics_{threads}", order, columns, x.tobytes())
    assert error_of_statistics(x, numbers) < ROUNDING
    np.testing.assert_array_equal(numbers.reshape(ROWS, 4)[:, 0], x.max(axis=1))


@pytest.mark.parametrize("build", ["address", "thread"])
@pytest.mark.parametrize("order", ORDERS)
def test_right_kernels_pass_the_sanitizers(request, build, order):
    probe = request.getfixturevalue(build)
    x = rows(129)
    numbers = probe.numbers("row_statistics_128", order, 129, x.tobytes())
    assert error_of_statistics(x, numbers) < ROUNDING
    np.testing.assert_array_equal(
        probe.numbers("shuffles", order, 33), expected_shuffles(33), strict=True
    )
    np.testing.assert_array_equal(probe.numbers("votes", order, 33), expected_votes(33))
    check_atomics(probe.numbers("atomics", order, 33), order, 33)
    neighbours = probe.numbers("neighbour", order, 32)
    np.testing.assert_array_equal(neighbours, np.arange(32) ^ 1)


@pytest.mark.parametrize("build", ["plain", "address", "thread"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_launch_after_an_error_is_unharmed(request, build, order):
    x = rows(129)
    probe = request.getfixturevalue(build)
    numbers = probe.numbers("recovery", order, 129, x.tobytes())
    assert error_of_statistics(x, numbers) < ROUNDING


# ---- What CUDA's intrinsics return ----


def expected_shuffles(threads):
    results = []
    for shuffle in ["indexed", "up", "down", "xor"]:
        for width in [32, 8, 1]:
            for argument in [0, 1, 3, 16, 31]:
                for thread in range(threads):
                    lane = thread % 32
                    first = lane - lane % width
                    last = first + width - 1
                    source = {
                        "indexed": first + argument % width,
                        "up": lane - argument if lane - argument >= first else lane,
                        "down": lane + argument if lane + argument <= last else lane,
                        "xor": lane ^ argument if lane ^ argument <= last else lane,
                    }[shuffle]
                    source += thread - lane
                    # A lane that the block does not have: all bits set, as float and as int64.
                    exists = source < threads
                    results += [100 + source] * 2 if exists else [np.nan, -1]
    return np.array(results, dtype=np.float64)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", SIZES)
def test_shuffles(plain, threads, order):
    numbers = plain.numbers("shuffles", order, threads)
    np.testing.assert_array_equal(numbers, expected_shuffles(threads), strict=True)


def expected_votes(threads):
    results = []
    for divisor in [1, 3, 40]:
        for thread in range(threads):
            first = thread - thread % 32
            lanes = range(first, min(first + 32, threads))
            yes = [lane for lane in lanes if lane % divisor == 0]
            ballot = sum(1 << lane % 32 for lane in yes)
            active = sum(1 << lane % 32 for lane in lanes)
            results += [ballot, len(yes) > 0, len(yes) == len(lanes), active]
    return np.array(results, dtype=np.float64)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", SIZES)
def test_votes(plain, threads, order):
    numbers = plain.numbers("votes", order, threads)
    np.testing.assert_array_equal(numbers, expected_votes(threads), strict=True)


@pytest.mark.parametrize("order", ORDERS)
def test_lanes_of_two_branches_shuffle_among_themselves(plain, order):
    numbers = plain.numbers("half_warps", order, 96)
    threads = np.arange(96)
    same = (threads[:, None] // 32 == threads // 32) & (threads[:, None] % 2 == threads % 2)
    np.testing.assert_array_equal(numbers, (same * threads).sum(axis=1))


@pytest.mark.parametrize("order", ORDERS)
def test_warp_operations_do_not_wait_for_lanes_that_returned(plain, order):
    numbers = plain.numbers("ballot_after_return", order, 67)
    lanes = np.arange(67) % 32
    ballots = np.where(np.arange(67) < 64, 0b11111, 0b111)
    np.testing.assert_array_equal(numbers, np.where(lanes < 5, ballots, 0))


def check_atomics(numbers, order, threads):
    count = 3 * threads
    arrival, results = numbers[:count].astype(int), numbers[count:]
    i = np.arange(count)
    np.testing.assert_array_equal(np.sort(arrival), i)
    if order == "forward":
        np.testing.assert_array_equal(arrival, i)
    if order == "reverse":
        np.testing.assert_array_equal(arrival, i[::-1])
    if order.startswith("random"):
        assert not np.array_equal(arrival, i)
        assert not np.array_equal(arrival, i[::-1])
    low_bits = np.bitwise_or.reduce(1 << i % 16)
    expected = {
        "sum_int": (INT_MAX + (i - 7).sum() + 2**31) % 2**32 - 2**31,
        "difference_int": -i.sum(),
        "largest_int": max(0, count - 11),
        "smallest_int": 1 - count,
        "exchanged_int": np.argmax(arrival),  # by the last to come
        "claimed_int": np.argmin(arrival),  # by the first to come
        "bits_or": low_bits,
        "sum_unsigned": count,
        "largest_unsigned": 2**31 + count - 1,
        "bits_and": 2**32 - 1 - low_bits,
        "bits_xor": np.bitwise_xor.reduce(i),
        "sum_ulonglong": count * 2**33,
        "smallest_ulonglong": 2**40,
        "smallest_longlong": -(2**40) - count + 1,
        "sum_float": count / 2,
        "exchanged_float": 0.25,
        "sum_double": count / 8,
    }
    assert dict(zip(expected, results, strict=True)) == expected


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", SIZES[1:])
def test_atomics(plain, threads, order):
    check_atomics(plain.numbers("atomics", order, threads), order, threads)


def test_arithmetic(plain):
    pi = float(np.float32(np.pi))
    expected = [9, 31, 32, 0, 4, 0x3F800000, pi, -(2**31), 0x3FF0000000000000, 2.0]
    expected += [3, 2, 1, 2**32 - 1, 0.5, 1, 0, 2.0**-24, 0, 1, 32, 6, 32]
    numbers = plain.numbers("arithmetic", size=len(expected))
    np.testing.assert_array_equal(numbers, np.array(expected, dtype=np.float64))


@pytest.mark.parametrize("order", ORDERS)
def test_coordinates_of_threads_and_blocks(plain, order):
    numbers = plain.numbers("coordinates", order)
    bz, by, bx, tz, ty, tx = np.indices((2, 2, 3, 2, 3, 4))
    expected = tx + 10 * ty + 100 * tz + 1000 * bx + 10000 * by + 100000 * bz
    np.testing.assert_array_equal(numbers, expected.ravel())


def test_random_orders_are_repeatable_and_differ_between_seeds(plain):
    first, again = (plain.numbers("atomics", "random:7", 64)[:192] for _ in range(2))
    other = plain.numbers("atomics", "random:8", 64)[:192]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# ---- Launches and shared memory ----


def test_launches_that_cuda_refuses(plain):
    # After each launch: what peeking at the last error gives, getting it, and getting it again.
    fine, configuration, value = [0, 0, 0], [9, 9, 0], [1, 1, 0]
    numbers = plain.numbers("launch_errors")
    assert numbers.tolist() == fine + 5 * configuration + value


def test_shared_memory_beyond_48_kib_wants_an_opt_in_that_the_device_can_grant(plain):
    assert plain.numbers("shared_opt_in").tolist() == [0, 1, 1]


@pytest.mark.parametrize("check", ["big_shared", "dynamic_and_fixed_shared"])
def test_shared_memory_of_a_kernel_counts_towards_the_limit(plain, check):
    assert plain.numbers("fitting_shared", size=32).tolist() == [2.0] * 32
    done, _ = plain.run(check, size=32)
    assert done.returncode == EMULATOR_ERROR
    assert "bytes of shared memory, limit 49152" in done.stderr


@pytest.mark.parametrize("order", ORDERS)
def test_shared_memory_of_every_block_starts_as_nan(plain, order):
    numbers = plain.numbers("uninitialised_shared", order)
    assert numbers.size == 3 * 64 * 2
    assert np.isnan(numbers).all()


# ---- Planted faults ----


def test_missing_barrier_changes_the_result_in_some_order(plain):
    x = rows(128)
    errors = {}
    for order in ORDERS:
        numbers = plain.numbers("row_statistics_missing_barrier", order, 128, x.tobytes())
        errors[order] = error_of_statistics(x, numbers)
    assert any(error > 1e-3 for error in errors.values()), errors


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("check", "size"), [("row_statistics_missing_barrier", 128), ("neighbour_missing_barrier", 32)]
)
def test_thread_sanitizer_finds_a_missing_barrier_in_every_order(thread, check, size, order):
    done, _ = thread.run(check, order, size, rows(size).tobytes())
    assert done.returncode == DATA_RACE
    assert "data race" in done.stderr
    assert ".cuh" in done.stderr


@pytest.mark.parametrize(
    ("check", "kind"),
    [
        ("read_past_global", "READ of size 4"),
        ("write_past_dynamic_shared", "WRITE of size 4"),
        ("write_past_shared", "WRITE of size 4"),
    ],
)
def test_address_sanitizer_finds_an_overrun(address, check, kind):
    done, _ = address.run(check, size=64)
    assert done.returncode not in (0, EMULATOR_ERROR)
    assert "heap-buffer-overflow" in done.stderr
    assert kind in done.stderr
    assert "faults.cuh" in done.stderr


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("overflow_index", "signed integer overflow"),
        ("load_misaligned_vector", "misaligned address"),
    ],
)
def test_undefined_behaviour_sanitizer_finds(address, check, message):
    done, _ = address.run(check)
    assert done.returncode not in (0, EMULATOR_ERROR)
    assert message in done.stderr
    assert "faults.cuh" in done.stderr


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("check", "messages"),
    [
        (
            "barrier_in_half_of_block",
            [
                "no thread can go on",
                "threads 0-31: waiting at __syncthreads (faults.cuh:",
                "threads 32-63: returned",
            ],
        ),
        (
            "return_before_barrier",
            ["threads 0-4: waiting at __syncthreads", "threads 5-63: returned"],
        ),
        ("two_barriers", ["threads of one block wait at different barriers"]),
        (
            "shuffle_in_branch",
            [
                "0, 2, 4, 6, 8, 10",
                "waiting at __shfl_xor_sync with mask 0xffffffff",
                "1, 3, 5, 7, 9, 11",
                "waiting at __syncthreads",
            ],
        ),
        ("mask_without_caller", ["lane 3 is not in its own mask"]),
        ("two_operations", ["different operations", "__shfl_xor_sync", "__shfl_down_sync"]),
        ("odd_width", ["the width of a shuffle is 12"]),
    ],
)
def test_emulator_reports(plain, check, messages, order):
    done, _ = plain.run(check, order, 64)
    assert done.returncode == EMULATOR_ERROR
    last_block_first = order == "reverse"
    if not order.startswith("random"):
        assert f"block ({int(last_block_first)}, 0, 0)" in done.stderr
    for message in messages:
        assert message in done.stderr


# ---- The same text under other compilers ----


def test_shared_formulas_have_no_symbol_that_a_linker_could_merge(tmp_path):
    source = tmp_path / "formula.cpp"
    source.write_text(
        """
#include "../common/host_device.h"
template <class T>
CLFAST_HD T twice(T x) { return x + x; }
CLFAST_HD float thrice(float x) { return x + x + x; }
float sum(float x) { return twice(x) + thrice(x); }
"""
    )
    compiled = tmp_path / "formula.o"
    subprocess.run(
        [*CXX, "-std=c++17", "-O0", *INCLUDES, "-c", str(source), "-o", str(compiled)], check=True
    )
    symbols = subprocess.run(["nm", str(compiled)], check=True, capture_output=True, text=True)
    assert "sum" in symbols.stdout
    assert " W " not in symbols.stdout


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_planted_kernels_compile_under_nvcc_without_spills(tmp_path):
    instances = """
#include "../common/host_device.h"
#include "planted/faults.cuh"
#include "planted/intrinsics.cuh"
#include "planted/row_statistics.cuh"
CLFAST_HD float twice(float x) { return 2 * x; }
namespace clfast::planted {
template cudaError_t row_statistics<128, Fault::kNone>(const float*, float*, int64_t, int64_t,
                                                       cudaStream_t);
template __global__ void shuffle_kernel<int64_t>(int64_t*, int, int, int);
template __global__ void vote_kernel<double>(double*, unsigned);
template __global__ void half_warp_kernel<double>(double*);
template __global__ void ballot_after_return_kernel<double>(double*, unsigned);
template __global__ void atomics_kernel<double>(Counters*, double*);
template __global__ void arithmetic_kernel<double>(double*);
template __global__ void coordinates_kernel<double>(double*);
template __global__ void neighbour_kernel<false>(float*);
cudaError_t with_opt_in(float* out, int64_t shared_bytes, cudaStream_t stream) {
  if (cudaError_t error = allow_dynamic_shared(read_uninitialised_shared_kernel, shared_bytes)) {
    return error;
  }
  CLFAST_LAUNCH(read_uninitialised_shared_kernel, 1, 64, shared_bytes, stream, out);
  return cudaGetLastError();
}
}  // namespace clfast::planted
"""
    source = tmp_path / "planted.cu"
    source.write_text(instances)
    command = ["nvcc", "-std=c++17", "-Xptxas", "-v", "-c", str(source), "-o", os.devnull]
    for architecture in ["80", "90"]:
        command += ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
    done = subprocess.run([*command, *INCLUDES], capture_output=True, text=True)
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    assert "warning" not in report
    functions = report.count("Function properties for")
    assert functions >= 2 * 10
    assert report.count("0 bytes spill stores, 0 bytes spill loads") == functions
