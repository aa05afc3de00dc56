"""Readers of idx, MNIST and npz files: right values, and exact errors for wrong files."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clfast.streams import load_mnist, load_npz, read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array: np.ndarray) -> bytes:
    code = CODES[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(7,), (2, 3), (4, 1, 2), (0, 5)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_values(tmp_path: Path, dtype: str, shape: tuple[int, ...], pack: object) -> None:
    array = (np.arange(np.prod(shape)) * 17 - 20).astype("i1").astype(dtype).reshape(shape)
    (tmp_path / "a").write_bytes(pack(idx(array)))
    read = read_idx(tmp_path / "a")
    assert read.dtype == torch.from_numpy(array).dtype
    np.testing.assert_array_equal(read.numpy(), array)
    read.fill_(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an idx file"),
        (b"\0\0\x08", "is not an idx file"),
        (b"PK\x03\x04 something", "is not an idx file: it begins 50 4b 03 04"),
        (b"\0\0\x07\x01\0\0\0\0", "is not an idx file"),
        (b"\0\0\x08\x02\0\0\0\x01", "is truncated inside its header"),
        (idx(np.zeros((2, 3), "u1"))[:-1], r"holds 5 bytes .* says 6 \(shape \[2, 3\]"),
        (idx(np.zeros((2, 3), "f4")) + b"x", "holds 25 bytes .* says 24"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "holds 0 bytes"),
        (gzip.compress(idx(np.zeros(99, "u1")), mtime=0)[:-9], "is a damaged gzip file"),
        (b"\x1f\x8bgarbage", "is a damaged gzip file"),
    ],
)
def test_wrong_idx_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=f"read_idx: .*{message}"):
        read_idx(tmp_path / "a")


@pytest.mark.parametrize("read", [read_idx, load_npz, load_mnist])
def test_what_is_no_path(read: Callable[[Any], Any]) -> None:
    with pytest.raises(
        TypeError, match=rf"{read.__name__}: path must be a str or a Path, got None"
    ):
        read(None)


@pytest.mark.parametrize("read", [read_idx, load_npz])
def test_paths_of_no_file(read: Callable[[Any], Any], tmp_path: Path) -> None:
    for path, error, message in (
        (tmp_path, IsADirectoryError, "this is a folder"),
        (tmp_path / "nowhere", FileNotFoundError, "nowhere: there is no such file"),
        (tmp_path / ("n" * 300), OSError, "File name too long"),
    ):
        with pytest.raises(error, match=rf"{read.__name__}: .*{message}"):
            read(path)


@pytest.mark.parametrize(
    "shape", [(1,) * 65, (2**32 - 1, 2**32 - 1, 2**32 - 1, 0)], ids=["dimensions", "sizes"]
)
def test_shapes_that_numpy_lacks(shape: tuple[int, ...], tmp_path: Path) -> None:
    header = bytes([0, 0, 8, len(shape)]) + b"".join(struct.pack(">I", size) for size in shape)
    (tmp_path / "a").write_bytes(header + bytes(int(np.prod(shape, dtype=object))))
    with pytest.raises(ValueError, match=r"read_idx: .*a: shape .* cannot be"):
        read_idx(tmp_path / "a")


@pytest.mark.parametrize("read", [read_idx, load_npz])
def test_files_that_cannot_be_read(
    read: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"x")

    def fail(*args: object, **options: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match=rf"{read.__name__}: .*a: not yours"):
        read(tmp_path / "a")


def test_names_of_arrays_are_strings(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    with pytest.raises(TypeError, match=r"load_npz: names must be strings, got list"):
        load_npz(tmp_path / "a.npz", ["x"])  # type: ignore[arg-type]


def test_mnist_in_a_folder_of_a_name_too_long() -> None:
    with pytest.raises(FileNotFoundError, match="load_mnist: no train-images"):
        load_mnist("n" * 300)


def test_missing_idx_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere")


IMAGES = np.arange(3 * 28 * 28).astype("u1").reshape(3, 28, 28)
LABELS = np.array([7, 0, 9], "u1")
MNIST = {
    "train-images-idx3-ubyte": IMAGES,
    "train-labels-idx1-ubyte": LABELS,
    "t10k-images-idx3-ubyte": IMAGES[:2],
    "t10k-labels-idx1-ubyte": LABELS[:2],
}


def write_mnist(folder: Path, changes: dict[str, np.ndarray] | None = None) -> None:
    for name, array in (MNIST | (changes or {})).items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))


def test_mnist(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    # One of the files unpacked: either form will do.
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    (x, y), (test_x, test_y) = load_mnist(str(tmp_path))
    assert x.dtype == torch.uint8
    np.testing.assert_array_equal(x.numpy(), IMAGES)
    assert y.tolist() == [7, 0, 9]
    assert y.dtype == torch.int64
    assert test_x.shape == (2, 28, 28)
    assert test_y.tolist() == [7, 0]


def test_mnist_names_what_is_missing(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    missing = "no train-labels-idx1-ubyte, t10k-images-idx3-ubyte in"
    with pytest.raises(FileNotFoundError, match=f"load_mnist: {missing}"):
        load_mnist(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train-labels-idx1-ubyte": LABELS[:2]}, "3 images in .* 2 labels in"),
        ({"train-images-idx3-ubyte": LABELS}, "must hold 3-D bytes, got 1-D torch.uint8"),
        ({"t10k-labels-idx1-ubyte": np.zeros(2, "f4")}, "must hold 1-D bytes, got 1-D torch.flo"),
    ],
)
def test_mnist_files_that_do_not_fit(
    tmp_path: Path, changes: dict[str, np.ndarray], message: str
) -> None:
    write_mnist(tmp_path, changes)
    with pytest.raises(ValueError, match=f"load_mnist: .*{message}"):
        load_mnist(tmp_path)


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def test_npz_values(tmp_path: Path) -> None:
    arrays = {"x": np.arange(6.0).reshape(2, 3), "y": np.array([1, 2], ">i4"), "z": np.bool_(True)}
    (tmp_path / "a.npz").write_bytes(npz(**arrays))
    read = load_npz(tmp_path / "a.npz")
    assert list(read) == ["x", "y", "z"]
    assert read["y"].dtype == torch.int32
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name].numpy(), array)


def test_npz_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz(x=np.arange(3), names=np.array(["a", "b"])))
    assert load_npz(tmp_path / "a.npz", "x")["x"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"holds \['x', 'names'\], and no \['q'\]"):
        load_npz(tmp_path / "a.npz", "x", "q")
    with pytest.raises(ValueError, match=r"load_npz: .*array 'names' cannot be read"):
        load_npz(tmp_path / "a.npz")


def test_npz_never_unpickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"array 'x' cannot be read: .*allow_pickle"):
        load_npz(tmp_path / "a.npz")


def test_wrong_npz_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_npz(tmp_path / "nowhere")
    np.save(tmp_path / "bare.npy", np.zeros(3))
    torch.save({"x": torch.zeros(3)}, tmp_path / "state.pt")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("bare.npy", "state.pt", "empty"):
        with pytest.raises(ValueError, match=f"load_npz: .*{name}"):
            load_npz(tmp_path / name)


WHOLE = npz(x=np.arange(50.0), y=np.arange(5))


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_damaged_npz_is_a_value_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(WHOLE[:position])
    with pytest.raises(ValueError, match="load_npz: "):
        load_npz(path)
    damaged = bytearray(WHOLE)
    damaged[position] ^= flip
    path.write_bytes(damaged)
    try:
        outcome = str(load_npz(path)["x"].tolist())
    except ValueError as error:
        outcome = str(error)
    assert outcome.startswith("load_npz: ") or outcome == str(list(map(float, range(50))))
