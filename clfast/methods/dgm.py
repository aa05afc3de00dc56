"""`DGMw` and `DGMa`: a generator that keeps what past tasks need of it behind masks, and grows.

Ostapenko et al., "Learning to Remember: A Synaptic Plasticity Driven Framework for Continual
Learning" (Dynamic Generative Memory). Where the authors' code differs from the paper, the code is
the default.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import boolean, integer, one_of, real
from ..memory import ReplayBuffer
from ..nn.critic import Critic, resnet_critic
from ..nn.dcgan_generator import DCGANGenerator
from ..nn.growth import Masks
from ..nn.masked_generator import Blocked, MaskedGenerator
from ..nn.resnet_generator import ResNetGenerator
from ..ops.masks import anneal_scale, compensate_embedding_gradients_
from .adversarial import add_critic_gradients
from .adversarial_classifier import AdversarialClassifier
from .generative_options import GenerativeOptions
from .images import Samples
from .task_run import Run

_UNBOUNDED = 2**40  # samples of a buffer that no budget bounds
_SHOWN = 32  # mask values of a layer whose way is kept
_GENERATORS: dict[str, type[MaskedGenerator]] = {"dcgan": DCGANGenerator, "resnet": ResNetGenerator}


@dataclass(frozen=True)
class DgmOptions(GenerativeOptions):
    """The defaults are the authors' for DGMw on MNIST; of ``noise`` the first ``max_classes``
    entries say the class."""

    network: Literal["dcgan", "resnet"] = "dcgan"
    """Of the paper's digits, or of its natural images: residual blocks, whose layers all begin with
    g outputs, and a ResNet-18 as critic, with 32 `critic_width` features."""
    last: Literal["task", "class"] = "task"
    """What a last layer of the generator is for; one a class in the authors' code for ImageNet."""
    max_scale: float = 1e4
    """s_max, of Eq. 3."""
    schedule: Literal["dgmw", "dgma", "dgmw_imnet", "hat"] = "dgmw"
    """Of s, see :func:`clfast.ops.masks.anneal_scale`."""
    normalise: Literal["code", "paper"] = "code"
    """Of s: by n, or by n - 1."""
    sparsity_weight: float = 0.08
    """lambda_RU of the regulariser, Eq. 6, which is multiplied by alpha besides."""
    alpha: Literal["outputs", "weights"] = "outputs"
    """The generator's size now, divided by that at first: in outputs of the hidden layers, or in
    their weights, as the authors' code has it for ImageNet."""
    adversarial_weight: float = 1.0
    """Of the generator's part of the Wasserstein loss."""
    classify_fakes: bool = False
    """Add to the generator's loss the cross-entropy of its images: the paper's L_c, which the
    authors use on ImageNet alone."""
    compensation: Literal["analytic", "reference", "none"] = "analytic"
    """Of embeddings' gradients: s_max sigmoid'(e) dL/dm; the authors' quotient of cosh, which stays
    0 where a mask in float32 has become 1; none."""
    embedding_clamp: float | None = None
    """The bound of |e| after each step; 6 in HAT, none in the authors' code."""
    clip_norm: float = 1e4
    """Of the generator's gradient."""
    new_critic: bool = True
    """Each task starts with a critic that has learnt nothing; else with the one before."""
    replay_mask: Literal["soft", "binary"] = "soft"
    """Past tasks' masks: sigmoid(s_max e) of what is reserved, or 1."""
    real_share: float | None = None
    """r in [0, 1]: the share of stored samples in those of a past class that are replayed; where
    its task had fewer samples than the new one, they repeat. None: none; with a budget: as many as
    that allows."""
    real_budget: int | None = None
    """K, samples that are stored of all past classes together; None: r of those of each class.
    They do not repeat, so that their share in the replay may be less than r."""

    def check(self, where: str) -> None:
        """Raises TypeError or ValueError for what cannot be."""
        super().check(where)
        if self.max_classes > self.noise:
            raise ValueError(
                f"{where}: max_classes must be at most noise, {self.noise}, got "
                f"{self.max_classes}; raise noise"
            )
        real(self.clip_norm, "clip_norm", where, least=0, open_ends="(")
        bounds = torch.finfo(torch.float32)  # in which masks are made of it
        real(self.max_scale, "max_scale", where, least=bounds.tiny, most=bounds.max)
        for name in ("sparsity_weight", "adversarial_weight"):
            real(getattr(self, name), name, where, least=0)
        one_of(self.network, tuple(_GENERATORS), "network", where)
        one_of(self.last, ("task", "class"), "last", where)
        one_of(self.alpha, ("outputs", "weights"), "alpha", where)
        one_of(self.schedule, ("dgmw", "dgma", "dgmw_imnet", "hat"), "schedule", where)
        one_of(self.normalise, ("code", "paper"), "normalise", where)
        one_of(self.compensation, ("analytic", "reference", "none"), "compensation", where)
        one_of(self.replay_mask, ("soft", "binary"), "replay_mask", where)
        if self.embedding_clamp is not None:
            real(self.embedding_clamp, "embedding_clamp", where, least=0, open_ends="(")
        if self.real_share is not None:
            real(self.real_share, "real_share", where, least=0, most=1)
        if self.real_budget is not None:
            integer(self.real_budget, "real_budget", where, least=1)
        for name in ("classify_fakes", "new_critic"):
            boolean(getattr(self, name), name, where)


