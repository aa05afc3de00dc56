"""Losses of a Wasserstein GAN with gradient penalty (Gulrajani et al.), as DGM and MeRGAN have."""

from __future__ import annotations

from torch import Tensor

from ..nn.critic import Critic


def add_critic_gradients(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    mix: Tensor,
    penalty_weight: float,
    weight: float = 1.0,
) -> Tensor:
    """Add the gradients of weight (mean score(fake) - mean score(real) + penalty_weight P) to those
    of the critic's parameters, with the penalty P on slopes at
    u_i = mix_i real_i + (1 - mix_i) fake_i, see `Critic.add_penalty_gradients`.

    Three passes, in the order real, fake, u, as batch normalisation in train mode sees them; each
    is forgotten before the next.

    Args:
        real, fake: [B, ...] each; constants.
        mix: [B] in [0, 1].

    Returns:
        The loss, without a graph.
    """
    loss = add_wasserstein_gradients(critic, real, fake, weight)
    if penalty_weight:
        mix = mix.view(-1, *(1,) * (real.dim() - 1))
        between = mix * real + (1 - mix) * fake
        loss = loss + critic.add_penalty_gradients(between, weight * penalty_weight)
    return loss


def add_wasserstein_gradients(
    critic: Critic, real: Tensor, fake: Tensor, weight: float = 1.0
) -> Tensor:
    """The same of weight (mean score(fake) - mean score(real)); the first pass is that of real."""
    total = real.new_zeros(())
    for images, sign in ((real, -weight), (fake, weight)):
        loss: Tensor = sign * critic(images)[0].mean()
        loss.backward()
        total = total + loss.detach()
    return total
