"""PermutedStream: one pixel permutation a task."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from clfast.streams import OnlineStream, PermutedStream

X = torch.randn(12, 1, 3, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 4
TRAIN, TEST = (X, Y), (X[:5] + 1, Y[:5])


def test_one_permutation_for_all_samples_of_a_task() -> None:
    stream = PermutedStream(TRAIN, TEST, num_tasks=4)
    seen = []
    for index, task in enumerate(stream):
        permutation = task.train.permutation
        assert torch.equal(permutation, task.test.permutation)
        assert torch.equal(permutation.sort().values, torch.arange(12))
        for part, (x, y) in ((task.train, TRAIN), (task.test, TEST)):
            assert torch.equal(part.x.flatten(1), x.flatten(1)[:, permutation])
            assert part.x.shape == x.shape
            assert torch.equal(part.y, y)
        assert (task.index, task.classes) == (index, (0, 1, 2, 3))
        seen.append(tuple(permutation.tolist()))
    assert len(set(seen)) == 4


def test_items_batches_and_loader_agree_with_x() -> None:
    train = PermutedStream(TRAIN, TEST, num_tasks=2)[1].train
    assert torch.equal(torch.stack([x for x, _ in train]), train.x)
    assert torch.equal(torch.cat([x for x, _ in DataLoader(train, batch_size=5)]), train.x)
    assert torch.equal(torch.cat([x for x, _ in OnlineStream(train, 5)]), train.x)
    part = train.subset(torch.tensor([3, 1]), torch.tensor([9, 8]))
    assert torch.equal(part.x, train.x[[3, 1]])
    assert part.y.tolist() == [9, 8]


def test_map_style_data() -> None:
    items = [(x, int(y)) for x, y in zip(X, Y, strict=True)]
    lazy = PermutedStream(items, items[:5], num_tasks=3, generator=4)
    arrays = PermutedStream(TRAIN, TEST, num_tasks=3, generator=4)
    for task, expected in zip(lazy, arrays, strict=True):
        assert torch.equal(torch.stack([x for x, _ in task.train]), expected.train.x)
        assert torch.equal(task.train.y, expected.train.y)
        x, y = next(iter(OnlineStream(task.train, 12)))
        assert torch.equal(x, expected.train.x)
        assert torch.equal(y, Y)


def test_identity_first() -> None:
    stream = PermutedStream(TRAIN, TEST, num_tasks=2, identity_first=True)
    assert torch.equal(stream[0].train.x, X)
    assert not torch.equal(stream[1].train.x, X)
    assert not torch.equal(PermutedStream(TRAIN, TEST, num_tasks=1)[0].train.x, X)


def test_seeds() -> None:
    def permutations(num_tasks: int, generator: torch.Generator | int) -> list[list[int]]:
        stream = PermutedStream(TRAIN, TEST, num_tasks=num_tasks, generator=generator)
        return [task.train.permutation.tolist() for task in stream]

    assert permutations(3, 5) == permutations(3, torch.Generator().manual_seed(5))
    assert permutations(3, 5) == permutations(6, 5)[:3]
    assert permutations(3, 5) != permutations(3, 6)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="PermutedStream: num_tasks must be at least 1, got 0"):
        PermutedStream(TRAIN, TEST, num_tasks=0)
    with pytest.raises(ValueError, match=r"train samples have shape \(1, 3, 4\), test samples"):
        PermutedStream(TRAIN, (X[:5].flatten(1), Y[:5]), num_tasks=2)
    with pytest.raises(TypeError, match="PermutedStream: samples must be tensors, got str"):
        PermutedStream([("cat", 0)], TEST, num_tasks=2)
    with pytest.raises(TypeError, match="PermutedStream: generator must be"):
        PermutedStream(TRAIN, TEST, num_tasks=2, generator=None)
    with pytest.raises(ValueError, match="PermutedStream: test x holds no samples"):
        PermutedStream(TRAIN, (X[:0], Y[:0]), num_tasks=2)
