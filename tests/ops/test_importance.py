"""Importances by single samples against loops over batches of one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from importance_networks import CONVOLUTIONS, VECTORS, SequenceFirst, norms
from importance_oracle import Found, assert_near, fisher, made, mas
from torch import Tensor, nn

import clfast
from clfast import ops, reference


@pytest.mark.parametrize("name", VECTORS)
def test_networks_on_vectors(name: str, rng: torch.Generator) -> None:
    x, y = torch.randn(7, 6, generator=rng).double(), torch.arange(7) % 3
    model = made(VECTORS[name])
    found = ops.per_sample_fisher(model, x, y)
    assert_near(found, fisher(model, x, y), 1e-12)
    assert_near(ops.mas_importance(model, x), mas(model, x), 1e-12)
    assert any(bool(f.any()) for f in found.values())


@pytest.mark.parametrize("share", [1e-3, 1e-6])
def test_rows_that_influence_each_other_a_little(share: float, rng: torch.Generator) -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x + share * x.mean(0))
            return out

    x, y = torch.randn(5, 6, generator=rng).double(), torch.arange(5) % 3
    model = made(Mixing)
    assert_near(ops.per_sample_fisher(model, x, y), fisher(model, x, y), 1e-12)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_rows_that_are_no_samples(count: int, rng: torch.Generator) -> None:
    """Six places before one, two and six samples."""
    x, y = torch.randn(count, 12, generator=rng).double(), torch.arange(count) % 3
    model = made(SequenceFirst)
    assert_near(ops.per_sample_fisher(model, x, y), fisher(model, x, y), 1e-12)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, rng: torch.Generator) -> None:
    x, y = torch.randn(5, 4, 7, 8, generator=rng).double(), torch.arange(5) % 3

    def make() -> nn.Module:
        conv = nn.Conv2d(4, 8, **{"kernel_size": 3, **CONVOLUTIONS[name]})
        return nn.Sequential(
            conv, nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(32, 3),
        )  # fmt: skip

    model = made(make)
    assert_near(ops.per_sample_fisher(model, x, y), fisher(model, x, y), 1e-12)
    assert_near(ops.mas_importance(model, x), mas(model, x), 1e-12)


def test_a_residual_network_in_float32(
    monkeypatch: pytest.MonkeyPatch, rng: torch.Generator
) -> None:
    """All of its layers are followed: nothing is left to vmap."""
    monkeypatch.setattr("clfast.ops._per_sample.vmap", None)
    torch.manual_seed(0)
    model = clfast.nn.resnet18(4, width=4)
    x, y = torch.randn(6, 3, 16, 16, generator=rng), torch.arange(6) % 4
    wanted = fisher(model.double(), x.double(), y)
    found = ops.per_sample_fisher(model.float(), x, y)
    assert all(f.dtype == torch.float32 for f in found.values())
    assert_near(found, wanted, 2e-6)


def test_a_perceptron_in_float32(rng: torch.Generator) -> None:
    model = made(lambda: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 5)))
    x, y = torch.randn(50, 30, generator=rng), torch.arange(50) % 5
    wanted = fisher(model, x.double(), y)
    assert_near(ops.per_sample_fisher(model.float(), x, y), wanted, 1e-6)


def test_more_samples_than_are_treated_at_once(
    monkeypatch: pytest.MonkeyPatch, rng: torch.Generator
) -> None:
    monkeypatch.setattr("clfast.ops._layer_gradients._ROOM", {"cpu": 100})
    monkeypatch.setattr("clfast.ops._per_sample._ROOM", 100)
    x, y = torch.randn(7, 2, 6, 6, generator=rng).double(), torch.arange(7) % 3
    model = made(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(2), nn.Linear(16, 5), nn.Flatten(),
            nn.Linear(20, 3),
        )
    )  # fmt: skip
    assert_near(ops.per_sample_fisher(model, x, y), fisher(model, x, y), 1e-12)


def test_frozen_parameters_have_no_entry(rng: torch.Generator) -> None:
    model = made(VECTORS["batch norm"])
    x, y = torch.randn(7, 6, generator=rng).double(), torch.arange(7) % 3
    assert isinstance(model, nn.Sequential)
    model[0].requires_grad_(False)
    model[1].bias.requires_grad_(False)
    found = ops.per_sample_fisher(model, x, y)
    assert list(found) == ["1.weight", "3.weight", "3.bias"]
    assert_near(found, fisher(model, x, y), 1e-12)
    assert ops.per_sample_fisher(model.requires_grad_(False), x, y) == {}


@pytest.mark.parametrize("name", ["batch norm", "layer norm", "no running statistics"])
def test_exact_is_the_mean_over_all_classes(name: str, rng: torch.Generator) -> None:
    model = made(VECTORS[name])
    x = torch.randn(7, 6, generator=rng).double()
    found = ops.per_sample_fisher(model, x, "exact")
    weighted: Found = {}
    for n in range(7):
        p = model.eval()(x[n : n + 1]).softmax(1)[0].tolist()
        for c in range(3):
            for key, of_one in fisher(model, x[n : n + 1], torch.tensor([c])).items():
                weighted[key] = weighted.get(key, 0) + p[c] * of_one / 7
    assert_near(found, weighted, 1e-12)


@pytest.mark.parametrize("name", ["batch norm", "no running statistics"])
def test_labels_are_drawn_from_the_model(name: str, rng: torch.Generator) -> None:
    model = made(VECTORS[name])
    x = torch.randn(1, 6, generator=rng).double().repeat(400, 1)
    p = model.eval()(x[:1]).softmax(1)
    drawn = torch.multinomial(p.repeat(400, 1), 1, generator=torch.Generator().manual_seed(3))[:, 0]
    generator = torch.Generator().manual_seed(3)
    found = ops.per_sample_fisher(model, x, "sample", generator=generator)
    shares = [float((drawn == c).double().mean()) for c in range(3)]
    of_classes = [fisher(model, x[:1], torch.tensor([c])) for c in range(3)]
    assert all(share > 0.02 for share in shares)
    wanted = {
        key: sum(s * f[key] for s, f in zip(shares, of_classes, strict=True)) for key in found
    }
    assert_near(found, wanted, 1e-10)
    torch.manual_seed(5)
    first = ops.per_sample_fisher(model, x, "sample")
    torch.manual_seed(5)
    assert_near(ops.per_sample_fisher(model, x, "sample"), first, 0)


@pytest.mark.parametrize("targets", ["labels", "exact"])
@pytest.mark.parametrize("name", ["batch norm", "shared", "places"])
def test_equals_the_reference(name: str, targets: str, rng: torch.Generator) -> None:
    model = made(VECTORS[name])
    x = torch.randn(5, 6, generator=rng).double()
    given: Any = torch.arange(5) % 3 if targets == "labels" else targets
    wanted = reference.consolidation.per_sample_fisher(model, x, given)
    for backend in ("compiled", "reference"):
        with clfast.backend(backend):
            assert_near(ops.per_sample_fisher(model, x, given), wanted, 1e-12)
    assert_near(
        ops.mas_importance(model, x), reference.consolidation.mas_importance(model, x), 1e-12
    )


def test_samples_of_the_reference(rng: torch.Generator) -> None:
    model = made(VECTORS["linear"])
    x = torch.randn(50, 6, generator=rng).double()
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    wanted = reference.consolidation.per_sample_fisher(model, x, "sample", generator=seeds[0])
    assert_near(ops.per_sample_fisher(model, x, "sample", generator=seeds[1]), wanted, 1e-12)


class _Counting(nn.Module):
    """Writes a buffer at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))
        self.layer, self.norm = nn.Linear(6, 3), nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.norm(self.layer(x))
        return out


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [norms, _Counting])
def test_nothing_of_the_model_changes(
    make: Callable[[], nn.Module], training: bool, rng: torch.Generator
) -> None:
    model = made(make).train(training)
    next(model.modules()).training = not training  # modes are those of modules
    x, y = torch.randn(7, 6, generator=rng).double(), torch.arange(7) % 3
    grads = [torch.rand_like(p) for p in model.parameters()]
    for p, grad in zip(model.parameters(), grads, strict=True):
        p.grad = grad.clone()
    kept = copy.deepcopy(model)
    modes = [m.training for m in model.modules()]
    hooks = [len(m._forward_hooks) for m in model.modules()]
    state = torch.get_rng_state()
    ops.per_sample_fisher(model, x, y)
    ops.per_sample_fisher(model, x, "exact")
    ops.mas_importance(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    for now, then, grad in zip(model.parameters(), kept.parameters(), grads, strict=True):
        assert torch.equal(now, then)
        assert now.grad is not None
        assert torch.equal(now.grad, grad)
        assert now.requires_grad
    for now, then in zip(model.buffers(), kept.buffers(), strict=True):
        assert torch.equal(now, then)


def test_in_any_gradient_mode(rng: torch.Generator) -> None:
    model = made(VECTORS["layer norm"])
    x, y = torch.randn(5, 6, generator=rng).double(), torch.arange(5) % 3
    wanted = fisher(model, x, y)
    with torch.no_grad():
        assert_near(ops.per_sample_fisher(model, x.requires_grad_(), y), wanted, 1e-12)
    x = x.detach()
    with torch.inference_mode():
        assert_near(ops.per_sample_fisher(model, x + 0, y + 0), wanted, 1e-12)
    with torch.autocast("cpu"):
        assert_near(ops.per_sample_fisher(model, x, y), wanted, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["batch norm", "layer norm"])
def test_sixteen_bits_give_float32(name: str, dtype: torch.dtype, rng: torch.Generator) -> None:
    model = made(VECTORS[name], dtype)
    x, y = torch.randn(5, 6, generator=rng).to(dtype), torch.arange(5) % 3
    found = ops.per_sample_fisher(model, x, y)
    assert all(f.dtype == torch.float32 for f in found.values())
    assert_near(found, fisher(model.double(), x.double(), y), 20 * torch.finfo(dtype).eps)


# Dynamo's own, of torch 2.13.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_networks_run_as_they_are_written(rng: torch.Generator) -> None:
    model = made(VECTORS["layer norm"])
    x, y = torch.randn(5, 6, generator=rng).double(), torch.arange(5) % 3
    wanted = fisher(model, x, y)
    compiled = torch.compile(model, backend="aot_eager")
    compiled(x)
    assert_near(ops.per_sample_fisher(compiled, x, y), wanted, 1e-12)
    model.compile(backend="aot_eager")
    assert_near(ops.per_sample_fisher(model, x, y), wanted, 1e-12)
    torch.compiler.reset()


def test_no_samples_have_no_importance() -> None:
    model = nn.Linear(6, 3).half()
    for found in (
        ops.per_sample_fisher(model, torch.empty(0, 6).half(), torch.empty(0).long()),
        ops.mas_importance(model, torch.empty(0, 6).half()),
    ):
        assert {k: (f.shape, f.dtype, bool(f.any())) for k, f in found.items()} == {
            "weight": ((3, 6), torch.float32, False),
            "bias": ((3,), torch.float32, False),
        }


def test_token_embeddings(rng: torch.Generator) -> None:
    model = made(lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3)))
    x, y = torch.randint(9, (5, 3), generator=rng), torch.arange(5) % 3
    assert_near(ops.per_sample_fisher(model, x, y), fisher(model, x, y), 1e-12)


