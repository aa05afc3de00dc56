"""OnlineStream and the data sets behind every stream."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, TensorDataset

from clfast.streams import OnlineStream


class Pairs(Dataset):
    """Map-style items (x [2], int label); counts its reads."""

    def __init__(self, n: int) -> None:
        self.n, self.reads = n, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        self.reads += 1
        return torch.tensor([float(i), -float(i)]), i % 3


def arrays(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(n * 2).reshape(n, 2), torch.arange(n)


@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.none() | st.integers(0, 9))
def test_every_sample_comes_once_with_its_label(n: int, batch_size: int, seed: int | None) -> None:
    x, y = arrays(n)
    stream = OnlineStream((x, y), batch_size, generator=seed)
    batches = list(stream)
    assert len(batches) == len(stream)
    assert [len(labels) for _, labels in batches[:-1]] == [batch_size] * (len(batches) - 1)
    order = torch.cat([labels for _, labels in batches])
    assert torch.equal(order.sort().values, y)
    assert torch.equal(torch.cat([samples for samples, _ in batches]), x[order])
    if seed is None:
        assert torch.equal(order, y)


def test_order_is_fixed_by_the_seed() -> None:
    def labels(generator: torch.Generator | int) -> list[int]:
        return [int(y) for _, y in OnlineStream(arrays(20), 1, generator=generator)]

    assert labels(3) == labels(3) == labels(torch.Generator().manual_seed(3))
    assert labels(3) != labels(4)
    stream = OnlineStream(arrays(20), 7, generator=3)
    assert [y.tolist() for _, y in stream] == [y.tolist() for _, y in stream]


def test_chunks_partition_the_stream_in_order() -> None:
    stream = OnlineStream(arrays(25), 4, generator=1)
    whole = torch.cat([y for _, y in stream])
    chunks = stream.chunks(10)
    assert [len(chunk) for chunk in chunks] == [3, 3, 2]
    assert [[len(y) for _, y in chunk] for chunk in chunks] == [[4, 4, 2], [4, 4, 2], [4, 1]]
    assert torch.equal(torch.cat([y for chunk in chunks for _, y in chunk]), whole)


def test_map_style_items_are_read_once() -> None:
    pairs = Pairs(7)
    batches = list(OnlineStream(pairs, 3, generator=0))
    assert pairs.reads == 7
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert y.dtype == torch.int64
    assert torch.equal(y, x[:, 0].long() % 3)
    assert torch.equal(x[:, 0].sort().values, torch.arange(7.0))


def test_numpy_views_and_tensor_data_sets() -> None:
    x = np.arange(12.0).reshape(6, 2)
    x.flags.writeable = False
    backwards = OnlineStream((x[::-1], np.arange(6, dtype=np.uint8)[::-1]), 6)
    (samples, labels), *_ = backwards
    assert samples[0].tolist() == [10.0, 11.0]
    assert labels.tolist() == [5, 4, 3, 2, 1, 0]
    assert labels.dtype == torch.int64
    (samples, labels), *_ = OnlineStream(TensorDataset(*arrays(4)), 2)
    assert labels.tolist() == [0, 1]
    assert samples.tolist() == [[0, 1], [2, 3]]


def test_batches_are_copies() -> None:
    x, y = arrays(4)
    for samples, labels in OnlineStream((x, y), 4):
        samples.zero_()
        labels.zero_()
    assert x.sum() == 28
    assert y.sum() == 6


def test_streams_pickle_and_copy() -> None:
    stream = OnlineStream(arrays(9), 2, generator=5)
    expected = [y.tolist() for _, y in stream]
    for twin in (pickle.loads(pickle.dumps(stream)), copy.deepcopy(stream)):
        assert [y.tolist() for _, y in twin] == expected


def test_a_data_loader_reads_the_data_sets() -> None:
    for data in (arrays(6), Pairs(6)):
        dataset = OnlineStream(data, 1)._dataset
        assert sum(len(y) for _, y in DataLoader(dataset, batch_size=4)) == 6


X = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((X, torch.zeros(3)), TypeError, "data y must be integers, got torch.float32"),
        ((X, torch.zeros(3, dtype=torch.bool)), TypeError, "data y must be integers"),
        ((X, torch.zeros(2, dtype=torch.int64)), ValueError, r"shape \(3,\), got \(2,\)"),
        ((X, torch.zeros(3, 1, dtype=torch.int64)), ValueError, r"shape \(3,\), got \(3, 1\)"),
        ((X, torch.tensor([0, -1, 1])), ValueError, "data y must not be negative, got -1"),
        ((X, np.array(["a", "b", "c"])), TypeError, "data y must be a numeric array"),
        ((X.to("meta"), torch.zeros(3, dtype=torch.int64)), ValueError, "x is on meta, y on cpu"),
        ((X[:0], torch.zeros(0, dtype=torch.int64)), ValueError, "data x holds no samples"),
        ((X,), ValueError, "must be a pair"),
        ([], ValueError, "data holds no samples"),
        (7, TypeError, "must be a pair"),
    ],
)
def test_bad_data(data: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"OnlineStream: .*{message}"):
        OnlineStream(data, 2)


@pytest.mark.parametrize("items", [[(X, 0.5)], [3], [(X, 0, 1)]])
def test_bad_items(items: list[object]) -> None:
    with pytest.raises(TypeError, match=r"OnlineStream: data: item 0 must be a pair"):
        next(iter(OnlineStream(items, 2)))


def test_an_error_inside_the_data_set_stays_what_it_is() -> None:
    class Broken(Pairs):
        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            raise ValueError("disk on fire")

    with pytest.raises(ValueError, match=r"^disk on fire$"):
        next(iter(OnlineStream(Broken(2), 2)))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="OnlineStream: batch_size must be at least 1, got 0"):
        OnlineStream(arrays(3), 0)
    with pytest.raises(TypeError, match="OnlineStream: batch_size must be an integer, got float"):
        OnlineStream(arrays(3), 1.5)
    with pytest.raises(TypeError, match="OnlineStream: generator must be"):
        OnlineStream(arrays(3), 1, generator="seed")
    with pytest.raises(ValueError, match=r"OnlineStream.chunks: size must be at least 1, got -2"):
        OnlineStream(arrays(3), 1).chunks(-2)


def test_a_dictionary_is_no_data_set() -> None:
    with pytest.raises(TypeError, match=r"OnlineStream: data must be a pair .*, got dict"):
        OnlineStream({"x": torch.ones(2, 3), "y": torch.zeros(2)}, 1)  # type: ignore[arg-type]


def test_orders_are_drawn_on_the_cpu_whatever_the_default_device() -> None:
    data = torch.arange(6.0)[:, None], torch.arange(6) % 2
    wanted = [x.tolist() for x, _ in OnlineStream(data, 4, generator=3)]
    with torch.device("meta"):
        assert [x.tolist() for x, _ in OnlineStream(data, 4, generator=3)] == wanted
