"""The patched `Buffer.add_data` of Mammoth against the loop that it stands in for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mammoth_checkout import checkout
from torch import Tensor

from clfast.integrations.mammoth import patch_buffer

ATTRIBUTES = ("examples", "labels", "logits", "task_labels", "true_labels")


@pytest.fixture
def buffer_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    checkout(monkeypatch)
    return vars(sys.modules["utils.buffer"])["Buffer"]


def batch(start: int, count: int) -> dict[str, Any]:
    """Samples that tell their place in the stream, with everything Mammoth may store of them."""
    place = torch.arange(start, start + count)
    return {
        "examples": place[:, None, None].float().expand(count, 2, 3),
        "labels": place % 7,
        "logits": place[:, None] + torch.arange(4) / 10,
        "task_labels": (place // 20).int(),
        "attention_maps": [place[:, None] % 50, place[:, None, None] % 40 + torch.ones(2, 2)],
        "true_labels": place % 5,
        "sample_selection_scores": place / 100,
    }


def filled(buffer: Any, sizes: Sequence[int], seed: int = 0) -> Any:
    np.random.seed(seed)
    start = 0
    for size in sizes:
        buffer.add_data(**batch(start, size))
        start += size
    return buffer


@pytest.mark.parametrize("sizes", [[1] * 30, [3, 4, 1, 9, 30], [50], [5, 7, 12], [0, 4, 0, 20]])
@pytest.mark.parametrize("seed", range(5))
def test_the_same_buffer_to_the_bit(buffer_class: Any, sizes: list[int], seed: int) -> None:
    one_by_one = filled(buffer_class(12), sizes, seed)
    drawn_next = np.random.rand()
    with patch_buffer():
        at_once = filled(buffer_class(12), sizes, seed)
    assert np.random.rand() == drawn_next
    assert at_once.num_seen_examples == one_by_one.num_seen_examples == sum(sizes)
    for name in ATTRIBUTES:
        one, other = getattr(at_once, name), getattr(one_by_one, name)
        assert one.dtype == other.dtype
        assert torch.equal(one, other), name
    for one, other in zip(at_once.attention_maps, one_by_one.attention_maps, strict=True):
        assert (one is None) == (other is None)
        for a, b in zip(one or [], other or [], strict=True):
            assert a.dtype == torch.uint8
            assert torch.equal(a, b)


def test_scores_go_to_the_strategy(buffer_class: Any) -> None:
    def last(updates: list[tuple[Any, Any]]) -> dict[int, float]:
        kept: dict[int, float] = {}
        for slots, values in updates:
            pairs = zip(
                torch.as_tensor(slots).reshape(-1).tolist(),
                values.reshape(-1).tolist(),
                strict=True,
            )
            kept.update(pairs)
        return kept

    one_by_one = filled(buffer_class(6), [4, 9, 20])
    with patch_buffer():
        at_once = filled(buffer_class(6), [4, 9, 20])
    assert last(at_once.sample_selection_fn.updates) == last(one_by_one.sample_selection_fn.updates)


def test_every_sample_stays_with_the_same_probability(buffer_class: Any) -> None:
    """40 samples, 10 slots: each is stored in a quarter of the runs. Of 2000, 5 standard deviations
    are 0.049."""
    stored = torch.zeros(40)
    with patch_buffer():
        np.random.seed(0)
        for _ in range(2000):
            buffer = buffer_class(10)
            for start in (0, 16, 32):
                buffer.add_data(torch.arange(start, min(start + 16, 40)).float())
            stored[buffer.examples.long()] += 1
    assert (stored / 2000 - 0.25).abs().max() < 0.049


def test_only_what_is_given_is_stored(buffer_class: Any) -> None:
    with patch_buffer():
        buffer = buffer_class(5)
        buffer.add_data(torch.arange(3.0), logits=torch.zeros(3, 2, requires_grad=True))
        assert not hasattr(buffer, "labels")
        assert not buffer.logits.requires_grad
        buffer.empty()
        buffer.add_data(torch.arange(4.0), labels=torch.arange(4))
        assert buffer.labels.tolist() == [0, 1, 2, 3, 0]


def test_other_strategies_run_the_original(buffer_class: Any) -> None:
    plain = filled(buffer_class(6, sample_selection_strategy="newest"), [4, 9])
    with patch_buffer():
        patched = filled(buffer_class(6, sample_selection_strategy="newest"), [4, 9])
    for name in ATTRIBUTES:
        assert torch.equal(getattr(plain, name), getattr(patched, name))
    assert patched.sample_selection_fn.updates == plain.sample_selection_fn.updates


def test_a_patch_says_what_it_replaced_and_undoes_it(buffer_class: Any) -> None:
    original = buffer_class.add_data
    there_before = buffer_class(4)
    patch = patch_buffer()
    assert buffer_class.add_data is not original
    assert repr(patch).startswith("<patch of utils.buffer.Buffer.add_data, in place of <function")
    there_before.add_data(**batch(0, 3))
    patch.undo()
    assert buffer_class.add_data is original
    assert repr(patch).startswith("<undone patch of")
    patch.undo()
    assert buffer_class.add_data is original
    with pytest.raises(KeyError), patch_buffer(buffer_class):
        raise KeyError
    assert buffer_class.add_data is original


def test_a_second_patch_is_refused(buffer_class: Any) -> None:
    with patch_buffer() as patch:
        fast = buffer_class.add_data
        with pytest.raises(
            RuntimeError, match=r"patch_buffer: Buffer is patched already; undo\(\)"
        ):
            patch_buffer()
        assert buffer_class.add_data is fast
        assert patch.buffer is buffer_class


def test_undoing_under_another_patch_is_refused(buffer_class: Any) -> None:
    patch = patch_buffer()
    fast = buffer_class.add_data

    def other(self: Any) -> None:
        """Of somebody else."""

    buffer_class.add_data = other
    with pytest.raises(RuntimeError, match="has been replaced since, by <function"):
        patch.undo()
    assert buffer_class.add_data is other
    buffer_class.add_data = fast
    patch.undo()


class NoBuffer:
    pass


class OtherBuffer:
    def add_data(self, examples: Tensor, labels: Tensor) -> None:
        """Of an older Mammoth, say."""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (NoBuffer, "NoBuffer has no add_data of its own; pass Mammoth's utils.buffer.Buffer"),
        (OtherBuffer, r"as in Mammoth 0.2.2, but takes \(self, examples, labels\)"),
        (OtherBuffer(), "buffer must be a class, got OtherBuffer"),
    ],
)
def test_buffers_of_another_class(given: Any, message: str) -> None:
    before = OtherBuffer.add_data
    with pytest.raises(TypeError, match=f"patch_buffer: .*{message}"):
        patch_buffer(given)
    assert OtherBuffer.add_data is before


def test_no_mammoth_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "utils.buffer", None)
    with pytest.raises(ImportError, match=r"patch_buffer: .* call it where Mammoth's main.py lies"):
        patch_buffer()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(3).long()}, "labels must have 4 rows, as examples have, got 3"),
        ({"attention_maps": [torch.ones(2)]}, r"attention_maps\[0\] must have 4 rows"),
        ({"sample_selection_scores": torch.ones(5)}, "sample_selection_scores must have 4 rows"),
        (
            {"examples": torch.zeros(4, 2, 4)},
            r"rows of shape \[2, 3\], as those stored, got \[2, 4",
        ),
    ],
)
def test_bad_batches_leave_the_buffer(buffer_class: Any, change: Any, message: str) -> None:
    with patch_buffer():
        buffer = filled(buffer_class(6), [9])
        before = {name: getattr(buffer, name).clone() for name in ATTRIBUTES}
        with pytest.raises(ValueError, match=f"Buffer.add_data: .*{message}"):
            buffer.add_data(**batch(9, 4) | change)
        assert buffer.num_seen_examples == 9
        assert all(torch.equal(getattr(buffer, name), before[name]) for name in ATTRIBUTES)


def test_attributes_that_come_later_are_refused(buffer_class: Any) -> None:
    with patch_buffer():
        buffer = buffer_class(6)
        buffer.add_data(torch.zeros(2, 3), labels=torch.zeros(2).long())
        with pytest.raises(
            ValueError, match=r"logits were not given with the first samples, which"
        ):
            buffer.add_data(torch.zeros(2, 3), labels=torch.zeros(2).long(), logits=torch.zeros(2))
