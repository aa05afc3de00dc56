"""`ResNetGenerator`, and what sizes of images generators have."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clfast.nn import ConditionalGenerator, DCGANGenerator, ResNetGenerator
from clfast.nn.growth import Masks
from clfast.nn.masked_generator import MaskedGenerator
from clfast.nn.resnet_generator import upsampling

NOISE, WIDTHS = 5, (4, 3, 2, 3, 4)  # two blocks: 16 x 16
BOTH = pytest.mark.parametrize("masks", ["weight", "unit"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(masks: Masks, **options: Any) -> ResNetGenerator:
    """In float64, with embeddings of both signs."""
    made = ResNetGenerator(3, NOISE, [WIDTHS], masks, generator=seeded(), **options).double()
    embed(made, 1)
    return made


def embed(made: MaskedGenerator, seed: int) -> None:
    with torch.no_grad():
        random = seeded(seed)
        for embedding in made.embeddings:
            embedding.copy_(torch.randn(embedding.shape, generator=random) - 0.5)


def conv(x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """An ordinary convolution by a masked weight [C_in, C_out, k, k], or of masked activations."""
    of_weights = mask.shape == weight.shape
    weight = weight * mask if of_weights else weight
    y = F.conv2d(x, weight.flip(2, 3).transpose(0, 1), padding=weight.shape[-1] // 2)
    return y if of_weights else y * mask


def plain(
    net: MaskedGenerator, z: Tensor, masks: list[Tensor], task: int, widths: tuple[int, ...]
) -> Tensor:
    """Written out: the blocks of section 3.3, before any growth that came later."""
    maps, n = (NOISE, *widths), [0]

    def weight(source: int, target: int) -> tuple[Tensor, Tensor]:
        layer, n[0] = n[0], n[0] + 1
        return net.weights[layer][: maps[source], : maps[target]], masks[layer]

    first, mask = weight(0, 1)
    whole = first * mask
    x = (z @ whole.flatten(1)).view(len(z), -1, 4, 4)
    for at in range(1, len(maps) - 2, 2):
        y = F.interpolate(net.norms[at - 1](x, task).relu(), scale_factor=2, mode="nearest")
        y = net.norms[at](conv(y, *weight(at, at + 1)), task).relu()
        y = conv(y, *weight(at + 1, at + 2))
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = y + conv(x, *weight(at, at + 2))
    last = net.lasts[task]
    x = net.norms[-1](x, task).relu()
    kernel = last.weight.flip(2, 3).transpose(0, 1)
    return torch.tanh(F.conv2d(x, kernel, last.bias, padding=1))


@BOTH
def test_the_network_is_the_authors(masks: Masks) -> None:
    net, z = network(masks).eval(), torch.randn(3, NOISE, generator=seeded(2)).double()
    masked, sparsity = net.masked(3.0, None)
    soft = [(3 * e).sigmoid() for e in net.embeddings]
    images = net(z, masked, 0)
    assert images.shape == (3, 3, 16, 16)
    expected = plain(net, z, soft, 0, WIDTHS)
    torch.testing.assert_close(images, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(sparsity, torch.cat([m.flatten() for m in soft]).mean())
    # And so are the gradients by all that is learnt.
    up = torch.randn(images.shape, generator=seeded(3)).double()
    learnt = list(net.learnt())
    found = torch.autograd.grad((images * up).sum(), learnt)
    for one, other in zip(found, torch.autograd.grad((expected * up).sum(), learnt), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_upsampling_is_in_the_kernel() -> None:
    weight = torch.randn(2, 3, 3, 3, generator=seeded()).double()
    x = torch.randn(4, 2, 5, 6, generator=seeded(1)).double()
    large = F.conv_transpose2d(F.interpolate(x, scale_factor=2), weight, padding=1)
    found = F.conv_transpose2d(x, upsampling(weight), stride=2, padding=1)
    torch.testing.assert_close(found, large)


@BOTH
def test_initial_values(masks: Masks) -> None:
    net = ResNetGenerator(3, 30, [ResNetGenerator.first_widths(20, 16)], masks, generator=seeded())
    net.finish_task(10.0, seeded(1))  # e = 0 counts as reserved: everything grows
    for layer, weight in enumerate(net.weights):
        inputs, outputs, kernel, _ = weight.shape
        assert inputs + outputs > (40 if layer else 50)
        if layer == 0:
            bound = math.sqrt(6 / (inputs + 16 * outputs))
        else:
            bound = math.sqrt(2) * math.sqrt(6 / (kernel**2 * (inputs + outputs)))
        added = weight.detach().clone()
        added[: 20 if layer else 30, :20] = 0
        assert 0.9 * bound < float(added.abs().max()) <= bound
    for last, width in zip(net.lasts, net.widths, strict=True):
        bound = 1 / math.sqrt(9 * width[-1])
        assert 0.9 * bound < float(last.weight.detach().abs().max()) <= bound
        assert 0 < float(last.bias.detach().abs().max()) <= bound


@BOTH
def test_free_capacity_stays(masks: Masks) -> None:
    net = network(masks)
    free = [int((~r).sum()) for r in net.reserved]
    for task in range(3):
        used = [e >= 0 for e in net.embeddings]
        want = [int((u & ~r).sum()) for u, r in zip(used, net.reserved, strict=True)]
        widths = net.widths[-1]
        reserved = net.finish_task(10.0, seeded(task))
        assert reserved.used == [int(u.sum()) for u in used]
        assert reserved.newly == want
        now = [int((~r).sum()) for r in net.reserved]
        assert all(new >= was for new, was in zip(now, free, strict=True))
        # The matrix's outputs are a multiple of 16, a channel of 4 x 4.
        outputs = 16 * widths[0] + (-(-want[0] // NOISE) if masks == "weight" else 16 * want[0])
        assert net.widths[-1][0] == -(-outputs // 16)
        for block in range(2):
            ends = [net.weights[3 * block + layer].shape[1] for layer in (2, 3)]
            assert ends == [net.widths[-1][2 * block + 2]] * 2
        if masks == "unit":
            # Of two ways that meet the one that needs less has more free than before.
            needs = [max(want[3 * b + 2], want[3 * b + 3]) for b in range(2)]
            grown = [net.widths[-1][2 * b + 2] - widths[2 * b + 2] for b in range(2)]
            assert grown == needs
        embed(net, task + 7)
    assert sum(net.widths[-1]) > sum(net.widths[0])


@pytest.mark.parametrize("replay_mask", ["soft", "binary"])
@BOTH
def test_a_past_task_reads_only_what_is_blocked(masks: Masks, replay_mask: Any) -> None:
    net = network(masks, replay_mask=replay_mask)
    z = torch.randn(4, NOISE, generator=seeded(2)).double()
    images = []
    for task in range(3):
        embeddings = [e.detach().clone() for e in net.embeddings]
        net.train()
        net(z, net.masked(2.0, None)[0], task)  # running statistics
        net.finish_task(4.0, seeded(task))
        net.eval()
        images.append(net(z, net.stored_weights(task), task))
        used = [(e >= 0).double() for e in embeddings]
        soft = [(4 * e).sigmoid() * u for e, u in zip(embeddings, used, strict=True)]
        kept = soft if replay_mask == "soft" else used
        expected = plain(net, z, kept, task, net.widths[task])
        torch.testing.assert_close(images[-1], expected, rtol=1e-6, atol=1e-8)
        with torch.no_grad():
            for weight, blocked in zip(net.weights, net.blocked, strict=True):
                fresh = torch.randn(weight.shape, generator=seeded(task)).double()
                weight[~blocked] = fresh[~blocked]
        embed(net, 9 + task)
        for past, before in enumerate(images):
            assert torch.equal(net(z, net.stored_weights(past), past), before)


def test_both_ends_of_a_block() -> None:
    """A map's channel is reserved where any layer into it has reserved it."""
    net = network("unit", blocked="both_ends")
    with torch.no_grad():
        net.embeddings[2].copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
        net.embeddings[3].copy_(-net.embeddings[2])
    net.finish_task(4.0, seeded(3))
    units = [r.flatten() for r in net.reserved]
    inputs = {1: units[0], 2: units[1], 3: units[0], 4: units[2] | units[3], 5: units[4]}
    assert torch.equal(net.blocked[0].any(0).any(-1).any(-1), units[0])
    for layer, of in inputs.items():
        pairs = of[:, None] & units[layer][None]
        assert torch.equal(net.blocked[layer], pairs[..., None, None].expand_as(net.blocked[layer]))


