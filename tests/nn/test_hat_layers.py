"""Layers whose units tasks mask, and which weights a task that ends reserves."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clfast.nn import (
    HATConv2d,
    HATLinear,
    TaskBatchNorm2d,
    TaskHeads,
    at_task,
    end_hat_task,
    hat_layers,
    hat_mlp,
    masks_at,
)
from clfast.nn.tasks import TaskParts
from clfast.ops.masks import unpack_mask


def test_linear_masks_its_outputs() -> None:
    layer, x = HATLinear(6, 4), torch.randn(3, 6)
    m = (2.0 * layer.mask.embedding).sigmoid()
    with masks_at(layer, 2.0):
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias).relu() * m)
        sequences = torch.randn(3, 7, 6)
        torch.testing.assert_close(layer(sequences)[:, 2], layer(sequences[:, 2]))
    plain = HATLinear(6, 4, activation=None, bias=False)
    with masks_at(plain, 2.0):
        wanted = F.linear(x, plain.weight) * (2.0 * plain.mask.embedding).sigmoid()
        torch.testing.assert_close(plain(x), wanted)


def test_convolution_masks_its_channels() -> None:
    layer, x = HATConv2d(3, 4, 3, 2, 1, activation=nn.Tanh()), torch.randn(2, 3, 5, 5)
    m = (2.0 * layer.mask.embedding).sigmoid()[:, None, None]
    wanted = F.conv2d(x, layer.weight, layer.bias, 2, 1).tanh() * m
    with masks_at(layer, 2.0):
        torch.testing.assert_close(layer(x), wanted)
        torch.testing.assert_close(layer(x[0]), wanted[0])


def test_embeddings_begin_normal() -> None:
    torch.manual_seed(0)
    found = HATLinear(3, 1000).mask.embedding.detach()
    assert abs(float(found.mean())) < 0.1
    assert 0.9 < float(found.std()) < 1.1


def test_weights_between_reserved_units_are_reserved() -> None:
    """1 - min(of the unit, of the unit before) of the union, in a chain of layers."""
    network = hat_mlp(5, (7, 6, 4), 2)
    wanted: dict[str, Tensor] = {}
    units = {name: torch.zeros(len(m.weight), dtype=torch.bool) for name, m in _layers(network)}
    for task in range(2):
        for name, layer in _layers(network):
            units[name] |= layer.mask.embedding >= 0
        before = torch.ones(5, dtype=torch.bool)
        for name in units:
            wanted[name] = units[name][:, None] & before[None]
            before = units[name]
        end_hat_task(network, (5,), 400.0)
        for name, layer in _layers(network):
            assert torch.equal(_reserved(layer, "weight"), wanted[name])
            assert torch.equal(_reserved(layer, "bias"), units[name]), task


def _layers(network: nn.Module) -> list[tuple[str, HATLinear | HATConv2d]]:
    return list(hat_layers(network).items())


def _reserved(layer: HATLinear | HATConv2d, name: str) -> Tensor:
    parameter = getattr(layer, name)
    return unpack_mask(layer.reserved()[parameter], parameter.shape)


class Residual(nn.Module):
    """A sum, a concatenation, pooling of two kinds, and a layer behind all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = HATConv2d(2, 6, 3, padding=1)
        self.left = HATConv2d(6, 6, 3, padding=1, activation=nn.Tanh())
        self.right = HATConv2d(6, 5, 1)
        self.last = HATLinear(11 + 24, 8)
        self.heads = TaskHeads(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 2)
        left = x - self.left(x)
        means = torch.cat([left, self.right(F.dropout(x, training=self.training))], 1).mean((2, 3))
        logits: Tensor = self.heads(self.last(torch.cat([means, x.flatten(1)], 1)))
        return logits


