"""`DCGANGenerator` and `dcgan_critic`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clfast.nn import DCGANGenerator, dcgan_critic
from clfast.nn.growth import Masks

NOISE, WIDTHS = 5, (6, 4, 3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(masks: Masks, **options: Any) -> DCGANGenerator:
    """With embeddings of both signs."""
    made = DCGANGenerator(2, NOISE, [WIDTHS], masks, generator=seeded(), **options)
    embed(made, 1)
    return made


def embed(made: DCGANGenerator, seed: int) -> None:
    with torch.no_grad():
        for embedding in made.embeddings:
            embedding.copy_(torch.randn(embedding.shape, generator=seeded(seed)) - 0.5)


def plain(
    net: DCGANGenerator, z: Tensor, masks: list[Tensor], task: int, sizes: tuple[int, ...]
) -> Tensor:
    """From the paper: masks of weights, or of activations before normalisation; eval mode."""
    x, inputs = z[:, :, None, None], NOISE
    for layer, (mask, size) in enumerate(zip(masks, sizes, strict=True)):
        weight = net.weights[layer][:inputs, :size]
        of_weights = mask.shape == weight.shape
        stride, padding = (1, 0) if layer == 0 else (2, 1)
        x = F.conv_transpose2d(x, weight * mask if of_weights else weight, None, stride, padding)
        x = x if of_weights else x * mask
        x = net.norms[layer](x, task).relu()
        inputs = size
    return net.lasts[task](x).tanh()


@pytest.mark.parametrize("masks", ["weight", "unit"])
def test_the_network_is_the_papers(masks: Masks) -> None:
    net = network(masks).eval()
    z = torch.randn(3, NOISE, generator=seeded(2))
    masked, sparsity = net.masked(3.0, None)
    soft = [(3 * e).sigmoid() for e in net.embeddings]
    assert net(z, masked, 0).shape == (3, 2, 32, 32)
    torch.testing.assert_close(net(z, masked, 0), plain(net, z, soft, 0, WIDTHS))
    every = torch.cat([m.flatten() for m in soft])
    torch.testing.assert_close(sparsity, every.mean())


def test_initial_values() -> None:
    large = [(40, 30, 20)]
    weights = DCGANGenerator(1, 30, large, "weight", generator=seeded())
    units = DCGANGenerator(1, 30, large, "unit", generator=seeded())
    for weight, other in zip(weights.weights, units.weights, strict=True):
        weight, other = weight.detach(), other.detach()
        inputs, outputs = weight.shape[:2]
        bound = math.sqrt(2) * math.sqrt(6 / (16 * (inputs + outputs)))
        assert 0.95 * bound < float(weight.abs().max()) <= bound
        assert abs(float(other.std()) - 0.02) < 1e-3
    for net, small in ((weights, True), (units, False)):
        net.finish_task(10.0, seeded(1))  # e = 0 counts as reserved: everything grows
        new = net.weights[0].detach()[:, 40:]
        assert (abs(float(new.std()) - 0.02) < 2e-3) == small
        assert all(not e.any() for e in net.embeddings)
    assert weights.widths[-1][0] == 80
    assert units.widths[-1] == (80, 60, 40)


@pytest.mark.parametrize("masks", ["weight", "unit"])
def test_free_capacity_stays(masks: Masks) -> None:
    net = network(masks)
    free = [int((~r).sum()) for r in net.reserved]
    for task in range(3):
        used = [int((e >= 0).sum()) for e in net.embeddings]
        old = [r.clone() for r in net.reserved]
        want = [
            int(((e >= 0) & ~r).sum()) for e, r in zip(net.embeddings, net.reserved, strict=True)
        ]
        reserved = net.finish_task(10.0, seeded(task))
        assert reserved.used == used
        assert reserved.newly == want
        now = [int((~r).sum()) for r in net.reserved]
        if masks == "unit":
            assert now == free
        else:
            assert all(new >= was for new, was in zip(now, free, strict=True))
        for before, after, weight in zip(old, net.reserved, net.weights, strict=True):
            corner = after[tuple(map(slice, before.shape))]
            assert bool((corner | ~before).all())  # what was reserved is
            assert after.shape == (
                weight.shape if masks == "weight" else (1, weight.shape[1], 1, 1)
            )
        embed(net, task + 7)


@pytest.mark.parametrize("replay_mask", ["soft", "binary"])
@pytest.mark.parametrize("masks", ["weight", "unit"])
def test_a_past_task_reads_only_what_is_blocked(masks: Masks, replay_mask: Any) -> None:
    net = network(masks, replay_mask=replay_mask)
    z = torch.randn(4, NOISE, generator=seeded(2))
    images = []
    for task in range(3):
        embeddings = [e.detach().clone() for e in net.embeddings]
        net.train()
        net(z, net.masked(2.0, None)[0], task)  # running statistics
        net.finish_task(4.0, seeded(task))
        net.eval()
        images.append(net(z, net.stored_weights(task), task))
        used = [(e >= 0).float() for e in embeddings]
        soft = [(4 * e).sigmoid() * u for e, u in zip(embeddings, used, strict=True)]
        expected = soft if replay_mask == "soft" else used
        torch.testing.assert_close(
            images[-1], plain(net, z, expected, task, tuple(net.widths[task]))
        )
        with torch.no_grad():
            for weight, blocked in zip(net.weights, net.blocked, strict=True):
                weight[~blocked] = torch.randn(weight.shape, generator=seeded(task))[~blocked]
        embed(net, 9 + task)
        for past, before in enumerate(images):
            assert torch.equal(net(z, net.stored_weights(past), past), before)


def test_what_the_authors_block_of_units_is_less() -> None:
    net, theirs = network("unit"), network("unit", blocked="both_ends")
    for each in (net, theirs):
        each.finish_task(4.0, seeded(3))
    # Of the first layer nothing comes before; of the others only weights between reserved units.
    assert torch.equal(net.blocked[0], theirs.blocked[0])
    for layer in (1, 2):
        outputs, inputs = net.reserved[layer].flatten(), net.reserved[layer - 1].flatten()
        pairs = inputs[:, None] & outputs[None]
        assert torch.equal(theirs.blocked[layer], pairs[..., None, None].expand(*pairs.shape, 4, 4))
        assert not bool((theirs.blocked[layer] & ~outputs[None, :, None, None]).any())


@pytest.mark.parametrize("replay_mask", ["soft", "binary"])
@pytest.mark.parametrize("masks", ["weight", "unit"])
def test_a_state_fits_a_new_network_of_the_same_widths(masks: Masks, replay_mask: Any) -> None:
    net = network(masks, replay_mask=replay_mask)
    net.finish_task(4.0, seeded(3))
    other = DCGANGenerator(2, NOISE, net.widths, masks, replay_mask=replay_mask)
    other.load_state_dict(net.state_dict())
    z = torch.randn(4, NOISE, generator=seeded(2))
    assert torch.equal(
        other.eval()(z, other.stored_weights(0), 0), net.eval()(z, net.stored_weights(0), 0)
    )
    assert all(map(torch.equal, other.state_dict().values(), net.state_dict().values()))
    assert other.nbytes() == net.nbytes()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((0.0,), RuntimeError, "reserve_"),
        ((float("nan"),), RuntimeError, "reserve_"),
        ((10.0, 3), TypeError, r"DCGANGenerator\.finish_task: generator must be"),
    ],
)
def test_a_task_that_cannot_end_leaves_everything(
    arguments: Any, kind: type[Exception], message: str
) -> None:
    net = network("unit")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(kind, match=message):
        net.finish_task(*arguments)
    assert net.task == 0
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"masks": "units"}, ValueError, "masks must be one of weight, unit, got 'units'"),
        ({"blocked": "inputs"}, ValueError, "blocked must be one of outputs, both_ends"),
        ({"replay_mask": "hard"}, ValueError, "replay_mask must be one of soft, binary"),
        ({"last": "none"}, ValueError, "last must be one of task, class"),
        ({"channels": 0}, ValueError, "channels must be at least 1, got 0"),
        ({"noise": 2.5}, TypeError, "noise must be an integer, got float"),
        ({"widths": []}, ValueError, "widths must"),
        ({"widths": [(8, 4, 2), (8, 4)]}, ValueError, "widths must"),
        ({"widths": [(8, 0, 2)]}, ValueError, "widths must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(options: Any, kind: type[Exception], message: str) -> None:
    given = {"channels": 1, "noise": NOISE, "widths": [WIDTHS], "masks": "unit", **options}
    with pytest.raises(kind, match=f"^DCGANGenerator: {message}"):
        DCGANGenerator(**given)


def test_bytes() -> None:
    net = network("weight", replay_mask="binary")
    sizes = [16 * i * o for i, o in zip((NOISE, *WIDTHS), WIDTHS, strict=False)]
    net.finish_task(4.0, seeded(3))
    assert net.nbytes() == {
        "weights": 4 * (sum(sizes) + 4 * sum(WIDTHS) + 16 * 3 * 2),
        "masks": sum(-(-size // 8) for size in sizes),
    }


def test_the_critic() -> None:
    critic = dcgan_critic(3, 2, width=4, generator=seeded())
    x = torch.rand(5, 3, 32, 32, generator=seeded(1))
    score, logits = critic.eval()(x)
    assert score.shape == (5,)
    critic.add_classes(3, seeded(2))
    more = critic(x)
    assert torch.equal(more[0], score)
    assert more[1].shape == (5, 5)
    torch.testing.assert_close(more[1][:, :2], logits)
