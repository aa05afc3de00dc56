"""Losses of a Wasserstein GAN with gradient penalty (Gulrajani et al.), as DGM and MeRGAN have."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.critic import Critic


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """mean_i (||d score(u_i) / d u_i||_2 - 1)^2 at u_i = mix_i real_i + (1 - mix_i) fake_i.

    Differentiable in the critic's parameters.

    Args:
        real, fake: [B, ...] each; constants.
        mix: [B] in [0, 1].
    """
    mix = mix.view(-1, *(1,) * (real.dim() - 1))
    between = (mix * real + (1 - mix) * fake).detach().requires_grad_()
    scores, _ = critic(between)
    (slopes,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
    norms: Tensor = slopes.flatten(1).norm(dim=1)
    return (norms - 1).square().mean()


def critic_loss(
    critic: Critic, real: Tensor, fake: Tensor, mix: Tensor, penalty_weight: float
) -> Tensor:
    """`wasserstein_loss` + penalty_weight times `gradient_penalty`.

    Three passes, in the order real, fake, between, as batch normalisation in train mode sees them.
    """
    loss = wasserstein_loss(critic, real, fake)
    if penalty_weight:
        loss = loss + penalty_weight * gradient_penalty(critic, real, fake, mix)
    return loss


def wasserstein_loss(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """mean score(fake) - mean score(real); the first pass is that of real."""
    real_scores, _ = critic(real)
    fake_scores, _ = critic(fake.detach())
    loss: Tensor = fake_scores.mean() - real_scores.mean()
    return loss
