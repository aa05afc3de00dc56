"""What all generative classifiers are told."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from .._arguments import boolean, integer, real
from ..nn.image_size import doublings

Options = TypeVar("Options", bound="ClassifierOptions")


@dataclass(frozen=True)
class ClassifierOptions:
    """How the critic, which classifies, learns. The defaults are DGM's authors' on MNIST."""

    epochs: int = 101
    batch: int = 64
    lr: float = 2e-3
    """Of Adam, for all networks."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Of Adam."""
    size: int = 32
    """Of the images, a power of two from 16 on."""
    critic_width: int = 32
    """Outputs of the critic's first layer."""
    max_classes: int = 10
    """Of all tasks together."""
    check_every: int = 100
    """Steps after which losses are looked at for NaN."""

    def check(self, where: str) -> None:
        """Raises TypeError or ValueError for what cannot be."""
        for name in ("epochs", "batch", "critic_width", "max_classes", "check_every"):
            integer(getattr(self, name), name, where, least=1)
        doublings(self.size, where)
        real(self.lr, "lr", where, least=0, open_ends="(")
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ValueError(f"{where}: betas must be two numbers, got {self.betas!r}")
        for beta in self.betas:
            real(beta, "betas", where, least=0, most=1, open_ends=")")


@dataclass(frozen=True)
class GenerativeOptions(ClassifierOptions):
    """Beside that, how a generator learns. The defaults are DGM's authors' for DGMw on MNIST."""

    noise: int = 128
    """Length of z."""
    width: int = 6
    """g: the hidden layers of the generator have, or begin with, 4 g, 2 g and g outputs, for images
    of twice the size another with 8 g before them."""
    penalty_weight: float = 1.0
    """lambda_GP, of the gradient penalty."""
    recompute_statistics: bool = False
    """When a task ends, form the critic's statistics of batch normalisation anew, over its images
    and as many that the generator has of each past class."""
    classifier_epochs: int = 0
    """When a task ends, teach a network like the critic, that knows nothing, so many epochs of
    images that the generator has of all classes, as many of each as of the new ones; it classifies
    until the next task begins. 0: the critic does, as in the paper."""

    def check(self, where: str) -> None:
        super().check(where)
        for name in ("noise", "width"):
            integer(getattr(self, name), name, where, least=1)
        real(self.penalty_weight, "penalty_weight", where, least=0)
        boolean(self.recompute_statistics, "recompute_statistics", where)
        integer(self.classifier_epochs, "classifier_epochs", where, least=0)


def checked(kind: type[Options], given: dict[str, Any], where: str) -> Options:
    """Options of a kind from keywords.

    Raises TypeError for one that there is not, TypeError or ValueError for what cannot be.
    """
    known = [field.name for field in fields(kind)]
    for option in given:
        if option not in known:
            raise TypeError(f"{where}: there is no option {option}; there are {', '.join(known)}")
    options = kind(**given)
    options.check(where)
    return options
