"""What losses may do within `unrolled_sgd`, against autograd through all steps at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.families import _bilevel_step
from clfast.methods import unrolled
from clfast.methods.mnemonics import unrolled_sgd
from clfast.nn import statistics_kept
from clfast.nn.second_order import QuickSecondDerivatives

Params = dict[str, Tensor]
Inner = Callable[[Params, Tensor], Tensor]
Outer = Callable[[Params], Tensor]
LR, STEPS = 0.1, 3


class Tail(nn.Module):
    """A convolution, what is done to its images, and a linear layer on pixels or their means."""

    def __init__(self, middle: Callable[[Tensor], Tensor], *, pooled: bool = False) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 4, 3)
        self.middle = middle
        self.pooled = pooled
        self.head = nn.Linear(4 if pooled else 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        images = self.middle(self.body(x))
        if self.pooled:
            images = F.adaptive_avg_pool2d(images, 1)
        logits: Tensor = self.head(images.view(len(x), -1) if self.pooled else images.flatten(1))
        return logits


class Problem:
    """Losses of a network on 2-channel images of 5 x 5."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = make().double()
        self.x = torch.randn(6, 2, 5, 5, generator=generator, dtype=torch.float64)
        self.data = torch.randn(7, 2, 5, 5, generator=generator, dtype=torch.float64)
        self.params: Params = dict(self.net.named_parameters())

    def loss(self, params: Params, x: Tensor) -> Tensor:
        with statistics_kept(self.net):
            logits = functional_call(self.net, params, (x,))
        return F.cross_entropy(logits, torch.arange(len(x)) % logits.shape[1])

    def outer(self, params: Params) -> Tensor:
        return self.loss(params, self.data)

    def check(
        self, inner: Sequence[Inner] | None = None, outer: Outer | None = None, **options: Any
    ) -> None:
        """Losses, gradients, and the random state are those of one graph of all steps."""
        losses, outer = inner or [self.loss] * STEPS, outer or self.outer
        torch.manual_seed(3)
        loss, gradient = unrolled_sgd(
            *(losses, outer, self.params, self.x), steps=STEPS, lr=LR, **options
        )
        after = torch.get_rng_state()
        torch.manual_seed(3)
        exemplars, params = self.x.clone().requires_grad_(), self.params
        for each in losses:
            values = list(params.values())
            found = torch.autograd.grad(each(params, exemplars), values, create_graph=True)
            moved = [p - LR * g for p, g in zip(values, found, strict=True)]
            params = dict(zip(params, moved, strict=True))
        value = outer(params)
        wanted = torch.autograd.grad(value, exemplars)[0]
        assert wanted.norm() > 1e-5
        assert (loss - value).abs() <= 1e-12 * value
        assert (gradient - wanted).norm() <= 1e-10 * wanted.norm()
        assert torch.equal(after, torch.get_rng_state())


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[QuickSecondDerivatives]:
    """Those that losses are computed in, in turn."""
    made: list[QuickSecondDerivatives] = []

    class Noted(QuickSecondDerivatives):
        def __init__(self, **options: bool) -> None:
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr(unrolled, "QuickSecondDerivatives", Noted)
    return made


def written(images: Tensor, view: Tensor) -> Tensor:
    """The images after work in place on what is a view of them."""
    view.tanh_()
    return images


def normalised_in_place(images: Tensor) -> Tensor:
    scale = torch.ones(4, dtype=images.dtype)
    images = F.batch_norm(images, None, None, scale, scale / 2, True)
    return written(images, images.view(len(images), -1))


def zeroed(images: Tensor) -> Tensor:
    images = images.mul_(2)
    images[:, 0] = 0
    return F.relu_(images + 0.1)


ORDERLESS: dict[str, Callable[[Tensor], Tensor]] = {
    "in place": lambda h: F.relu_(h).square(),
    "written in part": zeroed,
    "in place through a slice": lambda h: written(h, h[:, 1:3]),
    "pooled": lambda h: F.max_pool2d(F.pad(h, (1, 1, 2, 2)), 2)[:, :, ::2],
    "shortcut": lambda h: torch.cat([h, -h], 1)[:, 2:6] + h[:, :1] / 2,
}
IN_ORDER: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda h: h.tanh().view(len(h), -1),
    "view_as": lambda h: h.tanh().view_as(torch.empty(len(h), 36)),
    "in place through a view": lambda h: written(h, h.view(len(h), -1)),
    "in place through view_as": lambda h: written(h, h.view_as(torch.empty(len(h), 36))),
    "in place through reshape": lambda h: written(h, h.reshape(len(h), -1)),
    "in place through flatten": lambda h: written(h, torch.flatten(h, 1)),
    "in place through contiguous": lambda h: written(h, h.contiguous()),
    "in place through as_strided": lambda h: written(h, h.as_strided((len(h), 9), (36, 1))),
    "of a layer that was written": lambda h: written(F.relu(h), h.view(len(h), -1)) + h,
    "in place after batch normalisation": normalised_in_place,
    "order of channels": lambda h: h.permute(0, 2, 3, 1).reshape(len(h), -1).tanh(),
}


@pytest.mark.parametrize("name", ORDERLESS)
def test_work_on_images_in_any_order(name: str, contexts: list[QuickSecondDerivatives]) -> None:
    Problem(lambda: Tail(ORDERLESS[name], pooled=True)).check(checkpoint_every=2)
    assert len(contexts) == 2 * STEPS + 1 + 1
    assert all(context.rearranged and not context.exposed for context in contexts)


