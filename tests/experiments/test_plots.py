"""Plots: PNG files of the right pixels, no global state, exact errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

matplotlib_image = pytest.importorskip("matplotlib.image")

from clfast.experiments import plots  # noqa: E402

Draw = Callable[[Path], Path]
MATRIX = np.where(np.tri(3, dtype=bool), 0.5, np.nan)

DRAWINGS: dict[str, Draw] = {
    "curves": lambda path: plots.learning_curves(
        {"one": [0.1, 0.5, 0.7], "seeds": np.array([[0.2, 0.3, 0.4], [0.3, 0.5, 0.6]])}, path
    ),
    "many steps": lambda path: plots.learning_curves(
        {"a": np.linspace(0, 1, 500)}, path, x=np.arange(500) * 100, title="t"
    ),
    "matrix": lambda path: plots.accuracy_matrix(MATRIX, path),
    "large matrix": lambda path: plots.accuracy_matrix(np.eye(20), path),
    "bars": lambda path: plots.grouped_bars(
        ["new", "old"], {"a": [0.1, 0.2], "b": [0.3, 0.4]}, path, errors={"a": [0.01, 0.02]}
    ),
    "grey": lambda path: plots.image_grid(torch.rand(12, 5, 5, requires_grad=True), path),
    "colour": lambda path: plots.image_grid(
        np.zeros((3, 3, 4, 4), "u1"), path, columns=2, titles=["a", "b", "c"], title="t"
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_png_is_written_in_place(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    path = DRAWINGS[name](tmp_path / "plot.png")
    assert path == tmp_path / "plot.png"
    assert os.listdir(tmp_path) == ["plot.png"]
    pixels = matplotlib_image.imread(path)
    assert min(pixels.shape[:2]) > 100
    assert pixels[..., :3].std() > 0.01
    torch.manual_seed(0)
    again = DRAWINGS[name](tmp_path / "again.png")
    assert again.read_bytes() == path.read_bytes()


def test_the_images_are_in_the_grid(tmp_path: Path) -> None:
    red_green = np.zeros((2, 3, 4, 4), "u1")
    red_green[0, 0], red_green[1, 1] = 255, 255
    pixels = matplotlib_image.imread(plots.image_grid(red_green, tmp_path / "a.png"))[..., :3]
    middle = pixels.shape[0] // 2
    left, right = pixels[middle, pixels.shape[1] // 4], pixels[middle, -pixels.shape[1] // 4]
    assert left.tolist() == [1, 0, 0]
    assert right.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: plots.learning_curves({}, p), "learning_curves: curves is empty"),
        (
            lambda p: plots.learning_curves({"a": [1, 2], "b": [1]}, p),
            "learning_curves: b has 1 steps, the first curve 2",
        ),
        (lambda p: plots.learning_curves({"a": [1, 2]}, p, x=[1]), "learning_curves: x has 1"),
        (lambda p: plots.learning_curves({"a": [np.nan]}, p), r"learning_curves: curves\['a'\]"),
        (lambda p: plots.learning_curves({"a": []}, p), r"learning_curves: curves\['a'\]"),
        (lambda p: plots.learning_curves({"a": [[1], [1, 2]]}, p), r"curves\['a'\] must be num"),
        (lambda p: plots.accuracy_matrix(np.zeros((2, 3)), p), r"accuracy_matrix: .*\(2, 3\)"),
        (lambda p: plots.accuracy_matrix([[97.0]], p), "accuracy_matrix: .*fractions"),
        (lambda p: plots.grouped_bars([], {}, p), "grouped_bars: groups and series"),
        (lambda p: plots.grouped_bars(["a"], {"s": [1, 2]}, p), "'s' holds 2 numbers for 1 "),
        (
            lambda p: plots.grouped_bars(["a"], {"s": [1]}, p, errors={"t": [1]}),
            r"errors names \['t'\]",
        ),
        (lambda p: plots.image_grid(np.zeros((2, 2, 4, 4)), p), "image_grid: images must be"),
        (lambda p: plots.image_grid(np.zeros((0, 4, 4)), p), "image_grid: images must be"),
        (lambda p: plots.image_grid(np.zeros((1, 4, 4)), p, columns=0), "image_grid: columns"),
        (lambda p: plots.image_grid(np.zeros((1, 4, 4)), p, titles=[]), "image_grid: titles"),
        (
            lambda p: plots.accuracy_matrix(MATRIX, p.with_suffix(".svg")),
            r"path must end in \.png",
        ),
    ],
)
def test_bad_input_writes_nothing(tmp_path: Path, call: Draw, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "plot.png")
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_pyplot_stays_out(tmp_path: Path) -> None:
    code = (
        "import sys; from clfast.experiments import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"plots.accuracy_matrix([[1.0]], {str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        plots.accuracy_matrix(MATRIX, tmp_path / "plot.png")
