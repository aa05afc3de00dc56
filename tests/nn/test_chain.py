"""Linear layers and rectifiers in a row, run and differentiated without autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import clfast
from clfast.nn.chain import linear_chains


def _deep() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4))
    ).double()


def _flattened() -> nn.Sequential:
    """Without biases, in parts, and with a rectifier at the end."""
    first = nn.Sequential(nn.Flatten(), nn.Linear(6, 9, bias=False), nn.ReLU(inplace=True))
    return nn.Sequential(first, nn.Sequential(nn.Linear(9, 4, bias=False), nn.ReLU())).double()


def _linear() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).double()


def _one_layer() -> nn.Linear:
    return nn.Linear(6, 4).double()


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("samples", [5, 32, 33])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("make", "shape"),
    [(_deep, (6,)), (_flattened, (1, 2, 3)), (_linear, (6,)), (_one_layer, (6,))],
)
def test_chains_give_what_networks_give_and_autograd_finds(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    count: int,
    samples: int,
    backend: Literal["compiled", "reference"],
) -> None:
    clfast.backend(backend)
    torch.manual_seed(3)
    networks = [make() for _ in range(count)]
    chains = linear_chains(*networks)
    assert chains is not None
    x = torch.randn(samples, *shape, dtype=torch.float64)
    slopes = list(torch.randn(count, samples, 4, dtype=torch.float64))
    kept = x.clone()
    outputs, gradient = chains.vjp(x)
    found = gradient(slopes)
    assert not any(output.requires_grad for output in outputs)
    assert not found.requires_grad
    assert torch.equal(x, kept)
    expected = [network(x.requires_grad_()) for network in networks]
    (by_x,) = torch.autograd.grad(expected, x, slopes)
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted.detach(), rtol=0, atol=1e-14)
    torch.testing.assert_close(found, by_x, rtol=0, atol=1e-14)
    assert found.shape == x.shape
    assert all(p.grad is None for network in networks for p in network.parameters())


def test_networks_that_differ_are_not_run_together() -> None:
    network = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))
    others = [
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)),
        nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5)),
        nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4, bias=False)),
        nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 4)),
        nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)),
        nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)).double(),
        nn.Linear(6, 4),
    ]
    for other in others:
        assert linear_chains(other) is not None
        assert linear_chains(network, other) is None
    tanh = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4))
    assert linear_chains(network, tanh) is None


def _with_dropout(network: nn.Sequential) -> nn.Module:
    return nn.Sequential(network, nn.Dropout())


def _of_another_class(network: nn.Sequential) -> nn.Module:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    network[0] = Scaled(6, 9)
    return network


def _with_a_hook(network: nn.Sequential) -> nn.Module:
    network[1].register_forward_hook(lambda *_: None)
    return network


def _with_a_hook_on_all(network: nn.Sequential) -> nn.Module:
    network.register_full_backward_hook(lambda *_: None)
    return network


def _with_a_forward_of_its_own(network: nn.Sequential) -> nn.Module:
    layer = network[0]
    layer.__dict__["forward"] = lambda x: x @ layer.weight.T
    return network


def _parametrized(network: nn.Sequential) -> nn.Module:
    parametrize.register_parametrization(network[0], "weight", nn.Tanh())
    return network


def _weight_normalised(network: nn.Sequential) -> nn.Module:
    network[0] = nn.utils.parametrizations.weight_norm(network[0])
    return network


def _of_another_kind_of_tensor(network: nn.Sequential) -> nn.Module:
    class Tagged(Tensor):
        pass

    network[0].weight = nn.Parameter(network[0].weight.detach().as_subclass(Tagged))
    return network


def _sparse(network: nn.Sequential) -> nn.Module:
    network[0].weight = nn.Parameter(network[0].weight.detach().to_sparse())
    return network


def _rectified_first(network: nn.Sequential) -> nn.Module:
    return nn.Sequential(nn.ReLU(), network)


def _flattened_late(network: nn.Sequential) -> nn.Module:
    return nn.Sequential(network, nn.Flatten())


def _flattened_in_part(network: nn.Sequential) -> nn.Module:
    return nn.Sequential(nn.Flatten(2), network)


@pytest.mark.parametrize(
    "change",
    [
        _with_dropout,
        _of_another_class,
        _with_a_hook,
        _with_a_hook_on_all,
        _with_a_forward_of_its_own,
        _parametrized,
        _weight_normalised,
        _of_another_kind_of_tensor,
        _sparse,
        _rectified_first,
        _flattened_late,
        _flattened_in_part,
        nn.Sequential.half,
    ],
)
def test_what_is_more_than_a_chain(change: Callable[[nn.Sequential], nn.Module]) -> None:
    network = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))
    assert linear_chains(network) is not None
    assert linear_chains(change(network)) is None


def test_networks_without_layers_and_networks_under_global_hooks() -> None:
    network = nn.Sequential(nn.Linear(6, 4))
    assert linear_chains(nn.Sequential()) is None
    assert linear_chains(nn.ReLU()) is None
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert linear_chains(network) is None
    finally:
        hook.remove()
    assert linear_chains(network) is not None
