"""`LastLayer`: one for each class, against a loop over images."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clfast.nn import DCGANGenerator
from clfast.nn.last_layer import LastLayer, ToImages

KINDS = {
    "dcgan": ToImages(4, 2, bias=False, fan="fan_in"),
    "resnet": ToImages(3, 1, bias=True, fan="fan_out"),
}
EVERY = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(kind: ToImages, classes: int = 3) -> LastLayer:
    made = LastLayer(4, 2, kind, each_class=True, generator=seeded()).double()
    made.add_classes(classes, seeded(1))
    return made


def loop(of: LastLayer, x: Tensor, classes: Tensor) -> Tensor:
    stride = of.kind.stride
    images = []
    for image, label in zip(x, classes.tolist(), strict=True):
        bias = None if of.bias is None else of.bias[label]
        one = F.conv_transpose2d(image[None], of.weight[label], bias, stride=stride, padding=1)
        images.append(one[0])
    return torch.stack(images)


@EVERY
def test_it_is_the_loop_over_images(kind: ToImages) -> None:
    of = layer(kind)
    x = torch.randn(6, 4, 5, 7, generator=seeded(2)).double().requires_grad_()
    classes = torch.tensor([2, 0, 0, 2, 1, 2])
    found, expected = of(x, classes), loop(of, x, classes)
    assert found.shape[2:] == ((10, 14) if kind.stride == 2 else (5, 7))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    up = torch.randn(found.shape, generator=seeded(3)).double()
    inputs = [x, *of.parameters()]
    one, other = (torch.autograd.grad((y * up).sum(), inputs) for y in (found, expected))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@EVERY
def test_layers_are_initialised_as_one_is(kind: ToImages) -> None:
    one = LastLayer(4, 2, kind, generator=seeded(1))
    of = layer(kind).float()
    assert torch.equal(of.weight[0], one.weight)
    assert one.bias is None or (of.bias is not None and torch.equal(of.bias[0], one.bias))
    fan = kind.kernel**2 * (2 if kind.fan == "fan_in" else 4)
    assert 0.8 < float(of.weight.detach().abs().max()) * fan**0.5 <= 1.0001
    twin = torch.nn.ConvTranspose2d(4, 2, kind.kernel, kind.stride, 1, bias=kind.bias)
    with torch.no_grad():
        twin.weight.copy_(one.weight)
        if twin.bias is not None and one.bias is not None:
            twin.bias.copy_(one.bias)
    x = torch.randn(2, 4, 5, 5, generator=seeded(2))
    assert torch.equal(one(x), twin(x))


@EVERY
def test_more_classes_leave_those_there_are(kind: ToImages) -> None:
    of = layer(kind, 2)
    x, classes = torch.randn(3, 4, 5, 5, generator=seeded(2)).double(), torch.tensor([1, 0, 1])
    before = of(x, classes)
    of.add_classes(2, seeded(3))
    assert of.classes == 4
    assert torch.equal(of(x, classes), before)
    other = LastLayer(4, 2, kind, each_class=True).double()
    other.load_state_dict(of.state_dict())
    assert torch.equal(other(x, classes + 2), of(x, classes + 2))
    with pytest.raises(RuntimeError, match="size mismatch"):
        LastLayer(5, 2, kind, each_class=True).load_state_dict(of.state_dict())


@pytest.mark.parametrize(
    ("classes", "kind", "message"),
    [
        (None, TypeError, "each class has a layer; classes must be given, got None"),
        (torch.tensor([0, 1]), ValueError, "classes must be int64 [3], got torch.int64 [2]"),
        (torch.zeros(3), ValueError, "classes must be int64 [3], got torch.float32 [3]"),
        (torch.tensor([0, -1, 2]), ValueError, "classes must be in 0..2, got [0, -1, 2]"),
        (torch.tensor([0, 1, 3]), ValueError, "classes must be in 0..2, got [0, 1, 3]"),
    ],
)
def test_wrong_classes(classes: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match="^LastLayer: " + re.escape(message)):
        layer(KINDS["resnet"])(torch.zeros(3, 4, 5, 5).double(), classes)


def test_classes_count_over_all_tasks() -> None:
    """Those of a task are no others', and past ones stay bit for bit."""
    net = DCGANGenerator(1, 5, [(3, 2)], "weight", last="class", generator=seeded()).eval()
    net.add_classes(2, seeded(1))
    net.finish_task(10.0, seeded(2))
    net.add_classes(1, seeded(3))
    z, classes = torch.randn(3, 5, generator=seeded(4)), torch.tensor([1, 0, 1])
    before = net(z, net.stored_weights(0), 0, classes)
    assert not torch.equal(before, net(z, net.stored_weights(0), 0, 1 - classes))
    masked = net.masked(1.0, None)[0]
    maps = net._maps(z, masked, 1)
    of = net.lasts[1]
    torch.testing.assert_close(
        net(z, masked, 1, classes * 0 + 2),
        torch.tanh(F.conv_transpose2d(maps, of.weight[0], stride=2, padding=1)),
    )
    with pytest.raises(ValueError, match=r"classes must be in 0\.\.0, got \[-1, -2, -1\]"):
        net(z, masked, 1, classes)
    net.finish_task(10.0, seeded(2))
    assert torch.equal(net(z, net.stored_weights(0), 0, classes), before)
