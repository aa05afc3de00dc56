"""Linear layers and rectifiers in a row, run and differentiated without autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clfast.nn.chain import linear_chain


def _chains() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(3)
    networks: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "one layer": (nn.Linear(6, 4), (6,)),
        "deep": (
            nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)),
            (6,),
        ),
        "no biases, nested": (
            nn.Sequential(
                nn.Sequential(nn.Flatten(), nn.Linear(6, 9, bias=False), nn.ReLU(inplace=True)),
                nn.Sequential(nn.Linear(9, 4, bias=False), nn.ReLU()),
            ),
            (1, 2, 3),
        ),
        "no rectifier between": (nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), (6,)),
    }
    return {name: (network.double(), shape) for name, (network, shape) in networks.items()}


@pytest.mark.parametrize("name", _chains())
def test_a_chain_gives_what_the_network_gives_and_autograd_finds(name: str) -> None:
    network, shape = _chains()[name]
    chain = linear_chain(network)
    assert chain is not None
    x = torch.randn(5, *shape, dtype=torch.float64)
    slope = torch.randn(5, 4, dtype=torch.float64)
    kept = x.clone()
    outputs, gradient = chain.vjp(x)
    found = gradient(slope)
    assert not outputs.requires_grad
    assert not found.requires_grad
    assert torch.equal(x, kept)
    assert all(p.grad is None for p in network.parameters())
    expected = network(x.requires_grad_())
    (by_x,) = torch.autograd.grad(expected, x, slope)
    torch.testing.assert_close(outputs, expected.detach(), rtol=0, atol=1e-14)
    torch.testing.assert_close(found, by_x, rtol=0, atol=1e-14)
    assert found.shape == x.shape


def test_a_chain_sees_its_parameters_as_they_are_at_a_call() -> None:
    network, _ = _chains()["deep"]
    chain = linear_chain(network)
    assert chain is not None
    x = torch.randn(2, 6, dtype=torch.float64)
    before, _ = chain.vjp(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
        torch.testing.assert_close(chain.vjp(x)[0], network(x))
    assert not torch.equal(chain.vjp(x)[0], before)


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
        _rectified_first,
        _flattened_late,
        _flattened_in_part,
        nn.Sequential.half,
    ],
)
def test_what_is_more_than_a_chain_is_none(change: Callable[[nn.Sequential], nn.Module]) -> None:
    network = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))
    assert linear_chain(network) is not None
    assert linear_chain(change(network)) is None


def test_a_network_without_layers_and_one_under_global_hooks_are_none() -> None:
    network = nn.Sequential(nn.Linear(6, 4))
    assert linear_chain(nn.Sequential()) is None
    assert linear_chain(nn.ReLU()) is None
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert linear_chain(network) is None
    finally:
        hook.remove()
    assert linear_chain(network) is not None
