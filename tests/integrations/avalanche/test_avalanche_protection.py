"""Reserved parts of a strategy's model stay, whatever its optimiser does."""

from __future__ import annotations

import torch
from fake_strategy import FakeStrategy, Growing, experience, network, parameters

from clfast.integrations import avalanche


def test_reserved_entries_stay_bit_for_bit() -> None:
    mask = torch.rand(6, 10, generator=torch.Generator().manual_seed(0)) < 0.5
    bias = torch.zeros(10, dtype=torch.bool)
    plugin = avalanche.Protect({"classifier.weight": mask, "features.1.bias": bias})
    strategy = FakeStrategy(network(), [plugin], momentum=0.9)
    first = parameters(strategy.model)
    strategy.train(experience(0))
    second = parameters(strategy.model)
    for after in (second,):
        kept = after["classifier.weight"] == first["classifier.weight"]
        assert bool(kept[mask].all())
        assert not bool(kept[~mask].all())
    assert not torch.equal(second["features.1.bias"], first["features.1.bias"])
    bias.fill_(True)  # live
    strategy.train(experience(1))
    third = parameters(strategy.model)
    assert torch.equal(third["features.1.bias"], second["features.1.bias"])
    assert torch.equal(third["classifier.weight"][mask], first["classifier.weight"][mask])
    plugin.remove()
    plugin.remove()
    strategy.plugins = []
    strategy.train(experience(2))
    fourth = parameters(strategy.model)
    assert not torch.equal(fourth["features.1.bias"], second["features.1.bias"])


def test_masks_that_come_later_and_heads_that_grow() -> None:
    reserved: dict[str, torch.Tensor] = {}
    plugin = avalanche.Protect(reserved)

    strategy = FakeStrategy(network(2), [Growing(), plugin])
    strategy.train(experience(0))
    reserved["classifier.weight"] = torch.ones(4, 10, dtype=torch.bool)
    before = parameters(strategy.model)["classifier.weight"]
    strategy.train(experience(1))
    after = parameters(strategy.model)["classifier.weight"]
    assert after.shape == (6, 10)
    assert torch.equal(after[:4], before)
    fresh = FakeStrategy(network(2), [])
    assert fresh.model.classifier.weight.shape == (2, 10)
    assert not torch.equal(after[4:], strategy.model.classifier.weight[4:].clone().zero_())
    plugin.remove()


def test_the_mask_of_a_head_that_has_grown_is_live() -> None:
    mask = torch.zeros(4, 10, dtype=torch.bool)
    strategy = FakeStrategy(
        network(2), [Growing(), avalanche.Protect({"classifier.weight": mask})], momentum=0.9
    )
    strategy.train(experience(0))

    class Reserving:
        """While the experience is under way."""

        def before_training_epoch(self, strategy: FakeStrategy) -> None:
            mask[1:] = True
            self.weight = parameters(strategy.model)["classifier.weight"]

    reserving = Reserving()
    strategy.plugins = [*strategy.plugins, reserving]
    strategy.train(experience(1))
    moved = (strategy.model.classifier.weight != reserving.weight).any(1)
    assert moved.tolist() == [True, False, False, False, True, True]
