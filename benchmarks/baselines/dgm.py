"""An iteration of DGMw in plain PyTorch, as Ostapenko et al. train on MNIST.

Steps of the critic on cross-entropy, one for each class so far; a step on the Wasserstein loss with
gradient penalty; a step of the generator behind masks. `PlainDGM` is the best that was found:
nothing is computed that nobody reads. `AsPublished` does what the authors' code does:

* Embeddings of all tasks are rows of one matrix, whose gradient and moments are as large, and
  compensated over all rows, parameter by parameter.
* The critic's step keeps the graph of the generator's images, which nobody uses; the generator's
  step fills gradients of the critic, which nobody reads.
* Adam is PyTorch's default; losses are read by ``item()``.

Noise is drawn by PyTorch and no accuracy is computed in between, unlike there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clfast.methods.dgm import DgmOptions

LAYERS = 3


class PlainCritic(nn.Module):
    """From images to scores [B] and logits [B, classes]."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 5, 2, 2, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 5, 2, 2, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 5, 2, 2, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.score = nn.Linear(64 * width, 1)
        self.classify = nn.Linear(64 * width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.heads(self.features(x))

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(features)[:, 0], self.classify(features)


class PlainDGM:
    """A learner of DGMw in the middle of a task.

    Args:
        state: of `clfast.methods.DGMw`, in a task.
        options: which it was made with.
        like: of the dtype and on the device to compute with.
        layout: of images and weights of the critic.
        compiled: the critic's features, but where they are differentiated twice, and the masks.
    """

    _ADAM: Mapping[str, Any] = {"fused": True}

    def __init__(
        self,
        state: Mapping[str, Any],
        options: DgmOptions,
        like: Tensor,
        *,
        layout: torch.memory_format = torch.contiguous_format,
        compiled: bool = False,
    ) -> None:
        self.options, self.layout = options, layout
        run, g = state["run"], state["generator"]
        self.task, self.classes = len(state["widths"]) - 1, len(state["classes"])
        self.replay = run["replay"].to(like)
        self.random = torch.Generator(like.device)
        self.random.set_state(state["random"])

        self.critic = PlainCritic(self.replay.shape[2], options.critic_width, self.classes)
        self.critic.load_state_dict(state["critic"])
        self.critic.to(like).to(memory_format=layout)
        self.weights = [nn.Parameter(g[f"weights.{i}"].to(like)) for i in range(LAYERS)]
        self.embeddings = [
            nn.Parameter(self._rows(g[f"embeddings.{i}"].to(like))) for i in range(LAYERS)
        ]
        self.free = [(~g[f"reserved_{i}"]).to(like) for i in range(LAYERS)]
        self.norms = nn.ModuleList()
        for layer, weight in enumerate(self.weights):
            norm = nn.BatchNorm2d(weight.shape[1])
            start = f"norms.{layer}.parts.{self.task}."
            norm.load_state_dict({n: g[start + n] for n in norm.state_dict()})
            self.norms.append(norm.to(like))
        last = g[f"lasts.{self.task}.weight"]
        self.last = nn.ConvTranspose2d(*last.shape[:2], 4, 2, 1, bias=False)
        self.last.load_state_dict({"weight": last})
        self.last.to(like)
        self.learnt = [
            *(*self.weights, *self.embeddings),
            *(*self.norms.parameters(), *self.last.parameters()),
        ]
        betas = float(options.betas[0]), float(options.betas[1])
        self.adam = {
            name: torch.optim.Adam(of, lr=options.lr, betas=betas, **self._ADAM)
            for name, of in (("critic", self.critic.parameters()), ("generator", self.learnt))
        }
        for name, adam in self.adam.items():
            given = run["optimizers"][name]["state"]
            parameters = adam.param_groups[0]["params"]
            for index, parameter in enumerate(parameters):
                rows = name == "generator" and LAYERS <= index < 2 * LAYERS
                adam.state[parameter] = {
                    # The fused step takes them to lie in memory as the parameter does.
                    kind: torch.empty_like(parameter).copy_(self._rows(v) if rows else v)
                    if v.dim()
                    else v.clone()
                    for kind, v in given[index].items()
                }
        features = self.critic.features
        # Not the heads: one of them is unused, and must not get a gradient of zeros.
        self._features = torch.compile(features, dynamic=False) if compiled else features
        self._mask = torch.compile(_masked, dynamic=False) if compiled else _masked

    def parameters(self) -> list[Tensor]:
        """Of the generator in this task, then of the critic."""
        return [*self.learnt, *self.critic.parameters()]

    @torch.enable_grad()
    def iterate(self, x: Tensor, y: Tensor, scale: float, top: float) -> None:
        """A batch of images in [-1, 1] and of positions of their classes.

        Args:
            scale, top: s of the batch, and its largest value in the epoch.
        """
        o, adam = self.options, self.adam["critic"]
        self._classify(x, y)
        fake = self._fake(y, scale)
        mix = torch.rand(len(x), generator=self.random, device=x.device).to(x)
        adam.zero_grad()
        real = -self._judge(self._laid_out(x))[0].mean()
        real.backward()
        unreal = self._judge(self._laid_out(fake.detach()))[0].mean()
        unreal.backward()
        mix = mix.view(-1, 1, 1, 1)
        between = self._laid_out(mix * x + (1 - mix) * fake).detach().requires_grad_()
        scores, _ = self.critic(between)
        (slopes,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        penalty = o.penalty_weight * (slopes.flatten(1).norm(dim=1) - 1).square().mean()
        penalty.backward(inputs=list(self.critic.parameters()))  # not by the images
        adam.step()

        images, sparsity = self._images(y, scale, top)
        scores, _ = self._judge(self._laid_out(images))
        widths = sum(weight.shape[1] for weight in self.weights)
        alpha = widths / (7 * o.width)
        loss = o.sparsity_weight * alpha * sparsity - o.adversarial_weight * scores.mean()
        self._step_generator(loss, scale, top)
        self._told([real, unreal, penalty, loss])

    def _classify(self, x: Tensor, y: Tensor) -> None:
        """Real images, and as many of each past class, mixed."""
        past, size = len(self.replay), len(x)
        options: dict[str, Any] = {"generator": self.random, "device": x.device}
        drawn = torch.randint(self.replay.shape[1], (past, size), **options)
        labels = torch.arange(past, device=x.device)
        old = self.replay[labels[:, None], drawn].flatten(0, 1)
        mixed = torch.randperm(size * (1 + past), **options)
        x = torch.cat([x, old])[mixed]
        y = torch.cat([y, labels.repeat_interleave(size)])[mixed]
        for images, targets in zip(x.split(size), y.split(size), strict=True):
            loss = F.cross_entropy(self._judge(self._laid_out(images))[1], targets)
            self.adam["critic"].zero_grad()
            loss.backward()
            self.adam["critic"].step()
            self._told([loss])

    def _judge(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.critic.heads(self._features(x))

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.layout)

    def _noise(self, y: Tensor) -> Tensor:
        o, like = self.options, self.last.weight
        # Numbers are those of float32, whatever is computed with.
        z = torch.randn(len(y), o.noise, generator=self.random, device=y.device).to(like)
        z[:, : o.max_classes] = F.one_hot(y, o.max_classes).to(z)
        return z

    def _generate(self, z: Tensor, weights: list[Tensor]) -> Tensor:
        first, *others = weights
        # A transposed convolution of one pixel.
        x = (z @ first.flatten(1)).unflatten(1, first.shape[1:])
        for weight, norm in zip([None, *others], self.norms, strict=True):
            if weight is not None:
                x = F.conv_transpose2d(x, weight, stride=2, padding=1)
            x = norm(x).relu()
        return torch.tanh(self.last(x))

    # What differs

    def _rows(self, live: Tensor) -> Tensor:
        """An embedding as it is kept, or a moment of one."""
        return live.clone()

    def _fake(self, y: Tensor, scale: float) -> Tensor:
        with torch.no_grad():
            weights = [
                w * (scale * e).sigmoid()
                for w, e in zip(self.weights, self.embeddings, strict=True)
            ]
            return self._generate(self._noise(y), weights)

    def _images(self, y: Tensor, scale: float, top: float) -> tuple[Tensor, Tensor]:
        """Images, and R of Eq. 6."""
        weights, sparsity = self._mask(self.weights, self.embeddings, self.free, scale, top)
        return self._generate(self._noise(y), weights), sparsity

    def _step_generator(self, loss: Tensor, scale: float, top: float) -> None:
        del scale, top  # the derivative of the masks has them
        grads = torch.autograd.grad(loss, self.learnt)
        torch._foreach_mul_(grads[:LAYERS], self.free)
        for parameter, grad in zip(self.learnt, grads, strict=True):
            parameter.grad = grad
        nn.utils.clip_grad_norm_(self.learnt, self.options.clip_norm)
        self.adam["generator"].step()

    def _told(self, losses: list[Tensor]) -> None:
        """Losses of a step."""


def _masked(
    weights: list[Tensor], embeddings: list[Tensor], free: list[Tensor], scale: float, top: float
) -> tuple[list[Tensor], Tensor]:
    """Masked weights and R, with the embeddings' derivative compensated at once."""
    found, used, all_free = [], [], []
    for weight, embedding, rest in zip(weights, embeddings, free, strict=True):
        smooth = top * embedding.sigmoid()
        mask = (scale * embedding).sigmoid().detach() + (smooth - smooth.detach())
        found.append(weight * mask)
        used.append((mask * rest).sum())
        all_free.append(rest.sum())
    return found, torch.stack(used).sum() / torch.stack(all_free).sum()


class AsPublished(PlainDGM):
    """See the module."""

    _ADAM: Mapping[str, Any] = {}

    def parameters(self) -> list[Tensor]:
        live = [
            embedding[self.task].view_as(weight)
            for weight, embedding in zip(self.weights, self.embeddings, strict=True)
        ]
        return [
            *(*self.learnt[:LAYERS], *live, *self.learnt[2 * LAYERS :]),
            *self.critic.parameters(),
        ]

    def _rows(self, live: Tensor) -> Tensor:
        rows = live.new_zeros(self.task + 1, live.numel())
        rows[self.task] = live.flatten()
        return rows

    def _masks(self, scale: float) -> list[Tensor]:
        row = torch.tensor([self.task], device=self.last.weight.device)
        return [
            torch.sigmoid(scale * F.embedding(row, embedding)).view_as(weight)
            for weight, embedding in zip(self.weights, self.embeddings, strict=True)
        ]

    def _fake(self, y: Tensor, scale: float) -> Tensor:
        masks = self._masks(scale)
        return self._generate(
            self._noise(y), [w * m for w, m in zip(self.weights, masks, strict=True)]
        )

    def _images(self, y: Tensor, scale: float, top: float) -> tuple[Tensor, Tensor]:
        del top
        masks = self._masks(scale)
        images = self._generate(
            self._noise(y), [w * m for w, m in zip(self.weights, masks, strict=True)]
        )
        used, all_free = torch.zeros((), device=y.device), torch.zeros((), device=y.device)
        for mask, rest in zip(masks, self.free, strict=True):
            used = used + (mask * rest).sum()
            all_free = all_free + rest.sum()
        return images, used / all_free

    def _step_generator(self, loss: Tensor, scale: float, top: float) -> None:
        self.adam["generator"].zero_grad()
        loss.backward()
        for weight, rest in zip(self.weights, self.free, strict=True):
            assert weight.grad is not None
            weight.grad *= rest
        for embedding in self.embeddings:
            assert embedding.grad is not None
            upper = torch.cosh(torch.clamp(scale * embedding.data, -50, 50)) + 1
            embedding.grad *= top / scale * upper / (torch.cosh(embedding.data) + 1)
        nn.utils.clip_grad_norm_(self.learnt, self.options.clip_norm)
        self.adam["generator"].step()

    def _told(self, losses: list[Tensor]) -> None:
        for loss in losses:
            loss.item()
