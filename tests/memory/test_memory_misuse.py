"""Wrong use of KeyValueMemory: each error names method and argument, and nothing has changed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from memory_helpers import POLICIES, filled, unchanged

from clfast.memory import KeyValueMemory

NAN, INF = float("nan"), float("inf")
ONES = torch.ones(2, 4)
LABELS = torch.tensor([0, 1])


def with_entry(entry: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    keys = torch.ones(2, 4, dtype=dtype)
    keys[1, 2] = entry
    return keys


BAD_ADD: list[tuple[Any, Any, type[Exception], str]] = [
    ([[1.0] * 4], LABELS, TypeError, "keys must be a torch.Tensor, got list"),
    (ONES, [0, 1], TypeError, "values must be a torch.Tensor, got list"),
    (ONES.long(), LABELS, TypeError, "keys must be floating point, got torch.int64"),
    (ONES.bool(), LABELS, TypeError, "keys must be floating point, got torch.bool"),
    (ONES + 0j, LABELS, TypeError, "keys must be floating point, got torch.complex64"),
    (ONES.to_sparse(), LABELS, TypeError, "keys must be dense, got torch.sparse_coo"),
    (ONES, LABELS.int(), TypeError, "values must be int64, got torch.int32"),
    (ONES, LABELS.float(), TypeError, "values must be int64, got torch.float32"),
    (ONES[0], LABELS, ValueError, "keys must have shape [n, 4], got [4]"),
    (ONES[None], LABELS, ValueError, "keys must have shape [n, 4], got [1, 2, 4]"),
    (ONES[:, :3], LABELS, ValueError, "keys must have shape [n, 4], got [2, 3]"),
    (ONES, LABELS[:1], ValueError, "values must have shape [2], one label for each row, got [1]"),
    (ONES, LABELS[:, None], ValueError, "values must have shape [2]"),
    (ONES, LABELS[0], ValueError, "values must have shape [2], one label for each row, got []"),
    (ONES[:0], LABELS, ValueError, "values must have shape [0]"),
    (ONES, LABELS - 1, ValueError, "values must be class labels >= 0, got -1 in row 0"),
    (with_entry(NAN), LABELS, ValueError, "keys must be finite, row 1 holds NaN or Inf"),
    (with_entry(INF), LABELS, ValueError, "keys must be finite, row 1 holds NaN or Inf"),
    (with_entry(-INF), LABELS, ValueError, "keys must be finite, row 1 holds NaN or Inf"),
    (with_entry(1e20), LABELS, ValueError, "squared norm that overflows torch.float32 in row 1"),
    (
        with_entry(1e200, torch.float64),
        LABELS,
        ValueError,
        "keys overflow torch.float32 in row 1",
    ),
    (ONES.to("meta"), LABELS, ValueError, "keys must be on cpu as the memory is, got meta"),
    (ONES, LABELS.to("meta"), ValueError, "values must be on cpu as the memory is, got meta"),
]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("keys", "values", "error", "message"), BAD_ADD)
def test_add_refuses(
    keys: Any, values: Any, error: type[Exception], message: str, policy: str
) -> None:
    memory = filled(20, capacity=8, policy=policy)
    with (
        unchanged(memory),
        pytest.raises(error, match=re.escape("KeyValueMemory.add: ") + ".*" + re.escape(message)),
    ):
        memory.add(keys, values)


def test_add_refuses_keys_that_overflow_the_stored_dtype() -> None:
    memory = filled(3, dtype=torch.float16)
    with unchanged(memory), pytest.raises(ValueError, match=r"overflow torch.float16 in row 1"):
        memory.add(with_entry(1e5), LABELS)
    memory = filled(3, dtype=torch.bfloat16)
    with unchanged(memory), pytest.raises(ValueError, match=r"overflow torch.bfloat16 in row 1"):
        memory.add(with_entry(3.4e38), LABELS)


def test_add_that_finds_no_room_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = filled(8)

    def no_room(*args: object, **options: object) -> None:
        raise MemoryError

    with unchanged(memory), monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "new_empty", no_room)
        with pytest.raises(MemoryError):
            memory.add(ONES, LABELS)
    memory.add(ONES, LABELS)
    assert len(memory) == 10


BAD_SEARCH: list[tuple[Any, Any, type[Exception], str]] = [
    ([[1.0] * 4], 1, TypeError, "queries must be a torch.Tensor, got list"),
    (ONES.long(), 1, TypeError, "queries must be floating point, got torch.int64"),
    (ONES[0], 1, ValueError, "queries must have shape [n, 4], got [4]"),
    (ONES[:, :3], 1, ValueError, "queries must have shape [n, 4], got [2, 3]"),
    (ONES.to("meta"), 1, ValueError, "queries must be on cpu as the memory is, got meta"),
    (with_entry(NAN), 1, ValueError, "queries must be finite, row 1 holds NaN or Inf"),
    (with_entry(INF), 1, ValueError, "queries must be finite, row 1 holds NaN or Inf"),
    (
        with_entry(1e200, torch.float64),
        1,
        ValueError,
        "queries must be finite, row 1 holds NaN or Inf",
    ),
    (ONES, 0, ValueError, "k must be at least 1, got 0"),
    (ONES, -3, ValueError, "k must be at least 1, got -3"),
    (ONES, 1.5, TypeError, "k must be an integer, got float"),
    (ONES, None, TypeError, "k must be an integer, got NoneType"),
]


@pytest.mark.parametrize(("queries", "k", "error", "message"), BAD_SEARCH)
def test_search_refuses(queries: Any, k: Any, error: type[Exception], message: str) -> None:
    memory = filled(20, capacity=8)
    with (
        unchanged(memory),
        pytest.raises(error, match=re.escape(f"KeyValueMemory.search: {message}")),
    ):
        memory.search(queries, k)


def test_search_refuses_queries_that_expect_a_gradient() -> None:
    memory = filled(3)
    queries = ONES.clone().requires_grad_()
    with unchanged(memory), pytest.raises(RuntimeError, match="queries requires grad"):
        memory.search(queries, 1)
    with torch.no_grad():
        assert memory.search(queries, 1).indices.shape == (2, 1)


def test_search_in_an_empty_memory_says_so() -> None:
    memory = KeyValueMemory(4)
    with pytest.raises(ValueError, match=r"KeyValueMemory.search: the memory is empty; add keys"):
        memory.search(ONES, 1)


BAD_KIND: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"dim": 0}, ValueError, "dim must be at least 1, got 0"),
    ({"dim": 4.0}, TypeError, "dim must be an integer, got float"),
    ({"capacity": 0}, ValueError, "capacity must be at least 1, got 0"),
    ({"capacity": -1}, ValueError, "capacity must be at least 1, got -1"),
    ({"capacity": 2.5}, TypeError, "capacity must be an integer, got float"),
    (
        {"policy": "fifo"},
        ValueError,
        "policy must be one of ring, reservoir, class_balanced, got 'fifo'",
    ),
    ({"index": 3}, TypeError, "index must be a string, got int"),
    ({"index_parameters": "nprobe=4"}, ValueError, "index_parameters are for an index of faiss"),
    ({"candidates": 0}, ValueError, "candidates must be at least 1, got 0"),
    ({"dtype": torch.int64}, ValueError, "dtype must be one of torch.float32"),
    ({"dtype": "float32"}, ValueError, "dtype must be one of torch.float32"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_KIND)
def test_constructor_refuses(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(f"KeyValueMemory: {message}")):
        KeyValueMemory(**{"dim": 4, **options})


def test_constructor_refuses_a_generator_on_another_device() -> None:
    class DeviceGenerator(torch.Generator):
        device = torch.device("cuda:0")

    with pytest.raises(ValueError, match="KeyValueMemory: generator must be on the CPU, got cuda"):
        KeyValueMemory(4, generator=DeviceGenerator())
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got int"):
        KeyValueMemory(4, generator=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "error", "reason"),
    [
        (3.5, TypeError, "device must be a torch.device or its name, got float"),
        ("gpu", ValueError, "device gpu cannot be used: "),
        ("xla", ValueError, "device xla cannot be used: "),
        ("hpu", ValueError, "device hpu cannot be used: "),
        ("meta", ValueError, "device meta cannot be used: tensors there have no values"),
    ],
)
def test_devices_that_cannot_be_used(device: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=f"KeyValueMemory: {reason}"):
        KeyValueMemory(4, device=device)
    memory = KeyValueMemory(4)
    with pytest.raises(error, match=f"KeyValueMemory.to: {reason}"):
        memory.to(device)
    assert memory.device.type == "cpu"
    assert memory.keys.device.type == "cpu"


@pytest.mark.parametrize("state", [None, 3, [1]])
def test_states_that_are_no_mapping(state: Any) -> None:
    with pytest.raises(TypeError, match=r"load_state_dict: state must be a mapping"):
        KeyValueMemory(4).load_state_dict(state)


@pytest.mark.parametrize("method", ["counts", "seen"])
def test_class_counts_refuse(method: str) -> None:
    memory = filled(20, capacity=8)
    call = getattr(memory, method)
    with unchanged(memory):
        with pytest.raises(ValueError, match=rf"{method}: num_classes is 2, but .* has label 2"):
            call(2)
        with pytest.raises(ValueError, match=rf"KeyValueMemory.{method}: num_classes must be at"):
            call(0)
        for number in (2**31, 2**63 - 1):
            too_large = rf"{method}: num_classes must be less than 2\*\*31, got {number}"
            with pytest.raises(ValueError, match=rf"KeyValueMemory\.{too_large}"):
                call(number)
        with pytest.raises(TypeError, match=rf"{method}: num_classes must be an integer, got str"):
            call("3")


def test_seen_counts_labels_that_are_no_longer_stored() -> None:
    memory = KeyValueMemory(4, capacity=1)
    memory.add(ONES, torch.tensor([9, 0]))
    assert memory.counts(1).tolist() == [1]
    with pytest.raises(ValueError, match=r"KeyValueMemory.seen: num_classes is 1, but .* label 9"):
        memory.seen(1)