@pytest.mark.parametrize("last", ["task", "class"])
@BOTH
def test_a_state_fits_a_new_network_of_the_same_widths(masks: Masks, last: Any) -> None:
    net = network(masks, last=last)
    for task in range(2):
        net.add_classes(2 + task, seeded(4))
        net.finish_task(4.0, seeded(3))
        embed(net, 5)
    other = ResNetGenerator(3, NOISE, net.widths, masks, last=last).double()
    other.load_state_dict(net.state_dict())
    z, classes = torch.randn(3, NOISE, generator=seeded(2)).double(), torch.tensor([4, 2, 3])
    assert torch.equal(
        other.eval()(z, other.stored_weights(1), 1, classes),
        net.eval()(z, net.stored_weights(1), 1, classes),
    )
    assert all(map(torch.equal, other.state_dict().values(), net.state_dict().values()))
    assert other.nbytes() == net.nbytes()


@pytest.mark.parametrize("last", ["task", "class"])
def test_bytes(last: Any) -> None:
    net = network("weight", replay_mask="binary", last=last).float()
    net.add_classes(2, seeded())
    a, b, c, d, e = WIDTHS
    sizes = [16 * NOISE * a, 9 * a * b, 9 * b * c, a * c, 9 * c * d, 9 * d * e, c * e]
    assert net.shared_weights(0) == sum(sizes)
    net.finish_task(4.0, seeded(3))
    lasts = (2 if last == "class" else 1) * (9 * 3 * e + 3)
    assert net.nbytes() == {
        "weights": 4 * (sum(sizes) + 4 * sum(WIDTHS) + lasts),
        "masks": sum(-(-size // 8) for size in sizes),
    }


@pytest.mark.parametrize("kind", [DCGANGenerator, ResNetGenerator])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_sizes(size: int, kind: type[MaskedGenerator]) -> None:
    widths = kind.first_widths(2, size)
    net = kind(1, NOISE, [widths], "unit")
    assert net(torch.ones(2, NOISE), net.masked(1.0, None)[0], 0).shape == (2, 1, size, size)
    expected = {DCGANGenerator: (16, 8, 4, 2), ResNetGenerator: (2,) * 9}[kind]
    assert widths == expected[-len(widths) :]
    assert len(widths) == (math.log2(size) - 2) * (1 if kind is DCGANGenerator else 2) + (
        kind is ResNetGenerator
    )


def test_a_conditional_generator_of_other_sizes() -> None:
    net = ConditionalGenerator(3, NOISE, 2, 4, size=64)
    assert [weight.shape[1] for weight in net.weights] == [16, 8, 4, 2, 3]
    assert net(torch.ones(2, NOISE), torch.tensor([0, 3])).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("size", "kind", "message"),
    [
        (48, ValueError, "size must be a power of two, got 48; resize the images to 32 or 64"),
        (8, ValueError, "size must be at least 16, got 8"),
        (32.0, TypeError, "size must be an integer, got float"),
    ],
)
def test_sizes_that_cannot_be(size: Any, kind: type[Exception], message: str) -> None:
    for network in (DCGANGenerator, ResNetGenerator):
        with pytest.raises(kind, match=rf"^{network.__name__}\.first_widths: {message}"):
            network.first_widths(2, size)
    with pytest.raises(kind, match=f"^ConditionalGenerator: {message}"):
        ConditionalGenerator(1, NOISE, 2, 4, size=size)
