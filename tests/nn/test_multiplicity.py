"""Batches of distinct rows, each counted several times."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clfast.nn import batch_moments, copies_stay_equal, row_multiplicity, statistics_kept

COPIES = torch.tensor([2, 1, 4, 3])

NORMS = [
    (nn.BatchNorm1d(3), (4, 3)),
    (nn.BatchNorm1d(3), (4, 3, 5)),
    (nn.BatchNorm2d(3), (4, 3, 5, 2)),
    (nn.BatchNorm3d(3), (4, 3, 2, 3, 2)),
    (nn.BatchNorm2d(3, affine=False), (4, 3, 5, 2)),
    (nn.BatchNorm2d(3, momentum=None), (4, 3, 5, 2)),
    (nn.BatchNorm2d(3, momentum=0.5, eps=0.1), (4, 3, 5, 2)),
    (nn.BatchNorm2d(3, track_running_stats=False), (4, 3, 5, 2)),
]


def _gradients(norm: nn.Module, x: Tensor, outside: Tensor) -> tuple[Tensor, list[Tensor]]:
    x = x.clone().requires_grad_()
    result = norm(x)
    return result, list(torch.autograd.grad((result * outside).sum(), [x, *norm.parameters()]))


@pytest.mark.parametrize(("norm", "shape"), NORMS, ids=lambda value: str(value)[:40])
def test_as_the_batch_with_all_copies(
    norm: nn.Module, shape: tuple[int, ...], rng: torch.Generator
) -> None:
    norm = copy.deepcopy(norm).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.rand(3, generator=rng) + 0.5)
    plain = copy.deepcopy(norm)
    for _ in range(3):  # running statistics add up
        x = torch.randn(shape, generator=rng, dtype=torch.float64)
        outside = torch.randn(10, *shape[1:], generator=rng, dtype=torch.float64)
        rows = torch.arange(4).repeat_interleave(COPIES)
        wanted, (of_all, *of_parameters) = _gradients(plain, x[rows], outside)
        summed = torch.zeros_like(x).index_add_(0, rows, outside)
        with row_multiplicity(norm, COPIES):
            got, (of_distinct, *others) = _gradients(norm, x, summed)
        torch.testing.assert_close(got[rows], wanted, rtol=1e-12, atol=1e-12)
        by_row = torch.zeros_like(x).index_add_(0, rows, of_all)
        torch.testing.assert_close(of_distinct, by_row, rtol=1e-11, atol=1e-12)
        for ours, theirs in zip(others, of_parameters, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
        for ours, theirs in zip(norm.buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_moments_in_float32(dtype: torch.dtype, rng: torch.Generator) -> None:
    """Of inputs in 16 bits; parameters and running statistics are float32."""
    norm, plain = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    x = (5 + torch.randn(4, 3, 5, 2, generator=rng)).to(dtype)
    rows = torch.arange(4).repeat_interleave(COPIES)
    wanted = plain(x[rows].float())
    with torch.autocast("cpu", dtype), row_multiplicity(norm, COPIES):
        got = norm(x)
    assert got.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got[rows].float(), wanted, rtol=eps, atol=1e-5)
    for ours, theirs in zip(norm.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", dtype):
        moments = batch_moments(x, COPIES)
    for ours, theirs in zip(moments, batch_moments(x[rows].float()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_eval_mode_is_as_ever(rng: torch.Generator) -> None:
    norm = nn.BatchNorm1d(3).eval()
    x = torch.randn(4, 3, generator=rng)
    with row_multiplicity(norm, COPIES):
        assert torch.equal(norm(x), nn.BatchNorm1d(3).eval()(x))


def test_blocks_stand_in_one_another_and_leave_nothing(rng: torch.Generator) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    x = torch.randn(4, 3, generator=rng)
    keys = set(model[0].__dict__)
    with row_multiplicity(model, COPIES):
        weighed = model(x)
        with row_multiplicity(model, torch.ones(4, dtype=torch.int64)):
            plain = model(x)
        assert torch.equal(model(x), weighed)
    torch.testing.assert_close(plain, model(x))
    assert not torch.allclose(plain, weighed)
    assert set(model[0].__dict__) == keys
    with row_multiplicity(model, None):
        assert torch.equal(model(x), model(x))
    with pytest.raises(KeyError), row_multiplicity(model, COPIES):
        raise KeyError
    assert set(model[0].__dict__) == keys


def test_a_batch_of_another_size_is_named() -> None:
    norm = nn.BatchNorm1d(3)
    with row_multiplicity(norm, COPIES), pytest.raises(ValueError, match="a batch of 5 rows"):
        norm(torch.ones(5, 3))
    assert int(norm.num_batches_tracked) == 0


def test_an_empty_batch_is_as_ever() -> None:
    norm, plain = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with row_multiplicity(norm, COPIES[:0]):
        assert norm(torch.ones(0, 3, 4, 4)).shape == plain(torch.ones(0, 3, 4, 4)).shape
    for ours, theirs in zip(norm.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_statistics_are_kept(rng: torch.Generator) -> None:
    norm = nn.BatchNorm2d(3)
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    x = torch.randn(4, 3, 2, 2, generator=rng)
    with statistics_kept(norm):
        plain = norm(x)
        with row_multiplicity(norm, COPIES):
            norm(x)
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())
    assert torch.equal(norm(x), plain)
    assert int(norm.num_batches_tracked) == 1


class BatchMean(nn.Module):
    """Looks at the batch, in a way nobody can know."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class OwnNorm(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Patches(nn.Module):
    """Batch normalisation of more rows than the batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(x.flatten(0, 1)).unflatten(0, (-1, 2))
        return result


class Zeros(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0 * F.dropout(x)


def tracking_instance_norm() -> nn.Module:
    """Its outputs are of each row alone, but its running statistics are of the batch."""
    return nn.InstanceNorm1d(3, track_running_stats=True)


@pytest.mark.parametrize(
    ("layer", "fine"),
    [
        (nn.BatchNorm1d(6), True),
        (nn.LayerNorm(6), True),
        (nn.Identity(), True),
        (nn.Dropout(0.5), False),
        (BatchMean(), False),
        (OwnNorm(6), False),
        (nn.Sequential(nn.Unflatten(1, (2, 3)), Patches(), nn.Flatten()), False),
        (nn.Sequential(nn.Unflatten(1, (3, 2)), tracking_instance_norm(), nn.Flatten()), False),
        (Zeros(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_models_are_tried_out(layer: nn.Module, fine: bool, rng: torch.Generator) -> None:
    last = nn.Linear(6, 2, bias=not isinstance(layer, Zeros))
    model = nn.Sequential(nn.Linear(3, 6), layer, last)
    model[0].eval()
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    state = torch.get_rng_state()
    assert copies_stay_equal(model, torch.randn(5, 3, generator=rng)) == fine
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(entry, before[name]) for name, entry in model.state_dict().items())
    assert not model[0].training
    assert model[1].training


class _RarelyDropped(nn.Module):
    """Stochastic depth: a row in a hundred skips a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        kept = (torch.rand(len(x), 1) > 0.01).to(x)
        return x + kept * self.layer(x)


