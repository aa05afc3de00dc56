"""CIFAR-10 and CIFAR-100 from a folder: the pickled batches of their "python version", or npz."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _arguments
from .readers import load_npz

Images = tuple[Tensor, Tensor]
"""uint8 [N, 3, 32, 32] and labels int64 [N]."""


class _Layout(NamedTuple):
    classes: int
    folder: str
    splits: dict[str, tuple[str, ...]]
    labels: str


_CIFAR10 = _Layout(
    10,
    "cifar-10-batches-py",
    {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    "labels",
)
_CIFAR100 = _Layout(
    100, "cifar-100-python", {"train": ("train",), "test": ("test",)}, "fine_labels"
)


def load_cifar10(root: str | os.PathLike[str]) -> tuple[Images, Images]:
    """(train images, labels), (test images, labels) of CIFAR-10 in `root`.

    Images are uint8 [N, 3, 32, 32] in 0..255, labels int64 [N]. `root` holds the folder
    cifar-10-batches-py of the data set's "python version", or is this folder; or it holds
    cifar10_train.npz and cifar10_test.npz with arrays "images" uint8 [N, 32, 32, 3] and "labels"
    [N], as ``np.savez(path, images=d.data, labels=d.targets)`` writes them of torchvision's data
    set. Of pickled files nothing is loaded but arrays, text and containers.

    Raises:
        TypeError: root is no path.
        FileNotFoundError: neither is there; it says what was looked for.
        ValueError: a file that is damaged or holds something else.
    """
    return _load(root, _CIFAR10, "load_cifar10")


def load_cifar100(root: str | os.PathLike[str]) -> tuple[Images, Images]:
    """The same of CIFAR-100, with its 100 fine labels: cifar-100-python, or cifar100_train.npz and
    cifar100_test.npz.

    Raises as `load_cifar10`.
    """
    return _load(root, _CIFAR100, "load_cifar100")


def _load(root: str | os.PathLike[str], layout: _Layout, where: str) -> tuple[Images, Images]:
    base = _arguments.path(root, where)
    for folder in (base / layout.folder, base):
        if all(os.path.isfile(folder / name) for files in layout.splits.values() for name in files):
            train, test = (
                _joined([_of_pickle(folder / name, layout, where) for name in files])
                for files in layout.splits.values()
            )
            return train, test
    archives = [base / f"cifar{layout.classes}_{split}.npz" for split in layout.splits]
    if not all(map(os.path.isfile, archives)):
        raise FileNotFoundError(
            f"{where}: neither {layout.folder} with its pickled batches nor "
            f"{' and '.join(path.name for path in archives)} in {base}"
        )
    train, test = (_of_npz(path, layout, where) for path in archives)
    return train, test


def _joined(parts: list[Images]) -> Images:
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def _of_npz(path: Path, layout: _Layout, where: str) -> Images:
    arrays = load_npz(path, "images", "labels")
    images = arrays["images"]
    if images.dtype != torch.uint8 or images.shape[1:] != (32, 32, 3):
        raise ValueError(
            f"{where}: {path}: images must be uint8 [N, 32, 32, 3], got {images.dtype} "
            f"{list(images.shape)}"
        )
    return images.permute(0, 3, 1, 2).contiguous(), _labels(arrays["labels"], images, path, layout)


def _of_pickle(path: Path, layout: _Layout, where: str) -> Images:
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
    except OSError as error:
        raise OSError(f"{where}: {path}: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{where}: {path} cannot be read: {error}") from error
    # Python 2 wrote bytes where Python 3 writes text.
    named = {
        key.decode(errors="replace") if isinstance(key, bytes) else key: value
        for key, value in (content.items() if isinstance(content, dict) else ())
    }
    if missing := {"data", layout.labels} - named.keys():
        raise ValueError(f"{where}: {path} holds no {' and no '.join(sorted(missing))}")
    data = named["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        raise ValueError(f"{where}: {path}: data must be uint8 [N, 3072]")
    images = torch.from_numpy(data.copy()).view(-1, 3, 32, 32)
    try:
        labels = torch.tensor(named[layout.labels])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: {path}: labels must be integers: {error}") from error
    return images, _labels(labels, images, path, layout)


def _labels(labels: Tensor, images: Tensor, path: Path, layout: _Layout) -> Tensor:
    where, classes = f"load_cifar{layout.classes}", layout.classes
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if not whole or labels.shape != images.shape[:1] or not len(labels):
        raise ValueError(
            f"{where}: {path}: labels must be integers, one an image, got {labels.dtype} "
            f"{list(labels.shape)} for {len(images)} images"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"{where}: {path}: labels must be in [0, {classes})")
    return labels.long()


class _ArraysOnly(pickle.Unpickler):
    """Loads numpy's arrays, and calls nothing else that a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        plain = np.zeros(0)
        if name == "_reconstruct" and module.endswith("core.multiarray"):
            return plain.__reduce__()[0]
        if name == "_frombuffer" and module.endswith("core.numeric"):
            return plain.__reduce_ex__(5)[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return str.encode
        raise pickle.UnpicklingError(f"it names {module}.{name}")
