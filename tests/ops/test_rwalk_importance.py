"""RWalk's scores against a loop over numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clfast import ops

float64 = torch.float64


def test_scores_of_rwalk(rng: torch.Generator) -> None:
    shapes = [(3, 4), (), (5,)]
    scores, paths, roots, deltas = (
        [torch.randn(shape, generator=rng, dtype=float64) for shape in shapes] for _ in range(4)
    )
    fishers = [r**2 for r in roots]
    wanted = []
    for s, w, f, d in zip(scores, paths, fishers, deltas, strict=True):
        numbers = zip(*(t.flatten().tolist() for t in (s, w, f, d)), strict=True)
        found = [(s + max(0.0, w / (f * d * d + 0.2))) / 2 for s, w, f, d in numbers]
        wanted.append(torch.tensor(found, dtype=float64).view(s.shape))
    ops.rwalk_importance_(scores, paths, fishers, deltas, damping=0.2)
    torch.testing.assert_close(scores, wanted)
    ops.rwalk_importance_([], [], [], [])


@pytest.mark.parametrize(
    ("at", "bad", "message"),
    [
        (0, torch.ones(2), r"path_integrals\[0\] must have shape \[2\], as scores\[0\] has"),
        (0, torch.ones(1).expand(3), r"scores\[0\] must not be expanded"),
        (1, torch.ones(3).double(), r"path_integrals\[0\] is torch.float64"),
        (2, torch.tensor([1.0, -1.0, 0.0]), r"fishers\[0\] is negative somewhere"),
        (3, torch.tensor([1.0, float("nan"), 0.0]), r"deltas\[0\] holds NaN"),
    ],
)
def test_wrong_use_of_rwalk(at: int, bad: Tensor, message: str) -> None:
    lists = [[torch.ones(3)] for _ in range(4)]
    lists[at] = [bad]
    with pytest.raises(RuntimeError, match=f"clfast::rwalk_importance_: {message}"):
        ops.rwalk_importance_(*lists)
    for damping in (0.0, -1.0, float("nan")):
        with pytest.raises(RuntimeError, match="damping must be finite and > 0, got"):
            ops.rwalk_importance_(*([torch.ones(3)] for _ in range(4)), damping=damping)
    tensor: Any = torch.ones(3)
    with pytest.raises(TypeError, match="scores must be a list of tensors, got Tensor"):
        ops.rwalk_importance_(tensor, *lists[1:])
