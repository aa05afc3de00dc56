"""Which images of a task stay when its data go: `ExemplarSelection`, by chance and by herding.

:mod:`.mnemonics` has the selection whose exemplars are trained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import boolean, cpu_generator, integer
from .._modes import evaluating
from ..ops import herding
from . import checks

_AT_ONCE = 256  # images that go through a network together where no gradient is wanted


@dataclass(frozen=True)
class Exemplars:
    """Images that stand for classes.

    Attributes:
        x: [M, ...], floating point as the network takes them, or uint8, of which it takes x / 255.
        y: [M] int64, ascending; the images of a class are in the order in which they were picked,
            so that a smaller budget keeps the first of each.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


class Network(Protocol):
    """Two modules; the logits of x are head(features(x)). The head may be any module."""

    @property
    def features(self) -> nn.Module: ...

    @property
    def head(self) -> nn.Module: ...


class ExemplarSelection(ABC):
    """Makes the exemplars of new classes, and may adjust those of old ones.

    A selection of one's own writes ``_select``, and ``_adjust`` where old exemplars change; both
    get arguments that have been checked. Neither may change the network: its parameters,
    gradients, running statistics and modes. The global random state is as before after a call.
    """

    def select(
        self, network: Network, x: Tensor, y: Tensor, count: int, *, generator: torch.Generator
    ) -> Exemplars:
        """The exemplars of all classes in y.

        Args:
            network: whose features and head judge images.
            x: [N, ...], all images of the new classes, floating point or uint8, see `Exemplars`.
            y: [N] int64, their labels.
            count: exemplars of each class.
            generator: on the CPU; every choice comes from it.

        Raises:
            TypeError, ValueError: bad input, named: labels that do not fit, a class with fewer than
                ``count`` samples. Network and generator are as before.
            RuntimeError: NaN came up; network and generator are as before.
        """
        where = f"{type(self).__name__}.select"
        check_network(network, where)
        _check_pair(x, y, where)
        count = integer(count, "count", where, least=1)
        classes, sizes = y.unique(return_counts=True)
        if int(sizes.min()) < count:
            least = int(sizes.argmin())
            raise ValueError(
                f"{where}: count is {count}, but class {int(classes[least])} has "
                f"{int(sizes[least])} samples in x; pass a count of at most {int(sizes[least])}"
            )
        with _undisturbed(x, cpu_generator(generator, where)):
            return self._select(network, x, y, count, generator)

    def check(self, network: Network, x: Tensor, count: int, old: Tensor | None = None) -> None:
        """Whether `select` and `adjust` will be able to do their work, as far as can be told before
        a network is trained for hours; the default looks at nothing.

        Args:
            network: as it is before.
            x: [N, ...], N at least 1, images of new classes.
            count: exemplars that each class will have, at most.
            old: [M] int64, the labels of the exemplars that will be adjusted.

        Raises:
            TypeError, ValueError: as those.
        """
        del network, x, count, old

    def adjust(
        self, network: Network, exemplars: Exemplars, *, generator: torch.Generator
    ) -> Exemplars:
        """Exemplars of old classes, fitted to the network as it is now; the default keeps them.

        Raises:
            TypeError, ValueError, RuntimeError: as for ``select``; the exemplars are as before too.
        """
        where = f"{type(self).__name__}.adjust"
        if not isinstance(exemplars, Exemplars):
            raise TypeError(f"{where}: exemplars must be Exemplars, got {type(exemplars).__name__}")
        check_network(network, where)
        _check_pair(exemplars.x, exemplars.y, where)
        with _undisturbed(exemplars.x, cpu_generator(generator, where)):
            return self._adjust(network, exemplars, generator)

    @abstractmethod
    def _select(
        self, network: Network, x: Tensor, y: Tensor, count: int, generator: torch.Generator
    ) -> Exemplars:
        """See `select`."""

    def _adjust(
        self, network: Network, exemplars: Exemplars, generator: torch.Generator
    ) -> Exemplars:
        """See `adjust`."""
        del network, generator
        return exemplars


