"""`unrolled_sgd` against autograd through all steps at once."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Residual
from torch import Tensor, nn
from torch.func import functional_call

from clfast.methods.mnemonics import unrolled_sgd
from clfast.methods.unrolled import NotFiniteError
from clfast.nn import statistics_kept

Params = dict[str, Tensor]


class Problem:
    """A small convolutional network with batch normalisation, exemplars, and data."""

    def __init__(self, *, training: bool = True, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = Residual().to(dtype).train(training)
        for norm in self.net.norms:
            norm.running_var.uniform_(0.5, 2, generator=generator)
        self.x = torch.rand(6, 2, 5, 5, generator=generator, dtype=dtype)
        self.y = torch.arange(6) % 4
        self.data = torch.rand(9, 2, 5, 5, generator=generator, dtype=dtype)
        self.labels = torch.arange(9) % 4

    @property
    def params(self) -> Params:
        return dict(self.net.named_parameters())

    def inner(self, params: Params, exemplars: Tensor) -> Tensor:
        with statistics_kept(self.net):
            return F.cross_entropy(functional_call(self.net, params, (exemplars,)), self.y)

    def outer(self, params: Params) -> Tensor:
        with statistics_kept(self.net):
            return F.cross_entropy(functional_call(self.net, params, (self.data,)), self.labels)

    def run(self, **options: Any) -> tuple[Tensor, Tensor]:
        options = {"steps": 5, "lr": 0.3, **options}
        return unrolled_sgd(self.inner, self.outer, self.params, self.x, **options)


def through_everything(
    problem: Problem, steps: int = 5, lr: float = 0.3, momentum: float = 0.0, hold: bool = False
) -> tuple[Tensor, Tensor]:
    """The loss and its gradient by one graph of all steps; `hold`: each gradient of the inner loss
    is taken at parameters that depend on no exemplars."""
    exemplars = problem.x.clone().requires_grad_()
    params = {name: p.detach().clone() for name, p in problem.params.items()}
    velocity = {name: torch.zeros_like(p) for name, p in params.items()}
    for _ in range(steps):
        at = {n: (p.detach() if hold else p).requires_grad_() for n, p in params.items()}
        found = torch.autograd.grad(
            problem.inner(at, exemplars), list(at.values()), create_graph=True
        )
        for name, gradient in zip(params, found, strict=True):
            velocity[name] = momentum * velocity[name] + gradient
            params[name] = params[name] - lr * velocity[name]
    loss = problem.outer(params)
    return loss.detach(), torch.autograd.grad(loss, exemplars)[0]


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).norm() <= 1e-10 * wanted.norm())


@pytest.mark.parametrize("every", [1, 2, 3, 7])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_is_that_through_the_whole_graph(
    training: bool, momentum: float, every: int
) -> None:
    problem = Problem(training=training)
    loss, gradient = problem.run(momentum=momentum, checkpoint_every=every)
    wanted_loss, wanted = through_everything(problem, momentum=momentum)
    assert close(loss, wanted_loss)
    assert close(gradient, wanted)
    assert wanted.norm() > 1e-4
    assert not loss.requires_grad
    assert not gradient.requires_grad


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_first_order_holds_the_parameters_at_which_gradients_are_taken(momentum: float) -> None:
    problem = Problem()
    loss, gradient = problem.run(momentum=momentum, first_order=True)
    wanted_loss, wanted = through_everything(problem, momentum=momentum, hold=True)
    assert close(loss, wanted_loss)
    assert close(gradient, wanted)
    assert not close(gradient, problem.run(momentum=momentum)[1])


def test_one_loss_a_step_and_a_dict_of_exemplars() -> None:
    problem = Problem()
    y = F.one_hot(problem.y, 4).double()

    def on(rows: list[int]) -> Callable[[Params, Params], Tensor]:
        def loss(params: Params, exemplars: Params) -> Tensor:
            with statistics_kept(problem.net):
                logits = functional_call(problem.net, params, (exemplars["x"][rows],))
            return F.cross_entropy(logits, exemplars["y"][rows])

        return loss

    losses = [on([0, 1, 2]), on([3, 4, 5]), on([5, 0, 3, 1])]
    exemplars = {"x": problem.x, "y": y}
    _, found = unrolled_sgd(losses, problem.outer, problem.params, exemplars, steps=3, lr=0.2)
    leaves = {name: e.clone().requires_grad_() for name, e in exemplars.items()}
    params = problem.params
    for loss in losses:
        steps = torch.autograd.grad(loss(params, leaves), list(params.values()), create_graph=True)
        moved = [p - 0.2 * g for p, g in zip(params.values(), steps, strict=True)]
        params = dict(zip(params, moved, strict=True))
    wanted = torch.autograd.grad(problem.outer(params), list(leaves.values()))
    assert found.keys() == leaves.keys()
    for gradient, want in zip(found.values(), wanted, strict=True):
        assert close(gradient, want)


def test_frozen_parameters_stay_and_plain_tensors_are_trained() -> None:
    problem = Problem()
    problem.net.requires_grad_(False)
    problem.net.head.requires_grad_(True)
    _, head_alone = problem.run()
    wanted = through_everything_of_the_head(problem)
    assert close(head_alone, wanted)
    problem.net.requires_grad_(True)
    plain = {name: p.detach().clone() for name, p in problem.params.items()}
    found = unrolled_sgd(problem.inner, problem.outer, plain, problem.x, steps=5, lr=0.3)
    assert torch.equal(found[1], problem.run()[1])
    assert not any(p.requires_grad for p in plain.values())


def through_everything_of_the_head(problem: Problem) -> Tensor:
    exemplars = problem.x.clone().requires_grad_()
    params = {name: p.detach().clone() for name, p in problem.params.items()}
    names = ["head.weight", "head.bias"]
    for _ in range(5):
        for name in names:
            params[name].requires_grad_()
        inner = problem.inner(params, exemplars)
        found = torch.autograd.grad(inner, [params[n] for n in names], create_graph=True)
        params |= {n: params[n] - 0.3 * g for n, g in zip(names, found, strict=True)}
    gradient: Tensor = torch.autograd.grad(problem.outer(params), exemplars)[0]
    return gradient


def test_parameters_that_no_loss_uses_change_nothing() -> None:
    problem = Problem()
    params = {**problem.params, "unused": torch.ones(3), "count": torch.tensor(3)}
    _, gradient = unrolled_sgd(
        lambda p, e: problem.inner({n: p[n] for n in problem.params}, e) + p["unused"].sum(),
        lambda p: problem.outer({n: p[n] for n in problem.params}),
        *(params, problem.x),
        steps=5,
        lr=0.3,
    )
    assert close(gradient, problem.run()[1])


def test_nothing_is_changed() -> None:
    problem = Problem()
    before = {name: value.clone() for name, value in problem.net.state_dict().items()}
    inputs = problem.x.clone()
    modes = [module.training for module in problem.net.modules()]
    problem.run(momentum=0.5, checkpoint_every=2)
    assert all(torch.equal(v, before[n]) for n, v in problem.net.state_dict().items())
    assert all(p.grad is None for p in problem.net.parameters())
    assert [module.training for module in problem.net.modules()] == modes
    assert torch.equal(problem.x, inputs)
    assert not problem.x.requires_grad


def test_inside_no_grad_and_inference_mode() -> None:
    problem = Problem()
    wanted = problem.run()[1]
    with torch.no_grad():
        assert torch.equal(problem.run()[1], wanted)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert torch.equal(problem.run()[1], wanted)


class Saved:
    """A tensor that a graph holds for its backward pass; counts the bytes of those alive."""

    now = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Saved.now += tensor.nbytes
        Saved.most = max(Saved.most, Saved.now)

    def __del__(self) -> None:
        Saved.now -= self.tensor.nbytes


def most_saved(call: Callable[[], object]) -> int:
    """The bytes that graphs hold at one time, at most."""
    Saved.now = Saved.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        call()
    assert Saved.now == 0
    return Saved.most


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "checkpoint_every": 7}])
def test_memory_does_not_grow_with_the_graphs_of_all_steps(options: dict[str, Any]) -> None:
    problem = Problem(dtype=torch.float32)
    five = most_saved(lambda: problem.run(steps=5, lr=0.01, **options))
    fifty = most_saved(lambda: problem.run(steps=50, lr=0.01, **options))
    assert fifty <= 1.3 * five
    # The graph of ten steps is a fifth of that of fifty.
    assert fifty <= most_saved(lambda: through_everything(problem, steps=10, lr=0.01))


@pytest.mark.parametrize(("every", "most"), [(1, 50), (7, 50 // 7 + 7)])
def test_parameters_kept_between_the_sweeps(every: int, most: int) -> None:
    alive, peak = 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def inner(params: Params, exemplars: Tensor) -> Tensor:
        nonlocal alive, peak
        weakref.finalize(params["w"].untyped_storage(), gone)
        alive += 1
        peak = max(peak, alive)
        return (params["w"] * exemplars).square().sum()

    unrolled_sgd(
        *(inner, lambda p: p["w"].sum(), {"w": torch.ones(3)}, torch.ones(3)),
        steps=50,
        lr=0.01,
        checkpoint_every=every,
    )
    assert most - 1 <= peak <= most + 2  # a step that is run again counts twice


def message(text: str) -> str:
    return "unrolled_sgd: " + re.escape(text)


def refused(error: type[Exception], text: str, problem: Problem, **changes: Any) -> None:
    """The call is refused, and random state and parameters are as before."""
    arguments: dict[str, Any] = {
        "inner_loss": problem.inner,
        "outer_loss": problem.outer,
        "params": problem.params,
        "exemplars": problem.x,
        "steps": 3,
        "lr": 0.1,
    }
    state = {name: value.clone() for name, value in problem.net.state_dict().items()}
    random, exemplars = torch.get_rng_state(), problem.x.clone()
    with pytest.raises(error, match=message(text)):
        unrolled_sgd(**{**arguments, **changes})
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(problem.x.nan_to_num(), exemplars.nan_to_num())
    assert all(torch.equal(v, state[n]) for n, v in problem.net.state_dict().items())
    assert all(p.grad is None for p in problem.net.parameters())


@pytest.mark.parametrize(
    ("error", "text", "changes"),
    [
        (ValueError, "steps must be at least 1, got 0", {"steps": 0}),
        (TypeError, "steps must be an integer, got float", {"steps": 2.0}),
        (ValueError, "lr must be finite and in (0, inf), got 0", {"lr": 0}),
        (ValueError, "lr must be finite and in (0, inf), got -0.1", {"lr": -0.1}),
        (ValueError, "lr must be finite", {"lr": float("nan")}),
        (ValueError, "momentum must be finite and in [0, 1), got 1", {"momentum": 1}),
        (ValueError, "checkpoint_every must be at least 1", {"checkpoint_every": 0}),
        (TypeError, "first_order must be True or False", {"first_order": "no"}),
        (TypeError, "inner_loss must be callable, or a sequence", {"inner_loss": 3}),
        (ValueError, "inner_loss must hold a loss for each of the 3", {"inner_loss": [max]}),
        (TypeError, "outer_loss must be callable, got int", {"outer_loss": 3}),
        (TypeError, "params must be a dict of tensors, got list", {"params": []}),
        (ValueError, "params holds no tensors", {"params": {}}),
        (TypeError, "params['a'] must be a tensor, got int", {"params": {"a": 1}}),
        (ValueError, "params has nothing to train", {"params": {"a": torch.tensor(1)}}),
        (TypeError, "exemplars must be a tensor or a dict", {"exemplars": [1]}),
        (ValueError, "exemplars holds no tensors", {"exemplars": {}}),
        (TypeError, "exemplars must be floating point", {"exemplars": torch.ones(2).long()}),
        (TypeError, "exemplars['a'] must be floating", {"exemplars": {"a": torch.tensor(1)}}),
    ],
)
def test_arguments_that_cannot_be(
    error: type[Exception], text: str, changes: dict[str, Any]
) -> None:
    refused(error, text, Problem(), **changes)


def test_a_frozen_model() -> None:
    problem = Problem()
    problem.net.requires_grad_(False)
    refused(ValueError, "params has nothing to train among its", problem)


def test_losses_that_cannot_be() -> None:
    problem = Problem()

    def noisy(params: Params, exemplars: Tensor) -> Tensor:
        return problem.inner(params, exemplars + torch.rand(()))

    def rows(params: Params, exemplars: Tensor) -> Tensor:
        return noisy(params, exemplars).expand(3)

    refused(ValueError, "inner_loss must return a floating-point scalar", problem, inner_loss=rows)
    refused(TypeError, "outer_loss must return a scalar", problem, outer_loss=lambda p: 1.0)
    refused(
        ValueError, "inner_loss must depend on params", problem, inner_loss=lambda p, e: e.sum()
    )
    fixed = torch.tensor(1.0)
    refused(ValueError, "outer_loss must depend on params", problem, outer_loss=lambda p: fixed)
    held = problem.x.clone()
    refused(
        ValueError,
        "inner_loss must depend on exemplars",
        problem,
        inner_loss=lambda p, e: noisy(p, held),
    )
    refused(
        RuntimeError,
        "outer_loss is NaN or infinite; look at lr",
        problem,
        inner_loss=noisy,
        outer_loss=lambda p: problem.outer(p) * torch.nan,
    )


def test_inner_training_that_diverges() -> None:
    problem = Problem()
    with pytest.raises(NotFiniteError) as raised:
        problem.run(lr=1e200)
    assert (raised.value.what, raised.value.step) == ("inner_loss", 1)
    refused(NotFiniteError, "inner_loss is NaN or infinite at step 1", problem, lr=1e200)
    problem.x[0, 0, 0, 0] = torch.nan
    refused(RuntimeError, "inner_loss is NaN or infinite at step 0", problem)


def test_a_gradient_that_is_not_finite() -> None:
    problem = Problem()

    def kinked(params: Params, exemplars: Tensor) -> Tensor:
        return problem.inner(params, exemplars) + params["head.bias"][0] * (
            (exemplars - exemplars.detach()).abs().sqrt().sum()
        )

    refused(RuntimeError, "the gradient in exemplars holds NaN", problem, inner_loss=kinked)


def test_an_error_of_the_users_comes_through() -> None:
    problem = Problem()

    def failing(params: Params) -> Tensor:
        raise KeyError(torch.rand(()).item())

    random = torch.get_rng_state()
    with pytest.raises(KeyError):
        unrolled_sgd(problem.inner, failing, problem.params, problem.x, steps=2, lr=0.1)
    assert torch.equal(torch.get_rng_state(), random)


def test_nothing_of_torch_is_left_behind() -> None:
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    loss, gradient = unrolled_sgd(
        lambda p, e: (p["w"] * e * p["c"]).sum() ** 2,
        lambda p: p["w"].square().sum(),
        {"w": torch.ones(2), "c": frozen},
        torch.ones(2),
        steps=1,
        lr=0.1,
    )
    # w_1 = 1 - 0.1 * 2 * 2 = 0.6; d w_1[i] / d e[j] = -0.2 (1 + 2 [i == j]).
    assert torch.allclose(loss, torch.tensor(2 * 0.6**2))
    assert torch.allclose(gradient, torch.full((2,), 2 * 0.6 * -0.2 * 4))
