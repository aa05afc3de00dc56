"""Readers of standard data files in a folder that the user names. Nothing is ever downloaded."""

from __future__ import annotations

import gzip
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _arguments

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"
_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_idx(path: str | os.PathLike[str]) -> Tensor:
    """The array in an idx file, plain or gzipped, in the shape and dtype that its header says.

    The format of the MNIST files: two zero bytes, a dtype byte, the number of dimensions, each
    dimension as big-endian 32-bit integer, then the values, big-endian. Raises TypeError for what
    is no path, FileNotFoundError or another OSError where no file can be read, and ValueError for
    one that is not idx, is truncated or has bytes left over.
    """
    path = _arguments.file(path, "read_idx")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OSError(f"read_idx: {path}: {error}") from error
    if content.startswith(_GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"read_idx: {path} is a damaged gzip file: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES:
        raise ValueError(f"read_idx: {path} is not an idx file: it begins {content[:4].hex(' ')}")
    dtype, offset = np.dtype(_IDX_DTYPES[content[2]]), 4 + 4 * content[3]
    if len(content) < offset:
        raise ValueError(f"read_idx: {path} is truncated inside its header")
    shape = [int(size) for size in np.frombuffer(content[4:offset], ">u4")]
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - offset != expected:
        raise ValueError(
            f"read_idx: {path} holds {len(content) - offset} bytes of values, "
            f"its header says {expected} (shape {shape}, dtype {dtype.newbyteorder('=')})"
        )
    values = np.frombuffer(content, dtype, offset=offset)
    try:
        return _native_tensor(values.reshape(shape))
    except ValueError as error:  # more dimensions, or longer ones, than numpy has
        raise ValueError(f"read_idx: {path}: shape {shape} cannot be: {error}") from error


def load_mnist(root: str | os.PathLike[str]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(train images, labels), (test images, labels) of MNIST or a set of its format in `root`.

    Images are uint8 [N, 28, 28] in 0..255, labels int64 [N]. The files carry their usual names
    (train-images-idx3-ubyte, ...), plain or with .gz. Raises TypeError for what is no path,
    FileNotFoundError naming what is missing, and ValueError for a file that `read_idx` refuses or
    that holds something else.
    """
    root = _arguments.path(root, "load_mnist")
    paths, missing = [], []
    for name in _MNIST_FILES:
        found = [path for path in (root / name, root / f"{name}.gz") if os.path.isfile(path)]
        paths += found[:1]
        if not found:
            missing.append(name)
    if missing:
        raise FileNotFoundError(
            f"load_mnist: no {', '.join(missing)} in {root} (plain or with .gz added)"
        )
    return _images_and_labels(*paths[:2]), _images_and_labels(*paths[2:])


def _images_and_labels(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    images, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, ndim in ((images_path, images, 3), (labels_path, labels, 1)):
        if array.dtype != torch.uint8 or array.ndim != ndim:
            raise ValueError(
                f"load_mnist: {path} must hold {ndim}-D bytes, got {array.ndim}-D {array.dtype}"
            )
    if len(images) != len(labels):
        raise ValueError(
            f"load_mnist: {len(images)} images in {images_path}, {len(labels)} labels in "
            f"{labels_path}"
        )
    return images, labels.long()


def load_npz(path: str | os.PathLike[str], *names: str) -> dict[str, Tensor]:
    """The arrays `names` of a .npz file, or all of them, in their shapes and dtypes.

    Raises TypeError for what is no path, FileNotFoundError or another OSError where no file can be
    read, and ValueError for a file that is not .npz or is damaged, for a name that is not in it,
    and for an array that is not numeric (Python objects are never unpickled).
    """
    path = _arguments.file(path, "load_npz")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"load_npz: names must be strings, got {type(name).__name__}")
    try:
        opened = path.open("rb")
    except OSError as error:
        raise OSError(f"load_npz: {path}: {error}") from error
    with opened as file:
        # np.load would also take a bare .npy, and speaks of pickles when it meets anything else.
        if not zipfile.is_zipfile(file):
            raise ValueError(f"load_npz: {path} is not a .npz file, or is truncated")
        file.seek(0)
        arrays: dict[str, Tensor] = {}
        part = "its directory"
        # A damaged archive can fail in any way: BadZipFile, zlib.error, EOFError, MemoryError, ...
        try:
            with np.load(file, allow_pickle=False) as archive:
                stored = archive.files
                for name in names or stored:
                    if name in stored:
                        part = f"array {name!r}"
                        arrays[name] = _native_tensor(np.asarray(archive[name]))
        except Exception as error:
            raise ValueError(f"load_npz: {path}: {part} cannot be read: {error}") from error
    if unknown := set(names) - set(stored):
        raise ValueError(f"load_npz: {path} holds {stored}, and no {sorted(unknown)}")
    return arrays


def _native_tensor(array: NDArray[Any]) -> Tensor:
    # torch wants the machine's byte order and memory it may write to.
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
