"""What cannot be is said with what to do, and leaves everything as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_strategy import FakeStrategy, Growing, Network, experience, grown, network, parameters
from torch import nn

import clfast
from clfast.integrations import avalanche
from clfast.memory import ReplayBuffer
from clfast.methods import DGR, RandomSelection

MASK = torch.zeros(6, 10, dtype=torch.bool)

EVERY: dict[str, Callable[[], Any]] = {
    "EWC": lambda: avalanche.EWC(strength=1.0),
    "Hebb": lambda: avalanche.Hebb("classifier"),
    "ARM": lambda: avalanche.ARM(images=4, steps=1),
    "Protect": lambda: avalanche.Protect({"classifier.weight": MASK}),
    "Replay": lambda: avalanche.Replay(4),
}


class Replacing:
    """As GDumbPlugin: a new model for each experience."""

    def before_train_dataset_adaptation(self, strategy: FakeStrategy) -> None:
        strategy.model = copy.deepcopy(strategy.model)
        strategy.optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.05)


@pytest.mark.parametrize("name", ["EWC", "ARM", "Protect"])
def test_a_model_that_is_replaced_is_refused(name: str) -> None:
    strategy = FakeStrategy(network(), [EVERY[name](), Replacing()])
    strategy.train(experience(0))
    before = parameters(strategy.model)
    with pytest.raises(RuntimeError, match=r"replaced .* GDumbPlugin .* take one of the two"):
        strategy.train(experience(1))
    torch.testing.assert_close(parameters(strategy.model), before, rtol=0, atol=0)


def test_a_plugin_serves_one_strategy() -> None:
    plugin = avalanche.EWC(strength=1.0)
    FakeStrategy(network(), [plugin]).train(experience(0))
    other = FakeStrategy(network(), [plugin])
    before = parameters(other.model)
    with pytest.raises(RuntimeError, match=r"served another strategy, .* a new plugin for a new"):
        other.train(experience(1))
    torch.testing.assert_close(parameters(other.model), before, rtol=0, atol=0)


class MultiTaskModule(Network):
    __module__ = "avalanche.models.dynamic_modules"


class Updating:
    """The part of ReplayPlugin that asks a policy to store."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def after_training_exp(self, strategy: FakeStrategy) -> None:
        self.policy.update(strategy)


@pytest.mark.parametrize("name", ["EWC", "Hebb", "ARM", "herding"])
def test_a_model_that_wants_task_labels(name: str) -> None:
    class Derived(MultiTaskModule):
        pass

    policy = avalanche.HerdingBuffer(4, "classifier")
    strategy = FakeStrategy(Derived(), [Updating(policy) if name == "herding" else EVERY[name]()])
    with pytest.raises(RuntimeError, match=r"is a MultiTaskModule, .* use a model with one head"):
        strategy.train(experience(0))
    assert policy.exemplars is None
    for plugin in (EVERY["Replay"](), EVERY["Protect"](), avalanche.SI(strength=1.0)):
        FakeStrategy(Derived(), [plugin]).train(experience(0))  # which run the model on nothing


def test_classes_with_another_task_label() -> None:
    policy = avalanche.HerdingBuffer(4, "classifier")
    strategy = FakeStrategy(network(), [Updating(policy)])
    strategy.train(experience(0, arity=3))
    stored = policy.exemplars
    message = r"^HerdingBuffer: samples of class 0 have the task labels 0 and 1, but exemplars"
    again = [(x, y, 1) for x, y, _ in experience(0, arity=3)]
    with pytest.raises(ValueError, match=message):
        strategy.train(again)
    assert policy.exemplars is stored
    assert [task for _, _, task in policy.buffer] == [0] * 4
    policy = avalanche.HerdingBuffer(4, "classifier")
    strategy.plugins = [Updating(policy)]
    with pytest.raises(ValueError, match=message):
        strategy.train([*again, *experience(0, arity=3)])


@pytest.mark.parametrize("kind", [avalanche.Hebb, avalanche.MbPA, avalanche.Mixture])
@pytest.mark.parametrize("first", ["train", "eval"])
def test_a_head_that_is_not_there(kind: Any, first: str) -> None:
    strategy = FakeStrategy(network(), [kind("fc")])
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: .*'fc'.*features.1, classifier"):
        strategy.train(experience(0)) if first == "train" else strategy.eval(torch.ones(1, 1, 2, 3))


def test_a_head_that_is_not_linear() -> None:
    with pytest.raises(TypeError, match=r"^Hebb: .*'features' must be an nn.Linear"):
        FakeStrategy(network(), [avalanche.Hebb("features")]).train(experience(0))


def test_two_plugins_on_one_head() -> None:
    both = [avalanche.Hebb("classifier"), avalanche.MbPA("classifier")]
    with pytest.raises(ValueError, match=r"^MbPA: .*attachment already; detach\(\) that one first"):
        FakeStrategy(network(), both).train(experience(0))


