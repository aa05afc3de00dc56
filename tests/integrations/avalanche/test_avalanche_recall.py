"""ARM in a strategy: after the strategy's step, what `methods.ARM.observe` does after its own."""

from __future__ import annotations

import pytest
import torch
from fake_strategy import FakeStrategy, batches, experience, network, same

from clfast import methods
from clfast.integrations import avalanche

OPTIONS = {"images": 6, "steps": 2, "lr": 0.3}


@pytest.mark.parametrize("arity", [2, 3])
def test_it_is_the_method(arity: int) -> None:
    plugin = avalanche.ARM(**OPTIONS, generator=torch.Generator().manual_seed(3))
    strategy = FakeStrategy(network(), [plugin], momentum=0.5)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    learner = methods.ARM(model, optimizer, **OPTIONS, generator=torch.Generator().manual_seed(3))
    for task in range(3):
        dataset = experience(task, arity=arity)
        strategy.train(dataset)
        for x, y, *_ in batches(dataset, 8):
            learner.observe(x, y)
        learner.on_task_end()
        same(strategy.model, model)
    assert plugin.learner is not None
    assert plugin.learner.seen == set(range(6))
    naive = FakeStrategy(network(), [], momentum=0.5)
    for task in range(3):
        naive.train(experience(task, arity=arity))
    assert not torch.equal(naive.model.classifier.weight, strategy.model.classifier.weight)


def test_an_optimizer_that_is_made_anew() -> None:
    class Renewing:
        def before_train_dataset_adaptation(self, strategy: FakeStrategy) -> None:
            strategy.optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.05)

    plugin = avalanche.ARM(**OPTIONS)
    strategy = FakeStrategy(network(), [Renewing(), plugin])
    for task in range(2):
        strategy.train(experience(task))
        assert plugin.learner is not None
        assert plugin.learner.optimizer is strategy.optimizer
