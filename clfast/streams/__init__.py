"""Streams of tasks and batches, readers of standard file formats, continual-learning metrics."""

from __future__ import annotations

from .augmentation import CropAndFlip
from .cifar import load_cifar10, load_cifar100
from .metrics import AccuracyMatrix
from .online import ArrayDataset, LabelledDataset, OnlineStream
from .permuted import PermutedStream
from .readers import load_mnist, load_npz, read_idx
from .splits import SplitStream, Task, TaskStream

__all__ = [
    "AccuracyMatrix",
    "ArrayDataset",
    "CropAndFlip",
    "LabelledDataset",
    "OnlineStream",
    "PermutedStream",
    "SplitStream",
    "Task",
    "TaskStream",
    "load_cifar10",
    "load_cifar100",
    "load_mnist",
    "load_npz",
    "read_idx",
]
