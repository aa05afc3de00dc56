"""CIFAR-10 and CIFAR-100 from pickled batches and npz files."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clfast.streams import load_cifar10, load_cifar100

RNG = np.random.default_rng(0)
TRAIN10 = [f"data_batch_{i}" for i in range(1, 6)]


def _images(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def _write(path: Path, images: np.ndarray, protocol: int = 2, **labels: Any) -> None:
    """As the data sets' authors did: pixels by channel, keys as bytes."""
    flat = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    content = {b"data": flat, b"filenames": [b"a.png"] * len(images)}
    content |= {name.encode(): value for name, value in labels.items()}
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_cifar10_of_pickled_batches(tmp_path: Path, inside: bool, protocol: int) -> None:
    folder = tmp_path / "cifar-10-batches-py" if inside else tmp_path
    images, labels = _images(12), [*range(10), 3, 4]
    for i, name in enumerate(TRAIN10):
        rows = slice(2 * i, 2 * i + 2)
        _write(folder / name, images[rows], protocol, labels=labels[rows])
    _write(folder / "test_batch", images[10:], protocol, labels=labels[10:])
    (x, y), (test_x, test_y) = load_cifar10(tmp_path)
    assert x.dtype == torch.uint8
    np.testing.assert_array_equal(x.numpy(), images[:10].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(test_x.numpy(), images[10:].transpose(0, 3, 1, 2))
    assert y.tolist() == labels[:10]
    assert test_y.tolist() == [3, 4]
    x.zero_()


def test_cifar100_has_its_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    for split in ("train", "test"):
        _write(folder / split, _images(3), fine_labels=[5, 99, 0], coarse_labels=[1, 2, 3])
    train, test = load_cifar100(tmp_path)
    assert train[1].tolist() == test[1].tolist() == [5, 99, 0]


@pytest.mark.parametrize(("load", "classes"), [(load_cifar10, 10), (load_cifar100, 100)])
def test_npz(load: Callable[[Any], Any], classes: int, tmp_path: Path) -> None:
    images = _images(4)
    for split in ("train", "test"):
        np.savez(tmp_path / f"cifar{classes}_{split}.npz", images=images, labels=[0, 1, 2, 9])
    (x, y), _ = load(tmp_path)
    np.testing.assert_array_equal(x.numpy(), images.transpose(0, 3, 1, 2))
    assert y.dtype == torch.int64
    assert y.tolist() == [0, 1, 2, 9]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": _images(2).astype("f4"), "labels": [0, 1]}, "images must be uint8"),
        ({"images": _images(2)[:, :8], "labels": [0, 1]}, "images must be uint8"),
        ({"images": _images(2), "labels": [0, 100]}, r"labels must be in \[0, 100\)"),
        ({"images": _images(2), "labels": [0, -1]}, r"labels must be in \[0, 100\)"),
        ({"images": _images(2), "labels": [0, 1, 2]}, "labels must be integers, one an image"),
        ({"images": _images(2), "labels": [0.0, 1.0]}, "labels must be integers"),
        ({"images": _images(0), "labels": np.zeros(0, int)}, "labels must be integers, one an"),
    ],
)
def test_wrong_npz_files(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        np.savez(tmp_path / f"cifar100_{split}.npz", **arrays)
    with pytest.raises(ValueError, match=f"load_cifar100: .*{message}"):
        load_cifar100(tmp_path)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo evil",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "holds no data and no fine_labels"),
        (pickle.dumps({"data": np.zeros((1, 3072), "u1")}), "holds no fine_labels"),
        (pickle.dumps({"data": np.zeros((1, 9), "u1"), "fine_labels": [0]}), "data must be uint8"),
        (pickle.dumps({"data": [0], "fine_labels": [0]}), "data must be uint8"),
        (pickle.dumps({"data": _Evil()}), r"cannot be read: it names \w+\.system"),
        (pickle.dumps({"data": np.zeros((1, 3072), "u1"), "fine_labels": ["a"]}), "labels must be"),
        (pickle.dumps({"data": np.zeros((1, 3072), "u1"), "fine_labels": None}), "labels must be"),
        (
            pickle.dumps({"data": np.zeros((1, 3072), "u1"), "fine_labels": [True]}),
            "labels must be",
        ),
        (pickle.dumps({b"\xff": 1}), "holds no data"),
        (b"", "cannot be read"),
        (pickle.dumps({"data": np.zeros((9, 3072))})[:-100], "cannot be read"),
    ],
)
def test_wrong_pickles(content: bytes, message: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).write_bytes(content)
    with pytest.raises(ValueError, match=f"load_cifar100: .*{message}"):
        load_cifar100(tmp_path)


@pytest.mark.parametrize("load", [load_cifar10, load_cifar100])
def test_nothing_there(load: Callable[[Any], Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{load.__name__}: neither .* nor cifar.*_train"):
        load(tmp_path)
    with pytest.raises(TypeError, match=f"{load.__name__}: path must be"):
        load(None)
