"""Plots as PNG files. They need matplotlib, and no display.

Figures are made by matplotlib's object interface, so nothing here touches pyplot's global state.
Each function writes its file atomically and returns its path; the same input gives the same bytes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._files import atomic_write

# Okabe and Ito's palette and a grey: told apart under every common colour blindness.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def learning_curves(
    curves: Mapping[str, ArrayLike],
    path: str | os.PathLike[str],
    *,
    x: ArrayLike | None = None,
    title: str = "",
    xlabel: str = "step",
    ylabel: str = "accuracy",
) -> Path:
    """One line a curve, over `x` [S] (1, 2, ... by default).

    A curve is [S], or [seeds, S]: then the line is the mean and the band the sample standard
    deviation (n - 1) around it. Raises ValueError for curves of another shape or length.
    """
    arrays = {
        name: _finite(curve, f"learning_curves: curves[{name!r}]", (1, 2))
        for name, curve in curves.items()
    }
    if not arrays:
        raise ValueError("learning_curves: curves is empty")
    steps = next(iter(arrays.values())).shape[-1]
    positions = np.arange(1, steps + 1) if x is None else _finite(x, "learning_curves: x", (1,))
    for name, array in [("x", positions), *arrays.items()]:
        if array.shape[-1] != steps:
            raise ValueError(
                f"learning_curves: {name} has {array.shape[-1]} steps, the first curve {steps}"
            )
    figure, axes = _axes(title, (7.2, 4.0))
    marker = "o" if steps <= 30 else None
    for number, (name, array) in enumerate(arrays.items()):
        colour, seeds = _COLOURS[number % len(_COLOURS)], np.atleast_2d(array)
        mean = seeds.mean(axis=0)
        axes.plot(positions, mean, label=name, color=colour, marker=marker, markersize=3)
        if len(seeds) > 1:
            std = seeds.std(axis=0, ddof=1)
            axes.fill_between(positions, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if (positions == np.round(positions)).all():
        axes.locator_params(axis="x", integer=True)
    _finish(figure, axes)
    return _save(figure, path)


def accuracy_matrix(
    values: ArrayLike, path: str | os.PathLike[str], *, title: str = "Accuracy"
) -> Path:
    """A map of R [T, T], fractions in [0, 1], such as `AccuracyMatrix.values`; NaN stays blank.

    Drawn in percent, with numbers in the cells of up to 12 tasks: more would not be readable.
    Raises ValueError for another shape and for values outside [0, 1].
    """
    percent = 100 * np.asarray(values, dtype=float)
    if percent.ndim != 2 or percent.shape[0] != percent.shape[1] or percent.size == 0:
        raise ValueError(f"accuracy_matrix: values must be [T, T], got shape {percent.shape}")
    if ((percent < 0) | (percent > 100)).any():
        raise ValueError("accuracy_matrix: values must be fractions in [0, 1]")
    tasks = len(percent)
    figure, axes = _axes(title, (5.6, 4.8))
    image = axes.imshow(percent, vmin=0, vmax=100, cmap="viridis")
    axes.set(xlabel="accuracy on task", ylabel="after training on task")
    if tasks <= 12:
        axes.set(xticks=range(tasks), yticks=range(tasks))
        for (row, column), value in np.ndenumerate(percent):
            if not math.isnan(value):
                ink = "black" if value > 60 else "white"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink)
    bar = figure.colorbar(image, ax=axes, label="accuracy (%)")
    bar.outline.set_visible(False)
    return _save(figure, path)


def grouped_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
    *,
    errors: Mapping[str, Sequence[float]] | None = None,
    title: str = "",
    ylabel: str = "accuracy",
) -> Path:
    """A group of bars for each of `groups`, with one bar for each of `series` in it.

    `errors` gives the half lengths of error bars in the shape of `series`. Raises ValueError when
    a series does not hold one number a group.
    """
    if not groups or not series:
        raise ValueError("grouped_bars: groups and series must not be empty")
    heights = {
        name: _finite(values, f"grouped_bars: series[{name!r}]", (1,))
        for name, values in series.items()
    }
    whiskers = {
        name: _finite(values, f"grouped_bars: errors[{name!r}]", (1,))
        for name, values in (errors or {}).items()
    }
    if unknown := set(whiskers) - set(heights):
        raise ValueError(f"grouped_bars: errors names {sorted(unknown)}, which series does not")
    for name, values in [*heights.items(), *whiskers.items()]:
        if len(values) != len(groups):
            raise ValueError(
                f"grouped_bars: {name!r} holds {len(values)} numbers for {len(groups)} groups"
            )
    figure, axes = _axes(title, (7.2, 4.0))
    centres, width = np.arange(len(groups)), 0.8 / len(heights)
    for number, (name, values) in enumerate(heights.items()):
        axes.bar(
            centres + (number - (len(heights) - 1) / 2) * width,
            values,
            width * 0.92,
            yerr=whiskers.get(name),
            label=name,
            color=_COLOURS[number % len(_COLOURS)],
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "0.25"},
        )
    axes.set_xticks(centres, groups)
    axes.set(ylabel=ylabel)
    _finish(figure, axes)
    axes.grid(axis="x", visible=False)
    return _save(figure, path)


def mask_trajectories(
    layers: Mapping[str, tuple[ArrayLike, ArrayLike]],
    path: str | os.PathLike[str],
    *,
    title: str = "",
) -> Path:
    """How masks change: a panel a layer, with values [epochs, n] as thin lines and, bold, what the
    layer occupies [epochs]; all in [0, 1].

    Raises ValueError for another shape, and for lengths that differ.
    """
    if not layers:
        raise ValueError("mask_trajectories: layers is empty")
    where = "mask_trajectories: layers"
    figure = _figure((3.2 * len(layers) + 0.6, 3.2))
    figure.suptitle(title)
    for number, (name, (values, occupation)) in enumerate(layers.items()):
        lines = _finite(values, f"{where}[{name!r}]", (2,))
        bold = _finite(occupation, f"{where}[{name!r}]", (1,))
        if len(lines) != len(bold):
            raise ValueError(
                f"{where}[{name!r}] has values of {len(lines)} epochs, occupation of {len(bold)}"
            )
        axes = figure.add_subplot(1, len(layers), number + 1)
        axes.set_title(name)
        epochs = np.arange(1, len(bold) + 1)
        marker = "o" if len(bold) <= 30 else None
        axes.plot(epochs, lines, color=_COLOURS[5], lw=0.6, alpha=0.6)
        axes.plot(epochs, bold, color=_COLOURS[0], lw=2.5, marker=marker, markersize=3)
        axes.set(xlabel="epoch", ylabel="" if number else "mask value", ylim=(-0.03, 1.03))
        axes.locator_params(axis="x", integer=True)
        axes.grid(color="0.9")
    return _save(figure, path)


def point_map(
    groups: Mapping[str, tuple[ArrayLike | Tensor, ArrayLike | Tensor]],
    path: str | os.PathLike[str],
    *,
    title: str = "",
) -> Path:
    """Points in a plane: of each group many [N, 2], small and pale, and those that stand for them
    [M, 2], large and dark. Raises ValueError for another shape."""
    if not groups:
        raise ValueError("point_map: groups is empty")
    figure, axes = _axes(title, (5.6, 4.6))
    for number, (name, both) in enumerate(groups.items()):
        many, few = (_finite(points, f"point_map: groups[{name!r}]", (2,)) for points in both)
        if many.shape[1] != 2 or few.shape[1] != 2:
            raise ValueError(
                f"point_map: groups[{name!r}] must be [N, 2] and [M, 2], got {many.shape} and "
                f"{few.shape}"
            )
        colour = _COLOURS[number % len(_COLOURS)]
        axes.scatter(*many.T, s=8, color=colour, alpha=0.25, lw=0)
        axes.scatter(*few.T, s=28, color=colour, edgecolor="black", lw=0.6, label=name, zorder=3)
    _finish(figure, axes)
    return _save(figure, path)


def image_grid(
    images: ArrayLike | Tensor,
    path: str | os.PathLike[str],
    *,
    columns: int = 10,
    titles: Sequence[str] | None = None,
    title: str = "",
) -> Path:
    """Images in rows of `columns`: [N, H, W] in grey, or [N, C, H, W] with 1 or 3 channels.

    uint8 counts as 0..255, anything else as 0..1 and is clipped to that. `titles` [N] go above
    them. Raises ValueError for another shape, no image, or another number of titles.
    """
    pixels = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.size == 0:
        raise ValueError(
            f"image_grid: images must be [N, H, W] or [N, 1 or 3, H, W], got {pixels.shape}"
        )
    if columns < 1:
        raise ValueError(f"image_grid: columns must be at least 1, got {columns}")
    if titles is not None and len(titles) != len(pixels):
        raise ValueError(f"image_grid: titles has {len(titles)} entries, images {len(pixels)}")
    if pixels.dtype == np.uint8:
        pixels = pixels / 255
    pixels = np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:])).transpose(0, 2, 3, 1)
    columns = min(columns, len(pixels))
    rows = math.ceil(len(pixels) / columns)
    figure = _figure((0.9 * columns, (1.05 if titles else 0.9) * rows + (0.4 if title else 0)))
    figure.suptitle(title)
    for index, image in enumerate(pixels):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(np.clip(image, 0, 1), interpolation="nearest")
        axes.set_axis_off()
        if titles:
            axes.set_title(titles[index], fontsize=8, pad=2)
    return _save(figure, path)


def _finite(values: ArrayLike, name: str, ndims: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from None
    if array.ndim not in ndims or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite numbers with {' or '.join(map(str, ndims))} "
            f"dimensions, got shape {array.shape}"
        )
    return array


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plots need matplotlib: pip install matplotlib") from error
    return Figure(figsize=size, dpi=150, layout="constrained")


def _axes(title: str, size: tuple[float, float]) -> tuple[Any, Any]:
    figure = _figure(size)
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    return figure, axes


def _finish(figure: Any, axes: Any) -> None:
    axes.spines[["left", "bottom"]].set_visible(True)
    axes.set_axisbelow(True)
    axes.grid(color="0.9")
    # Beside the axes, where it hides no data.
    figure.legend(loc="outside right upper", frameon=False)


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"plots: path must end in .png, got {path}")
    with atomic_write(path) as file:
        # matplotlib's version in the file would make equal plots differ.
        figure.savefig(file, format="png", metadata={"Software": None})
    return path
