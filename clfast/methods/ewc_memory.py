"""`EWCM`: elastic weight consolidation of the generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from .._arguments import integer, real
from .._modes import evaluating
from ..ops.consolidation import quadratic_penalty
from .conditional_gan import ConditionalGan, GanOptions, Past
from .images import Samples
from .task_run import Run

_CHUNK = 25  # images whose gradients are formed at once


@dataclass(frozen=True)
class EwcOptions(GanOptions):
    """See `GanOptions`."""

    strength: float = 1000.0
    """lambda of the penalty."""
    fisher_samples: int = 500
    """Images of each class by which its Fisher information is estimated."""

    def check(self, where: str) -> None:
        super().check(where)
        real(self.strength, "strength", where, least=0)
        integer(self.fisher_samples, "fisher_samples", where, least=1)


class EWCM(ConditionalGan):
    """Elastic weight consolidation in the generator (Seff et al. 2017): EWC-M of the DGM paper.

    A conditional GAN learns the images of the new task alone, and its generator's loss has beside
    the adversarial one

        lambda / 2  sum_t sum_j F_tj (theta_j - theta*_tj)^2

    over past tasks t, theta*_t being the generator's parameters when task t ended. By the sums over
    t of F_t and F_t theta*_t this is, up to a constant, one penalty around their quotient. The
    critic, which classifies, learns past classes from generated images, of each as much as of the
    new ones.

    **The Fisher information** F_t is the diagonal, E (d l / d theta_j)^2, of gradients of single
    images. EWC takes for l a log-likelihood, which a GAN has not. Seff et al. take the
    discriminator's word for it, log D(G(z, c)). The critic of a Wasserstein GAN gives a score
    instead, which is no probability and has an arbitrary offset, so that here

        l(z, c) = score(G(z, c)) + log P(c | G(z, c)),

    of the critic as it is when the task ends: minus the generator's own loss on one image. z is
    standard normal, and c of the task's classes, ``fisher_samples`` of each.

    What else is a choice of ours: F_t is formed in eval mode, so that images of a batch do not mix;
    each task keeps its running statistics of batch normalisation, with which its images are made
    later, since a penalty on parameters does not protect them (scales and shifts belong to classes
    in any case); images of the past are generated once, when a task begins, as many of each class
    as the new ones have on average, as `DGMw` does; both networks and their losses are those of
    `MeRGAN`; ``strength`` and ``fisher_samples`` have defaults that nobody has tuned.

    Args:
        channels, seed, device, dtype: as of `DGMw`.
        options: the fields of :class:`EwcOptions`, by keyword.

    Raises:
        TypeError, ValueError: options out of range.
    """

    options: EwcOptions
    _OPTIONS = EwcOptions

    @torch.inference_mode(False)
    def __init__(self, channels: int = 1, **arguments: Any) -> None:
        super().__init__(channels, **arguments)
        zeros = [torch.zeros_like(p) for p in self._learnt()]
        self._remember(zeros, [zero.clone() for zero in zeros])
        self._statistics: list[dict[str, Tensor]] = []  # of each task

    def _remember(self, importances: list[Tensor], weighted: list[Tensor]) -> None:
        """sum_t F_t and sum_t F_t theta*_t, and what the penalty is around."""
        self._importances, self._weighted = importances, weighted
        # 0 / 0 where nothing is known: any number does.
        self._anchors = [
            (of / by).nan_to_num() for of, by in zip(weighted, importances, strict=True)
        ]

    def _past(self, run: Run, count: int) -> Past | None:
        past, each = run.replay.shape[:2]
        if not past:
            return None
        options: dict[str, Any] = {"generator": self._random, "device": self.device}
        y = torch.randint(past, (count,), **options)
        images = run.replay[y, torch.randint(each, (count,), **options)]
        return Past(images, y, y, float(past))

    def _generator_keeps(self, past: Past | None) -> Tensor | float:
        del past
        penalty = quadratic_penalty(self._learnt(), self._anchors, self._importances)
        return self.options.strength / 2 * penalty

    def _finish(self, samples: Samples) -> dict[str, Any]:
        fisher = self._fisher(len(samples.classes))
        ends = [p.detach() for p in self._learnt()]
        importances = [of + f for of, f in zip(self._importances, fisher, strict=True)]
        weighted = [of + f * p for of, f, p in zip(self._weighted, fisher, ends, strict=True)]
        self._remember(importances, weighted)
        self._statistics.append({n: b.clone() for n, b in self.generator.named_buffers()})
        found = super()._finish(samples)
        of_tasks = [value for of_task in self._statistics for value in of_task.values()]
        found["bytes"]["importances"] = sum(each.nbytes for each in importances + weighted)
        found["bytes"]["statistics"] = sum(each.nbytes for each in of_tasks)
        return found

    @torch.no_grad()
    def _fisher(self, classes: int) -> list[Tensor]:
        """F_t of the last so many classes, by parameter."""
        network, critic = self.generator, self._the_critic("fit_task")
        parameters = {n: p.detach() for n, p in network.named_parameters()}

        def log_likelihood(own: dict[str, Tensor], z: Tensor, y: Tensor) -> Tensor:
            scores, logits = critic(functional_call(network, own, (z[None], y[None])))
            found: Tensor = scores[0] - F.cross_entropy(logits, y[None])
            return found

        each = vmap(grad(log_likelihood), in_dims=(None, 0, 0))
        known = len(self.classes)
        y = torch.arange(known - classes, known, device=self.device)
        y = y.repeat_interleave(self.options.fisher_samples)
        z = self._noise(y, self._random)
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        with evaluating(network, critic):
            for chunk in zip(z.split(_CHUNK), y.split(_CHUNK), strict=True):
                for name, gradients in each(parameters, *chunk).items():
                    total[name] += gradients.square().sum(0)
        return [square / len(y) for square in total.values()]

    def _sampler(self, task: int) -> Callable[[Tensor, Tensor], Tensor]:
        statistics = self._statistics[task]
        return lambda z, positions: functional_call(self.generator, statistics, (z, positions))

    def _own_state(self) -> dict[str, Any]:
        return {
            "importances": self._importances,
            "weighted": self._weighted,
            "statistics": self._statistics,
        }

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        importances, weighted = (
            [
                torch.zeros_like(p).copy_(given)
                for p, given in zip(self._learnt(), state[name], strict=True)
            ]
            for name in ("importances", "weighted")
        )
        self._remember(importances, weighted)
        self._statistics = [
            {name: value.to(self.device) for name, value in of_task.items()}
            for of_task in state["statistics"]
        ]
