"""`ExemplarMemory`: a few samples of every class, within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import _arguments
from . import checks


class ExemplarMemory:
    """The exemplars of class-incremental learners: the same number of each class, in the order in
    which they were picked, so that the first ones stay when the share of a class shrinks (iCaRL,
    Rebuffi et al. 2017, Algorithms 4 and 5).

    Unlike a `ReplayBuffer` it does not choose what it keeps: whoever has picked or trained
    exemplars puts them here, all of a class at once.

    Args:
        per_class: exemplars of each class, at least 0; or
        total: of all classes together: each has ceil(total / classes).
        dtype: of what is stored. None: that of the first exemplars; a floating-point dtype; or
            ``torch.uint8``, 255 levels of images in [0, 1], rounded and clipped to them; values
            beyond [-1, 2] are no such images, and refused.

    Raises:
        TypeError, ValueError: an argument that cannot be; not exactly one of per_class and total.
    """

    def __init__(
        self,
        per_class: int | None = None,
        *,
        total: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = "ExemplarMemory"
        if (per_class is None) == (total is None):
            raise ValueError(f"{name}: give exactly one of per_class and total")
        if per_class is not None:
            per_class = _arguments.integer(per_class, "per_class", name, least=0)
        if total is not None:
            total = _arguments.integer(total, "total", name, least=1)
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"{name}: dtype must be a torch.dtype, got {type(dtype).__name__}")
        if dtype is not None and dtype != torch.uint8 and not dtype.is_floating_point:
            raise ValueError(f"{name}: dtype must be floating point or torch.uint8, got {dtype}")
        self.per_class = per_class
        self.total = total
        self.dtype = dtype
        self._x: Tensor | None = None
        self._y = torch.empty(0, dtype=torch.int64, device="cpu")

    def __len__(self) -> int:
        """Exemplars of all classes."""
        return len(self._y)

    @property
    def x(self) -> Tensor:
        """[M, ...] in the dtype that is stored; to be read only. RuntimeError while it is empty."""
        if self._x is None:
            raise RuntimeError("ExemplarMemory.x: nothing is stored")
        return self._x

    @property
    def y(self) -> Tensor:
        """[M] int64, ascending; exemplars of a class in the order in which they were picked."""
        return self._y

    @property
    def classes(self) -> list[int]:
        """That have exemplars, ascending."""
        found: list[int] = self._y.unique().tolist()
        return found

    @property
    def nbytes(self) -> int:
        """Of samples and labels."""
        return self._y.nbytes + (0 if self._x is None else self._x.nbytes)

    def share(self, classes: int) -> int:
        """The exemplars of each of so many classes."""
        classes = _arguments.integer(classes, "classes", "ExemplarMemory.share", least=1)
        if self.total is not None:
            return -(-self.total // classes)
        assert self.per_class is not None
        return self.per_class

    @torch.no_grad()
    def put(self, x: Tensor, y: Tensor) -> None:
        """Store exemplars of classes, in place of those that these classes had.

        Args:
            x: [n, ...], floating point, or uint8, which stands for x / 255; on any device: the
                first ones decide where all are stored.
            y: [n] int64, at least 0; exemplars of a class stay in their order.

        Raises:
            TypeError, ValueError: other types and shapes; samples of another shape than those
                stored; to be stored as uint8, values that are not finite. The memory is as before.
        """
        where = "ExemplarMemory.put"
        checks.check_rows({"x": x, "y": y}, {}, where)
        if self._x is not None:  # whose dtype others are brought to
            checks.check_rows({"x": x}, {"x": self._x[:0].to(x.dtype)}, where)
        checks.check_labels(y, "y", len(x), where)
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise TypeError(f"{where}: x must be floating point or uint8, got {x.dtype}")
        if not len(x):
            return
        device = x.device if self._x is None else self._x.device
        x, y = x.to(device), y.to(device)
        with torch.inference_mode(False):
            x = _stored(x.detach(), self.dtype or (x if self._x is None else self._x).dtype, where)
            y = y.clone()
            if self._x is not None:
                others = ~torch.isin(self._y, y)
                x, y = torch.cat([self._x[others], x]), torch.cat([self._y[others], y])
            order = y.argsort(stable=True)
            self._x, self._y = x[order], y[order]

    def keep(self, count: int) -> None:
        """The first `count` exemplars of each class stay, the others go.

        Raises:
            TypeError, ValueError: a count that is no integer of at least 0.
        """
        count = _arguments.integer(count, "count", "ExemplarMemory.keep", least=0)
        if self._x is None:
            return
        first = torch.searchsorted(self._y, self._y)  # where the class of each begins
        kept = torch.arange(len(self._y), device=self._y.device) - first < count
        with torch.inference_mode(False):
            self._x, self._y = self._x[kept], self._y[kept]

    def clear(self) -> None:
        """Nothing is stored."""
        self._x, self._y = None, torch.empty(0, dtype=torch.int64, device="cpu")

    def state_dict(self) -> dict[str, Any]:
        """What is stored, not copied: it is never written to."""
        return {"x": self._x, "y": self._y}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, bit for bit.

        Raises:
            TypeError, ValueError: a part is missing, or does not fit; nothing was loaded.
        """
        where = "ExemplarMemory.load_state_dict"
        if not isinstance(state_dict, Mapping) or state_dict.keys() != {"x", "y"}:
            raise ValueError(f"{where}: state_dict must have the parts x and y")
        x, y = state_dict["x"], state_dict["y"]
        if x is None:
            self.clear()
            return
        checks.check_rows({"x": x, "y": y}, {}, where)
        checks.check_labels(y, "y", len(x), where)
        if bool((y.diff() < 0).any()):
            raise ValueError(f"{where}: y must be ascending")
        if self.dtype not in (None, x.dtype):
            raise ValueError(
                f"{where}: x must be {self.dtype} as this memory has it, got {x.dtype}"
            )
        self._x, self._y = x, y


def _stored(x: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    """A copy of the samples in another dtype; uint8 stands for 255 levels in [0, 1]."""
    if x.dtype == dtype:
        return x.clone()
    if x.dtype == torch.uint8:
        return x.to(dtype) / 255
    if dtype != torch.uint8:
        return x.to(dtype)
    if not bool(x.isfinite().all()):
        raise ValueError(f"{where}: x holds NaN or Inf")
    low, high = (float(bound) for bound in x.aminmax())
    if low < -1 or high > 2:
        raise ValueError(
            f"{where}: x must be images in [0, 1] to be stored as uint8, got values from {low:g} "
            f"to {high:g}; scale them, or store floating-point numbers"
        )
    return (255 * x).round().clamp(0, 255).to(torch.uint8)