@dataclass(frozen=True)
class UnitOptions(DgmOptions):
    """The defaults are the authors' for DGMa on MNIST."""

    width: int = 20
    max_scale: float = 1e5
    schedule: Literal["dgmw", "dgma", "dgmw_imnet", "hat"] = "dgma"
    sparsity_weight: float = 0.01
    blocked: Blocked = "outputs"
    """Weights that a reserved unit reserves, see :class:`clfast.nn.MaskedGenerator`."""

    def check(self, where: str) -> None:
        super().check(where)
        one_of(self.blocked, ("outputs", "both_ends"), "blocked", where)


class DGM(AdversarialClassifier):
    """What `DGMw` and `DGMa` share; they say which masks there are."""

    generator: MaskedGenerator
    options: DgmOptions

    _MASKS: ClassVar[Masks]
    _LOSSES = ("classifier", "critic", "generator", "sparsity")

    @torch.inference_mode(False)
    def __init__(self, channels: int = 1, **arguments: Any) -> None:
        super().__init__(channels, **arguments)
        o = self.options
        self._keeps_critic = not o.new_critic
        self.generator = self._generator([_GENERATORS[o.network].first_widths(o.width, o.size)])
        self.real = self._buffer()
        self._mask_ways: list[dict[str, Any]] = []  # of the task that is being learnt, by layer

    def _generator(self, widths: list[tuple[int, ...]]) -> MaskedGenerator:
        o = self.options
        with torch.device("cpu"):
            made = _GENERATORS[o.network](
                self.channels,
                o.noise,
                widths,
                self._MASKS,
                blocked=o.blocked if isinstance(o, UnitOptions) else "outputs",
                replay_mask=o.replay_mask,
                last=o.last,
                generator=self._initial,
            )
        return made.to(self.device, self.dtype)

    def _critic(self, classes: int) -> Critic:
        o = self.options
        if o.network == "dcgan":
            return super()._critic(classes)
        # Not in channels_last: the weight gradient of torch's 1 x 1 convolutions of stride 2 then
        # corrupts the heap on the CPU (torch 2.13, 2 channels to 4).
        widths = {"width": o.critic_width, "hidden": 32 * o.critic_width}
        with torch.device("cpu"):
            made = resnet_critic(self.channels, classes, **widths, generator=self._initial)
        return made.to(self.device, self.dtype)

    def _buffer(self) -> ReplayBuffer | None:
        o = self.options
        if o.real_budget is None and not o.real_share:
            return None
        capacity = _UNBOUNDED if o.real_budget is None else o.real_budget
        return ReplayBuffer(capacity, policy="class_balanced", device=self.device)

    # Learning

    def _begin(self, samples: Samples) -> Run:
        self._mask_ways = [{"occupation": [], "values": []} for _ in self.generator.weights]
        with torch.device("cpu"):
            self.generator.add_classes(len(samples.classes), self._initial)
        return super()._begin(samples)

    def _remembered(self, count: int) -> Tensor:
        images = super()._remembered(count)
        if self.real is not None and len(self.real):
            stored, share = self.real.rows, self.options.real_share
            wanted = count if share is None else round(share * count)
            for label, of_class in zip(self.classes, images, strict=True):
                rows = (stored["y"] == label).nonzero()[:wanted, 0]
                if len(rows) and self.options.real_budget is None:
                    # A task of more samples than that of the class: they begin again.
                    rows = rows[torch.arange(wanted, device=self.device) % len(rows)]
                of_class[: len(rows)] = stored["x"][rows]
        return images

    def _learnt(self) -> list[nn.Parameter]:
        return list(self.generator.learnt())

    def _kept(self) -> dict[str, Any]:
        network = self.generator
        reserved = dict(zip(network.weights, network.blocked, strict=True))
        return {"reserved": reserved, "clip_norm": self.options.clip_norm}

    def _scales(self, epoch: int, batch: int, batches: int) -> tuple[float, float]:
        """s of the batch, and its largest value in the epoch."""
        o = self.options
        options: dict[str, Any] = {"schedule": o.schedule, "normalise": o.normalise}
        scale = anneal_scale(epoch, o.epochs, batch, batches, o.max_scale, **options)
        if o.schedule == "dgma":
            return scale, scale
        # Within an epoch s begins at one over its largest value.
        return scale, 1 / anneal_scale(epoch, o.epochs, 0, 2, o.max_scale, **options)

    def _learn_batch(self, run: Run, x: Tensor, y: Tensor, batch: int, batches: int) -> Tensor:
        o, network, critic = self.options, self.generator, self._the_critic("fit_task")
        scale, top = self._scales(run.epoch, batch, batches)
        network.train()
        critic.train()
        classifier = self._classify(run, x, y)

        analytic = o.compensation == "analytic"
        masked, sparsity = network.masked(scale, top if analytic else None)
        with torch.no_grad():
            z = self._noise(y, self._random)
            fake = network(z, [weight.detach() for weight in masked], network.task, y)
        mix = torch.rand(len(x), generator=self._random, dtype=self.dtype, device=self.device)
        run.optimizers["critic"].zero_grad()
        of_critic = add_critic_gradients(critic, x, fake, mix, o.penalty_weight)
        run.optimizers["critic"].step()

        images = network(self._noise(y, self._random), masked, network.task, y)
        scores, logits = self._judged(images)
        loss = o.sparsity_weight * self._alpha() * sparsity - o.adversarial_weight * scores.mean()
        if o.classify_fakes:
            loss = loss + F.cross_entropy(logits, y)
        self._step_generator(run.optimizers["generator"], loss, scale, top)
        return torch.stack([classifier, of_critic, loss.detach(), sparsity.detach()])

    def _step_generator(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, scale: float, top: float
    ) -> None:
        """What is blocked stays bit for bit."""
        o, network = self.options, self.generator
        learnt = self._learnt()
        grads = torch.autograd.grad(loss, learnt)
        layers = len(network.weights)
        if o.compensation == "reference":
            compensate_embedding_gradients_(
                *(grads[layers : 2 * layers], list(network.embeddings)),
                *(scale, top),
                mode="reference",
            )
        for parameter, grad in zip(learnt, grads, strict=True):
            parameter.grad = grad
        optimizer.step()
        optimizer.zero_grad()
        if o.embedding_clamp is not None:
            with torch.no_grad():
                for embedding in network.embeddings:
                    embedding.clamp_(-o.embedding_clamp, o.embedding_clamp)

    def _alpha(self) -> float:
        """The size of the generator now, divided by that at first."""
        network = self.generator
        if self.options.alpha == "weights":
            return network.shared_weights(network.task) / network.shared_weights(0)
        return sum(network.widths[-1]) / sum(network.widths[0])

    @torch.no_grad()
    def _epoch_ended(self, run: Run, batches: int) -> None:
        """The way of the masks (figure 3b)."""
        _, top = self._scales(run.epoch, batches - 1, batches)
        for way, embedding in zip(self._mask_ways, self.generator.embeddings, strict=True):
            mask = (top * embedding).sigmoid().flatten()
            step = -(-len(mask) // _SHOWN)
            way["occupation"].append(float(mask.mean()))
            way["values"].append(mask[::step].tolist())

    def _finish(self, samples: Samples) -> dict[str, Any]:
        """Figures 3 and 4, and table 4."""
        network, alpha = self.generator, self._alpha()
        widths = network.widths[-1]
        with torch.device("cpu"):
            reserved = network.finish_task(self.options.max_scale, self._initial)
        self._store(samples)
        used, newly = sum(reserved.used), sum(reserved.newly)
        return {
            "alpha": alpha,
            "widths": list(widths),
            "used": reserved.used,
            "newly_blocked": reserved.newly,
            "newly_blocked_ratio": newly / max(1, used),
            "reused_ratio": (used - newly) / max(1, used),
            "masks": self._mask_ways,
            "bytes": network.nbytes(),
        }

    def _store(self, samples: Samples) -> None:
        """The real samples that later tasks replay (table 2)."""
        if self.real is None:
            return
        share = self.options.real_share
        order = torch.randperm(len(samples.y), generator=self._random, device=self.device)
        for label in samples.classes:
            rows = order[samples.y[order] == label]
            if share is not None:
                rows = rows[: round(share * len(rows))]
            self.real.add(x=samples.x[rows], y=samples.y[rows])

    # Use

    def _noise(self, positions: Tensor, generator: torch.Generator | None) -> Tensor:
        size, classes = (len(positions), self.options.noise), self.options.max_classes
        z = torch.randn(*size, generator=generator, dtype=self.dtype, device=self.device)
        z[:, :classes] = F.one_hot(positions, classes).to(z)
        return z

    def _sampler(self, task: int) -> Callable[[Tensor, Tensor], Tensor]:
        weights = self.generator.stored_weights(task)
        return lambda z, positions: self.generator(z, weights, task, positions)

    # State

    def __deepcopy__(self, memo: dict[int, Any]) -> DGM:
        """With real samples of its own: nobody else has those of a learner."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        real = None if self.real is None else self.real.clone()
        twin.__dict__ = copy.deepcopy({**self.__dict__, "real": real}, memo)
        return twin

    def _own_state(self) -> dict[str, Any]:
        return {
            "widths": [list(widths) for widths in self.generator.widths],
            "mask_ways": self._mask_ways,
            "real": None if self.real is None else self.real.state_dict(),
        }

    def _check_state(self, state: Mapping[str, Any]) -> None:
        super()._check_state(state)
        ways, layers = state["mask_ways"], len(self.generator.weights)
        kinds = {"occupation", "values"}
        whole = all(isinstance(way, Mapping) and way.keys() == kinds for way in ways)
        if len(ways) != (layers if state["classes"] else 0) or not whole:
            raise ValueError(
                f"mask_ways must have occupation and values of each of {layers} layers"
            )
        if len(state["widths"]) != len(state["history"]) + 1:
            raise ValueError("widths must be those of each task that was learnt, and of the next")

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        if len(state["widths"][0]) != len(self.generator.widths[0]):
            raise ValueError("the state is of another network, or of images of another size")
        self.generator = self._generator(state["widths"])
        self._mask_ways = state["mask_ways"]
        real = self._buffer()
        if (real is None) != (state["real"] is None):
            raise ValueError("one learner stores real samples, the other does not")
        if real is not None:
            real.load_state_dict(state["real"])
        self.real = real


class DGMw(DGM):
    """Dynamic generative memory with masks of weights.

    A conditional generator learns each task with a mask of its weights, m = sigmoid(s e), that is
    learnt too while s grows (Eq. 3 and 4). What a task uses, m >= 1/2, is reserved: later tasks
    read it but change nothing of it (Eq. 5), and the generator grows by what was reserved. The
    critic, which classifies, learns new classes from the task's images and old ones from generated
    ones.

    **Old images are exact.** `generate` gives of old classes, with the same noise, bit for bit what
    it gave when their task ended (on the CPU, with as many threads). For this what is stored of a
    mask is exactly 0 on all that is not reserved. The authors store sigmoid(s_max e) everywhere:
    an e a little below 0 gives a mask that is tiny but not 0, on a weight that later tasks change.

    One task has batch normalisation and, by ``last``, one last layer or one for each class.

    Args:
        channels: of the images.
        seed: of all that is random.
        device, dtype: of the networks.
        options: the fields of :class:`DgmOptions`, by keyword.

    Raises:
        TypeError, ValueError: options out of range.
    """

    _MASKS = "weight"
    _OPTIONS = DgmOptions


class DGMa(DGM):
    """Dynamic generative memory with masks of units, which multiply the activations.

    As `DGMw`; a mask has one value for each output of a layer, and a layer grows by as many outputs
    as were reserved. Old images are exact by the default of ``blocked`` alone, which blocks more
    than the authors' code does, see :class:`clfast.nn.MaskedGenerator`.

    Args:
        channels, seed, device, dtype: as of `DGMw`.
        options: the fields of :class:`UnitOptions`, by keyword.

    Raises:
        TypeError, ValueError: options out of range.
    """

    _MASKS = "unit"
    _OPTIONS = UnitOptions