def test_an_attachment_of_somebody_else() -> None:
    model = network()
    attachment = clfast.attach(model, "classifier")
    with pytest.raises(ValueError, match=r"^Hebb: .*attachment already"):
        FakeStrategy(model, [avalanche.Hebb("classifier")]).train(experience(0))
    attachment.detach()


@pytest.mark.parametrize("name", ["ARM", "Replay", "iteration"])
@pytest.mark.parametrize("parts", [1, 4])
def test_mini_batches_of_another_arity(name: str, parts: int) -> None:
    plugin = (
        avalanche.Hebb("classifier", write="iteration") if name == "iteration" else EVERY[name]()
    )
    strategy = FakeStrategy(network(), [plugin])
    plugin.before_training_exp(strategy) if name != "Replay" else None
    strategy.mbatch = [torch.ones(2, 1, 2, 3), torch.zeros(2, dtype=torch.int64)] * 2
    strategy.mbatch = strategy.mbatch[:parts]
    hook = {
        "ARM": "after_update",
        "Replay": "before_training_iteration",
        "iteration": "after_training_iteration",
    }[name]
    with pytest.raises(TypeError, match=r"tensors x, y or x, y, task labels.*use a benchmark"):
        getattr(plugin, hook)(strategy)


def test_an_arity_that_changes() -> None:
    strategy = FakeStrategy(network(), [avalanche.Replay(4)])
    strategy.train(experience(0, arity=3))
    before = parameters(strategy.model)
    with pytest.raises(ValueError, match="has 2 parts, but samples of 3 are stored; use"):
        strategy.train(experience(1, arity=2))
    torch.testing.assert_close(parameters(strategy.model), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: avalanche.Replay(0), ValueError, "^Replay: capacity must be at least 1, got 0"),
        (lambda: avalanche.Replay(2.5), TypeError, "^Replay: capacity must be an integer"),
        (lambda: avalanche.Replay(5, batch_size_mem=0), ValueError, "batch_size_mem must be at"),
        (lambda: avalanche.Replay(5, store="epoch"), ValueError, "store must be one of experience"),
        (lambda: avalanche.Replay(5, policy="herding"), ValueError, "policy must be one of"),
        (
            lambda: avalanche.HerdingBuffer(0, "classifier"),
            ValueError,
            "^HerdingBuffer: max_size must be at least 1, got 0",
        ),
        (lambda: avalanche.HerdingBuffer(4, 3), TypeError, "head must be a layer's name, got int"),
        (
            lambda: avalanche.ExemplarBuffer(4, "classifier", "herding"),
            TypeError,
            "selection must be an ExemplarSelection, got str",
        ),
        (lambda: avalanche.Hebb(3), TypeError, "^Hebb: head must be a layer's name, got int"),
        (lambda: avalanche.Hebb("fc", write="epoch"), ValueError, "write must be one of exp"),
        (lambda: avalanche.Hebb("fc", mb_size=0), ValueError, "mb_size must be at least 1, got 0"),
        (
            lambda: avalanche.Hebb("fc", kk=3),
            TypeError,
            "^Hebb: there is no option kk; there are k, eps, beta, .*mixture, write, mb_size$",
        ),
        (lambda: avalanche.MbPA("fc", theta=1.0), TypeError, "^MbPA: there is no option theta"),
        (
            lambda: avalanche.Mixture("fc", base_optimizer=None),
            TypeError,
            "^Mixture: there is no option base_optimizer",
        ),
        (lambda: avalanche.EWC(), TypeError, "^EWC: strength is missing; pass strength="),
        (
            lambda: avalanche.EWC(strength=1.0, gamma=0.5),
            TypeError,
            "^EWC: there is no option gamma; there are strength, targets, generator, mb_size",
        ),
        (lambda: avalanche.ER(replay=5), TypeError, "^ER: memory is missing; pass memory="),
        (lambda: avalanche.ERMIR(memory=ReplayBuffer(9)), TypeError, "^ERMIR: lr is missing"),
        (lambda: avalanche.GEM(per_task=5, memory=1), TypeError, "^GEM: there is no option memory"),
        (lambda: avalanche.GEM(per_task=5, store="x"), ValueError, "^GEM: store must be one of"),
        (lambda: avalanche.LwF(alpha=1.0), TypeError, "^LwF: there is no option alpha; there are"),
        (lambda: avalanche.SI(strength=1.0, mb_size=0), ValueError, "^SI: mb_size must be at"),
        (lambda: avalanche.ARM(snapshot=1), TypeError, "^ARM: there is no option snapshot"),
        (lambda: avalanche.Protect([MASK]), TypeError, "reserved must map names .* got list"),
        (lambda: avalanche.Protect({0: MASK}), TypeError, "reserved must map names"),
        (
            lambda: avalanche.GeneratorStrategy(network()),
            TypeError,
            "learner must be one of DGMw, DGMa, DGR and MeRGAN, got Network",
        ),
    ],
)
def test_arguments(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_replay_in_another_strategy() -> None:
    plugin, other = avalanche.Replay(8), avalanche.Replay(8)
    FakeStrategy(network(), [plugin]).train(experience(0))
    strategy = FakeStrategy(network(), [plugin])
    with pytest.raises(RuntimeError, match=r"^Replay: it is of another .* state_dict\(\) of this"):
        strategy.train(experience(1))
    other.load_state_dict(plugin.state_dict())
    FakeStrategy(network(), [other]).train(experience(1))
    assert other.buffer.counts(4).tolist() == [2, 2, 2, 2]


class Stale:
    """Grows after the optimiser was made, as with eval_every."""

    def before_train_dataset_adaptation(self, strategy: FakeStrategy) -> None:
        strategy.model.classifier = grown(strategy.model.classifier)


@pytest.mark.parametrize("growing", [Growing, Stale])
def test_recalled_images_of_a_head_that_grows(growing: Any) -> None:
    strategy = FakeStrategy(network(2), [growing(), EVERY["ARM"]()])
    if growing is Growing:
        strategy.train(experience(0))
    before = parameters(strategy.model)["features.1.weight"]
    with pytest.raises(RuntimeError, match=r"^ARM: strategy.model has grown, .* for all classes"):
        strategy.train(experience(1))
    assert torch.equal(strategy.model.features[1].weight, before)


def test_values_are_refused_when_the_plugin_is_made() -> None:
    for plugin, message in (
        (avalanche.EWC(strength=-1.0), "strength"),
        (avalanche.ARM(images=0), "images"),
        (avalanche.ER(memory=ReplayBuffer(9), replay=0), "replay must be at least 1"),
        (avalanche.Hebb("classifier", k=0), "k must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            FakeStrategy(network(), [plugin]).train(experience(0))


def test_a_strategy_that_did_not_tell_of_an_experience() -> None:
    strategy = FakeStrategy(network(), [])
    strategy.mbatch = [torch.ones(2, 1, 2, 3), torch.zeros(2, dtype=torch.int64)]
    for plugin, hook in (
        (EVERY["EWC"](), "after_backward"),
        (EVERY["ARM"](), "after_update"),
        (avalanche.Hebb("classifier", write="iteration"), "after_training_iteration"),
    ):
        with pytest.raises(RuntimeError, match=r"no experience has begun; pass it to the strategy"):
            getattr(plugin, hook)(strategy)


@pytest.mark.parametrize(
    ("reserved", "error", "message"),
    [
        ({"fc.weight": MASK}, ValueError, r"'fc.weight', which is no parameter .*classifier.bias"),
        ({"classifier.weight": MASK[:, :4]}, ValueError, r"must have shape \[6, 10\]"),
        ({"classifier.weight": MASK.float()}, TypeError, "must be bool"),
        ({"classifier.weight": torch.zeros(7, 10).bool()}, ValueError, r"must have shape"),
    ],
)
def test_masks(reserved: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FakeStrategy(network(), [avalanche.Protect(reserved)]).train(experience(0))


def test_exemplars() -> None:
    strategy = FakeStrategy(network(), [])
    strategy.train(experience(0))
    policy = avalanche.HerdingBuffer(2, "fc")
    with pytest.raises(ValueError, match=r"no layer 'fc'; there are features, .*classifier"):
        policy.update(strategy)
    policy = avalanche.ExemplarBuffer(3, "classifier", RandomSelection())
    policy.update(strategy)
    stored = policy.exemplars
    strategy.train(experience(1))
    with pytest.raises(ValueError, match="max_size is 3, but there are 4 classes; make it"):
        policy.update(strategy)
    assert policy.exemplars is stored
    with pytest.raises(ValueError, match="max_size is 1, but there are 2 classes"):
        policy.resize(strategy, 1)
    assert policy.max_size == 3
    assert policy.exemplars is stored


def test_an_experience_without_samples() -> None:
    strategy = FakeStrategy(network(), [])
    strategy.train([])
    for act in (
        avalanche.HerdingBuffer(2, "classifier").update,
        avalanche.Replay(2).after_training_exp,
    ):
        with pytest.raises(ValueError, match="the experience has no samples; leave it out"):
            act(strategy)


def test_generators() -> None:
    generator = avalanche.GeneratorStrategy(DGR(size=16, epochs=1)).model
    with pytest.raises(ValueError, match="has learnt no class yet; train it first"):
        generator.generate(3)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        generator.generate(0)
    with pytest.raises(ValueError, match=r"condition must be a tensor \[3\], got \[2\]"):
        generator.generate(3, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="classes holds 7, which was not learnt"):
        generator.generate(1, torch.tensor([7]))


def test_a_network_of_no_kind_that_is_known() -> None:
    class Odd(Network):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.features(x), self.classifier.weight)

    strategy = FakeStrategy(Odd(), [avalanche.Hebb("classifier")])
    with pytest.raises(ValueError, match="does not call 'classifier'"):
        strategy.train(experience(0))
