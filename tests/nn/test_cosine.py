"""`CosineLinear` against a loop."""

from __future__ import annotations

import pytest
import torch

from clfast.nn import CosineLinear


def test_logits_are_cosines(rng: torch.Generator) -> None:
    layer = CosineLinear(4, 3).double()
    x = 3 * torch.randn(5, 4, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        layer.sigma.fill_(2.5)
    wanted = [[float(f @ w / (f.norm() * w.norm())) for w in layer.weight.detach()] for f in x]
    torch.testing.assert_close(layer.cosines(x).detach(), torch.tensor(wanted).double())
    torch.testing.assert_close(layer(x).detach(), 2.5 * torch.tensor(wanted).double())


def test_sigma_is_learnt(rng: torch.Generator) -> None:
    layer = CosineLinear(4, 3).double()
    assert layer.sigma.item() == 1
    x = torch.randn(5, 4, generator=rng, dtype=torch.float64)
    (layer(x) ** 2).sum().backward()
    torch.testing.assert_close(layer.sigma.grad, 2 * layer.cosines(x).square().sum().detach())
    assert layer.weight.grad is not None
    assert sorted(layer.state_dict()) == ["sigma", "weight"]


def test_embeddings_begin_as_those_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    weight = CosineLinear(100, 50).weight.detach()
    assert float(weight.abs().max()) <= 0.1
    assert float(weight.std()) == pytest.approx(0.1 / 3**0.5, rel=0.05)


def test_wrong_sizes() -> None:
    with pytest.raises(ValueError, match="CosineLinear: inputs must be at least 1, got 0"):
        CosineLinear(0, 2)
    with pytest.raises(TypeError, match="CosineLinear: outputs must be an integer, got float"):
        CosineLinear(2, 1.0)  # type: ignore[arg-type]