def test_embeddings_that_are_shortened_stay(rng: torch.Generator) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Embedding(9, 4, max_norm=0.5), nn.Flatten(), nn.Linear(12, 3))

    model = made(network)
    before = copy.deepcopy(model.state_dict())
    x, y = torch.randint(9, (5, 3), generator=rng), torch.arange(5) % 3
    found = ops.per_sample_fisher(model, x, y)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert_near(found, fisher(model, x, y), 1e-12)
    model(x)
    assert not torch.equal(model.state_dict()["0.weight"], before["0.weight"])


def test_sparse_gradients(rng: torch.Generator) -> None:
    layers = nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 3)
    model = made(lambda: nn.Sequential(*layers))
    x, y = torch.randint(9, (5, 3), generator=rng), torch.arange(5) % 3
    dense = copy.deepcopy(model)
    dense.get_submodule("0").sparse = False
    assert_near(ops.per_sample_fisher(model, x, y), fisher(dense, x, y), 1e-12)


def test_networks_in_eval_mode_are_shared_by_threads(rng: torch.Generator) -> None:
    model = made(VECTORS["layer norm"]).eval()
    x, y = torch.randn(5, 6, generator=rng).double(), torch.arange(5) % 3
    wanted = ops.per_sample_fisher(model, x, y)
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda _: ops.per_sample_fisher(model, x, y), range(40))
        for each in found:
            assert_near(each, wanted, 1e-12)
