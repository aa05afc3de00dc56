"""What a classifier says of a batch, and what is wrong where it says something else."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def logits_of(model: nn.Module, x: Tensor, where: str) -> Tensor:
    """[B, C], float64 as the model gives it, else float32.

    Raises:
        ValueError: the model cannot take x, or gives something else; `where` opens the message.
    """
    try:
        logits = model(x)
    except (RuntimeError, IndexError, ValueError) as error:
        # Subclasses of RuntimeError tell of the machine: out of memory, a device's fault.
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
            raise
        raise ValueError(
            f"{where}: model cannot take x, {x.dtype} {list(x.shape)}: {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{where}: model must give logits [{len(x)}, C], got {came}")
    return logits if logits.dtype == torch.float64 else logits.float()