@pytest.mark.parametrize("layer", [_RarelyDropped(), nn.Dropout(0.001)])
def test_layers_that_draw_are_found_however_rarely_it_shows(layer: nn.Module) -> None:
    assert not copies_stay_equal(nn.Sequential(nn.Linear(6, 6), layer), torch.rand(5, 6))


def test_equal_rows_hide_nothing() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    assert not copies_stay_equal(nn.Sequential(nn.Linear(6, 6), Centred()), torch.ones(5, 6))


@pytest.mark.parametrize(
    ("x", "error"), [(torch.ones(1, 6), ValueError), (torch.ones(3, 6).long(), TypeError)]
)
def test_rows_that_nothing_can_be_tried_on(x: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"clfast\.nn\.copies_stay_equal: x must"):
        copies_stay_equal(nn.Linear(6, 6), x)


def test_instance_normalisation_is_not_touched(rng: torch.Generator) -> None:
    norm = nn.InstanceNorm2d(3, track_running_stats=True).eval()
    x = torch.randn(2, 3, 4, 4, generator=rng)
    wanted = norm(x)
    with statistics_kept(norm):
        assert torch.equal(norm(x), wanted)


@pytest.mark.parametrize(
    ("multiplicity", "error", "message"),
    [
        ([1, 2], TypeError, "must be an int64 tensor, got list"),
        (torch.tensor([0.5, 1.0]), TypeError, "must be an int64 tensor, got torch.float32"),
        (torch.tensor([[1]]), ValueError, "must be 1-D"),
        (torch.tensor([2, 0]), ValueError, "must be >= 1, got 0"),
    ],
)
def test_bad_multiplicity(multiplicity: Any, error: type[Exception], message: str) -> None:
    with (
        pytest.raises(error, match=f"row_multiplicity: multiplicity {message}"),
        row_multiplicity(nn.BatchNorm1d(3), multiplicity),
    ):
        pass