class RandomSelection(ExemplarSelection):
    """So many images of each class, drawn without replacement."""

    def _select(
        self, network: Network, x: Tensor, y: Tensor, count: int, generator: torch.Generator
    ) -> Exemplars:
        del network
        picked = []
        for label in y.unique():
            rows = (y == label).nonzero()[:, 0]
            order = torch.randperm(len(rows), generator=generator, device="cpu")[:count]
            picked.append(rows[order.to(rows.device)])
        rows = torch.cat(picked)
        return Exemplars(x[rows], y[rows])


class Herding(ExemplarSelection):
    """The images whose features' mean follows that of their class (Welling, ICML 2009), picked
    greedily as in Algorithm 4 of iCaRL (Rebuffi et al., CVPR 2017).

    Args:
        normalize: features are divided by their L2 norm before, as iCaRL does; BiC does not.
    """

    def __init__(self, *, normalize: bool = True) -> None:
        self.normalize = boolean(normalize, "normalize", "Herding")

    def _select(
        self, network: Network, x: Tensor, y: Tensor, count: int, generator: torch.Generator
    ) -> Exemplars:
        del generator
        features = features_of(network, x, "Herding.select")
        if self.normalize:
            features = F.normalize(features)
        rows = torch.cat(herding(features, y, count))
        return Exemplars(x[rows], y[rows])


def as_inputs(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Images as a network takes them: uint8 divided by 255, in `dtype` or torch's default."""
    if x.dtype == torch.uint8:
        return x.to(dtype or torch.get_default_dtype()) / 255
    return x if dtype is None else x.to(dtype)


def check_network(network: object, where: str) -> None:
    """TypeError where features or head is no module."""
    for name in ("features", "head"):
        module = getattr(network, name, None)
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"{where}: network must have modules features and head, but its {name} is of "
                f"{type(module).__name__}"
            )


@torch.no_grad()
def features_of(network: Network, x: Tensor, where: str) -> Tensor:
    """[N, d] of images [N, ...], in eval mode; ValueError where they are not finite, or the network
    cannot take them."""
    dtype = next((p.dtype for p in network.features.parameters()), None)
    try:
        with evaluating(network.features):
            parts = [
                network.features(as_inputs(part, dtype)).flatten(1) for part in x.split(_AT_ONCE)
            ]
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # of the machine: memory that is out
            raise
        raise ValueError(
            f"{where}: network cannot take x, images of {list(x.shape[1:])}: {error}"
        ) from error
    features = torch.cat(parts)
    checks.check_finite(features, where)
    return features


def _check_pair(x: object, y: object, where: str) -> None:
    """x [N, ...] are images, and y [N] their labels; N is not 0."""
    checks.check_samples(x, where)
    assert isinstance(x, Tensor)
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise TypeError(f"{where}: x must be floating point or uint8, got {x.dtype}")
    if len(x) == 0:
        raise ValueError(f"{where}: x holds no images")
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError(f"{where}: x holds NaN or Inf")
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{where}: y must be an int64 tensor, got {got}")
    if y.shape != (len(x),) or y.device != x.device:
        raise ValueError(
            f"{where}: y must have shape [{len(x)}] on {x.device} as x has, got {list(y.shape)} on "
            f"{y.device}"
        )
    if int(y.min()) < 0:
        raise ValueError(f"{where}: y holds label {int(y.min())}; labels are at least 0")


@contextmanager
def _undisturbed(x: Tensor, generator: torch.Generator) -> Iterator[None]:
    """The global random state of CPU and of x's device is as before after the block, and that of
    the generator where the block raises."""
    before = generator.get_state()
    devices = [x.device] if x.device.type == "cuda" else []
    try:
        # Exemplars are trained on later: they may not be inference tensors.
        with torch.random.fork_rng(devices), torch.inference_mode(False):
            yield
    except BaseException:
        generator.set_state(before)
        raise