def normed() -> nn.Module:
    """Batch normalisation before the masks of one layer, and after those of another."""
    return nn.Sequential(
        HATConv2d(2, 6, 3, activation=nn.Sequential(TaskBatchNorm2d(6), nn.ReLU())),
        HATConv2d(6, 6, 2, activation=None),
        TaskBatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        HATLinear(6, 5),
        TaskHeads(5, 3),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), *hat_mlp(32, (12, 10), 3)),
    "residual": Residual,
    "normed": normed,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_not_reserved_may_be_anything(name: str) -> None:
    """Three tasks; after each, all that is free is thrown to values a thousand times as large."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    x = torch.randn(6, 2, 4, 4)
    said: list[Tensor] = []
    for task in range(3):
        network.train()
        with torch.no_grad():
            for _ in range(3):
                network(1 + 3 * torch.randn(8, 2, 4, 4))  # statistics of the task
            for module in network.modules():
                if isinstance(module, TaskBatchNorm2d):
                    torch.nn.init.normal_(module.parts[-1].weight)
                    torch.nn.init.normal_(module.parts[-1].bias)
        network.eval()
        with at_task(network, 0):  # whatever the network is set to
            counts = end_hat_task(network, x.shape[1:], 400.0)
        assert list(counts) == list(hat_layers(network))
        assert network.training is False
        with at_task(network, task), torch.no_grad():
            said.append(network(x))
        assert said[task].std() > 0
        for module in network.modules():
            if isinstance(module, TaskParts):
                module.add_task()
        with torch.no_grad():
            for _, layer in _layers(network):
                for parameter, packed in layer.reserved().items():
                    free = ~unpack_mask(packed, parameter.shape)
                    parameter[free] = 1000 * torch.randn(int(free.sum()))
        for past, wanted in enumerate(said):
            with at_task(network, past), torch.no_grad():
                assert torch.equal(network(x), wanted)
    free = [~_reserved(layer, "weight") for _, layer in _layers(network)]
    assert any(bool(each.any()) for each in free)


def test_a_layer_behind_a_sum_hears_both() -> None:
    network = Residual()
    with torch.no_grad():
        for _, layer in _layers(network):
            layer.mask.embedding.fill_(-1)
        network.stem.mask.embedding[1] = 1
        network.left.mask.embedding[4] = 1
        network.right.mask.embedding[0] = 1
        network.last.mask.embedding[2] = 1
    network.train()
    end_hat_task(network, (2, 4, 4), 400.0)
    assert network.training
    found = _reserved(network.last, "weight")
    assert found.any(1).nonzero().flatten().tolist() == [2]
    # Channels of the sum, of the branch beside it, and four pixels of the stem's.
    assert found[2].nonzero().flatten().tolist() == [1, 4, 6, 15, 16, 17, 18]
    assert _reserved(network.left, "weight").any((2, 3)).nonzero().tolist() == [[4, 1]]


def test_a_layer_that_does_not_run_keeps_all_its_inputs() -> None:
    network = hat_mlp(3, (4,), 2)
    network.add_module("heads", TaskHeads(4, 2))
    aside = HATLinear(4, 5)
    network.heads.add_module("aside", aside)
    end_hat_task(network, (3,), 400.0)
    units = aside.mask.reserved_mask()
    assert torch.equal(_reserved(aside, "weight"), units[:, None].expand(5, 4))


def test_heads() -> None:
    heads = TaskHeads(4, 2, generator=torch.Generator().manual_seed(0))
    same = TaskHeads(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(heads.parts[0].weight, same.parts[0].weight)
    assert heads.parts[0].weight.abs().max() <= 0.5
    heads.add_task(3)
    heads.add_task()
    x = torch.randn(5, 4)
    assert [heads(x, task).shape[1] for task in range(3)] == [2, 3, 3]
    assert [p.requires_grad for p in heads.parameters()] == 4 * [False] + 2 * [True]
    with at_task(heads, 1):
        assert torch.equal(heads(x), heads.parts[1](x))
    for twin in (same, copy.deepcopy(heads), pickle.loads(pickle.dumps(heads))):
        twin.load_state_dict(heads.state_dict())
        assert all(torch.equal(twin(x, task), heads(x, task)) for task in range(3))


def test_copies_and_states_of_a_network() -> None:
    network = Residual()
    end_hat_task(network, (2, 4, 4), 400.0)
    network.heads.add_task()
    fresh = Residual()
    fresh.load_state_dict(network.state_dict())
    x = torch.randn(2, 2, 4, 4)
    for twin in (fresh, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for task in range(2):
            with at_task(twin, task), at_task(network, task):
                assert torch.equal(twin.eval()(x), network.eval()(x))
        for (_, a), (_, b) in zip(_layers(twin), _layers(network), strict=True):
            assert torch.equal(_reserved(a, "weight"), _reserved(b, "weight"))


def test_wrong_use() -> None:
    network = Residual()
    before = copy.deepcopy(network.state_dict())
    for error, text, wrong in (
        (ValueError, "HATLinear: in_features must be at least 1", lambda: HATLinear(0, 3)),
        (
            TypeError,
            "HATLinear: activation must be a module",
            lambda: HATLinear(2, 3, activation=1),
        ),
        (ValueError, "keep must be one of", lambda: HATLinear(2, 3, keep="hard")),
        (ValueError, "HATConv2d: kernel_size must be at least 1", lambda: HATConv2d(2, 3, 0)),
        (TypeError, "HATConv2d: stride must be an integer", lambda: HATConv2d(2, 3, 2, 1.5)),
        (ValueError, "TaskHeads: classes must be at least 1", lambda: TaskHeads(2, 0)),
        (ValueError, "add_task: classes must be at least", lambda: network.heads.add_task(0)),
        (ValueError, "TaskHeads: task must be in 0..0", lambda: network.heads(torch.ones(1, 8), 1)),
        (ValueError, "hat_mlp: widths is empty", lambda: hat_mlp(2, ())),
        (ValueError, "end_hat_task: network has no", lambda: end_hat_task(nn.ReLU(), (2,), 1.0)),
        (ValueError, "end_hat_task: scale must be", lambda: end_hat_task(network, (2, 4, 4), 0.0)),
        (ValueError, "end_hat_task: network cannot take", lambda: end_hat_task(network, (3,), 1.0)),
    ):
        with pytest.raises(error, match=text):
            wrong()
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