@pytest.mark.parametrize("name", IN_ORDER)
def test_work_on_images_in_their_order(name: str, contexts: list[QuickSecondDerivatives]) -> None:
    Problem(lambda: Tail(IN_ORDER[name])).check(checkpoint_every=2)
    # The first inner loss and the outer one are computed twice.
    assert len(contexts) == 2 * STEPS + 1 + 1 + 2
    assert sum(context.rearranged for context in contexts) == 2
    assert not any(context.differentiated for context in contexts)


def test_views_of_weights() -> None:
    problem = Problem(lambda: Tail(torch.tanh))

    def decayed(params: Params, x: Tensor) -> Tensor:
        return problem.loss(params, x) + params["body.weight"].view(4, -1).square().sum() / 9

    problem.check([decayed] * STEPS, outer=lambda p: decayed(p, problem.data))
    arguments = (decayed, problem.outer, problem.params, problem.x)
    unrolled_sgd(*arguments, steps=STEPS, lr=LR, momentum=0.5, checkpoint_every=2)


def dropping() -> nn.Module:
    layers = [nn.Conv2d(2, 4, 3), nn.Dropout(0.5), nn.Tanh(), nn.Dropout2d(0.3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(36, 3))


@pytest.mark.parametrize("every", [1, 2])
def test_steps_that_are_run_again_drop_the_same_units(every: int) -> None:
    problem = Problem(dropping)
    problem.check(checkpoint_every=every)
    problem.check(outer=lambda p: problem.outer(p) + 0 * torch.rand(()), checkpoint_every=every)


def penalised(problem: Problem, x: Tensor, params: Params, order: int, of: str) -> Tensor:
    """The loss, and squares of its derivatives up to an order."""
    images = x.clone()  # parameters, which come of exemplars, do not come of these
    images.requires_grad_()
    total = last = problem.loss(params, images)
    inputs = [images] if of == "exemplars" else list(params.values())
    for _ in range(order):
        found = torch.autograd.grad(last, inputs, create_graph=True, materialize_grads=True)
        last = torch.stack([g.square().sum() for g in found]).sum()
        total = total + last
    return total


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("place", range(STEPS))
def test_one_loss_with_derivatives_in_it_and_dropout_in_all(place: int, every: int) -> None:
    problem = Problem(dropping)
    losses: list[Inner] = [problem.loss] * STEPS
    losses[place] = lambda p, x: penalised(problem, x, p, 1, "exemplars")
    problem.check(losses, checkpoint_every=every)


def normalised(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), *layers, nn.Flatten(), nn.Linear(27, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: normalised(nn.Tanh()),
    "both": lambda: normalised(nn.BatchNorm2d(3), nn.Tanh()).eval(),
    "batch normalisation": lambda: nn.Sequential(
        *(nn.Flatten(), nn.Linear(50, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 3))
    ),
}


@pytest.mark.parametrize("of", ["exemplars", "params"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_inner_losses_with_derivatives_in_them(name: str, order: int, of: str) -> None:
    problem = Problem(NETWORKS[name])
    problem.check([lambda p, x: penalised(problem, x, p, order, of) / 10**order] * STEPS)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_outer_losses_with_derivatives_in_them(
    name: str, order: int, contexts: list[QuickSecondDerivatives]
) -> None:
    problem = Problem(NETWORKS[name])
    problem.check(outer=lambda p: penalised(problem, problem.data, p, order, "params"))
    # Steps stay quick.
    assert sum(context.differentiated for context in contexts) == 1
    assert not contexts[-1].differentiated


@pytest.mark.parametrize("every", [1, 2])
def test_attention(every: int) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(2, 8, 3)
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.layer(self.body(x).flatten(2).mT)
            q, k, v = tokens.chunk(3, 1)
            logits: Tensor = self.head(F.scaled_dot_product_attention(q, k, v).mean(1))
            return logits

    problem = Problem(Attending)
    before = torch.backends.cuda.flash_sdp_enabled()
    torch.backends.cuda.enable_flash_sdp(False)  # the one graph cannot do with it
    try:
        problem.check(checkpoint_every=every)
        torch.backends.cuda.enable_flash_sdp(True)
        unrolled_sgd(problem.loss, problem.outer, problem.params, problem.x, steps=2, lr=LR)
        assert torch.backends.cuda.flash_sdp_enabled()
    finally:
        torch.backends.cuda.enable_flash_sdp(before)


def test_residual_networks_take_the_quick_way(contexts: list[QuickSecondDerivatives]) -> None:
    options = {"exemplars": 4, "steps": STEPS, "size": 8}
    case = _bilevel_step.bilevel_step("small", width=4, tolerance=1e-3, **options)
    images = case.inputs(torch.Generator().manual_seed(0))
    ours = next(variant for variant in case.variants if variant.kind == "clfast")
    gradient = ours.function(*ours.arguments(images))
    assert case.error(gradient, case.oracle(images), images) <= case.tolerance
    assert len(contexts) == STEPS + 1 + STEPS
    assert all(context.rearranged for context in contexts)
    assert not any(context.exposed or context.differentiated for context in contexts)


def test_an_error_comes_once() -> None:
    """Of a loss that was computed in another order of images before."""
    problem = Problem(lambda: Tail(torch.tanh))
    calls = 0

    def failing(params: Params, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        problem.loss(params, x)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        unrolled_sgd(failing, problem.outer, problem.params, problem.x, steps=2, lr=LR)
    assert raised.value.__context__ is None
    assert calls == 2
