"""`CropAndFlip` against a loop over images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clfast.streams import CropAndFlip


@pytest.mark.parametrize(("padding", "flip"), [(0, True), (2, True), (3, False)])
def test_shifts_and_mirror_images(padding: int, flip: bool, rng: torch.Generator) -> None:
    images = torch.rand(20, 3, 5, 4, generator=rng)
    found = CropAndFlip(padding, flip=flip)(images, torch.Generator().manual_seed(3))
    assert found.shape == images.shape
    kinds = set()
    for image, came in zip(images, found, strict=True):
        wide = torch.zeros(3, 5 + 2 * padding, 4 + 2 * padding)
        wide[:, padding : padding + 5, padding : padding + 4] = image
        candidates: dict[tuple[int, int, bool], Tensor] = {}
        for top in range(2 * padding + 1):
            for left in range(2 * padding + 1):
                crop = wide[:, top : top + 5, left : left + 4]
                candidates[top, left, False] = crop
                if flip:
                    # left to right, not another order of the channels
                    candidates[top, left, True] = torch.stack([c.flip(1) for c in crop])
        hits = [place for place, crop in candidates.items() if torch.equal(crop, came)]
        assert len(hits) == 1
        kinds.add(hits[0])
    assert len({mirrored for *_, mirrored in kinds}) == 1 + flip
    assert len({(top, left) for top, left, _ in kinds}) > min(padding, 5)


def test_the_generator_decides(rng: torch.Generator) -> None:
    images = torch.rand(8, 1, 6, 6, generator=rng)
    augment = CropAndFlip()
    one, other = (augment(images, torch.Generator().manual_seed(s)) for s in (1, 1))
    assert torch.equal(one, other)
    assert not torch.equal(one, augment(images, torch.Generator().manual_seed(2)))
    assert augment(images[:0], rng).shape == (0, 1, 6, 6)


def test_wrong_use(rng: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"images must be \[B, Ch, H, W\], got \[3, 4\]"):
        CropAndFlip()(torch.zeros(3, 4), rng)
    with pytest.raises(ValueError, match="CropAndFlip: padding must be at least 0"):
        CropAndFlip(-1)
    with pytest.raises(TypeError, match="CropAndFlip: flip must be True or False"):
        CropAndFlip(flip="yes")  # type: ignore[arg-type]
