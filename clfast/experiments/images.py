"""Small images that need no download: scikit-learn's digits, and MNIST from a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..streams import load_mnist

Samples = tuple[Tensor, Tensor]
"""Images [N, 1, H, W] in [0, 1] and labels [N] int64 in [0, 10)."""

NUM_CLASSES = 10

# Of digits, the parts to pre-train on and to tune on; the rest is to report.
_DIGITS_POOL, _DIGITS_VALIDATION = 0.25, 0.3
_MNIST_VALIDATION = 10_000


@dataclass(frozen=True)
class Images:
    """Three sets of images that share none."""

    pool: Samples
    """To pre-train on."""
    validation: Samples
    """To tune on."""
    test: Samples
    """To report."""


def load_images(name: str, root: str | os.PathLike[str] | None = None) -> Images:
    """The images called `name`, always cut in the same way.

    * "digits": 1,797 images of 8 x 8 that come with scikit-learn, shuffled; 449 to pre-train, 539
      to tune, 809 to report.
    * "mnist": 28 x 28, from the folder `root`. The 10,000 test images are to report, the last
      10,000 training images to tune, the others to pre-train.

    Raises:
        ModuleNotFoundError: digits, without scikit-learn.
        ValueError: another name; mnist without root; files that are not MNIST's.
        FileNotFoundError: no MNIST in root.
    """
    if name == "digits":
        return _digits()
    if name != "mnist":
        raise ValueError(f"load_images: name must be digits or mnist, got {name!r}")
    if root is None:
        raise ValueError("load_images: mnist needs root, the folder with its four files")
    (x, y), (test_x, test_y) = load_mnist(root)
    x, test_x = (images[:, None].float() / 255 for images in (x, test_x))
    cut = len(y) - _MNIST_VALIDATION
    return Images((x[:cut], y[:cut]), (x[cut:], y[cut:]), (test_x, test_y))


def of_classes(
    samples: Samples, classes: Sequence[int], per_class: int, generator: torch.Generator
) -> Samples:
    """At most `per_class` random samples of each of `classes`, shuffled."""
    x, y = samples
    order = torch.randperm(len(y), generator=generator)
    picks = [order[y[order] == label][:per_class] for label in classes]
    chosen = torch.cat(picks)
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    return x[chosen], y[chosen]


def _digits() -> Images:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "digits come with scikit-learn: pip install scikit-learn"
        ) from error
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    pool, validation = int(_DIGITS_POOL * len(y)), int(_DIGITS_VALIDATION * len(y))
    parts = order.split([pool, validation, len(y) - pool - validation])
    return Images(*((x[part], y[part]) for part in parts))
