"""DGM on a GPU; named after its ops, so that `make gpu-check` finds it."""

from __future__ import annotations

import io

import pytest
import torch
from test_dgm import BOTH, METHODS, SMALL, task
from torch import Tensor

from clfast.methods.dgm import DGM

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda")


def made(method: str) -> DGM:
    return METHODS[method](**SMALL, seed=3, device=CUDA, dtype=torch.float64)


def images(of: DGM) -> Tensor:
    return of.generate(3, [0], generator=torch.Generator(CUDA).manual_seed(1)).images


@BOTH
def test_old_images_stay(method: str) -> None:
    learner = made(method)
    learner.fit_task(task(0))
    before = images(learner)
    for label in (1, 2):
        learner.fit_task(task(label))
    assert before.device.type == CUDA.type
    # Larger networks may have their sums in another order.
    torch.testing.assert_close(images(learner), before, rtol=0, atol=1e-12)
    x = torch.cat([x for x, _ in task(0)])
    assert learner.predict(x.to(CUDA, torch.float64)).shape == (16,)


@BOTH
def test_a_state_goes_on_alike(method: str) -> None:
    learner, other = made(method), made(method)
    learner.fit_task(task(0))
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for each in (learner, other):
        each.fit_task(task(1))
    torch.testing.assert_close(images(other), images(learner), rtol=1e-6, atol=1e-8)
