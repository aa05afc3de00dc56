"""How masked layers grow, by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from clfast.nn.growth import grown, grown_outputs


def test_weights_of_one_layer() -> None:
    # 128 inputs of 4 x 4 are 2048 weights an output.
    shape = [(128, 24, 4, 4)]
    assert grown_outputs(shape, [0], "weight") == [24]
    assert grown_outputs(shape, [1], "weight") == [25]
    assert grown_outputs(shape, [2048], "weight") == [25]
    assert grown_outputs(shape, [2049], "weight") == [26]


def test_a_wider_layer_before_counts() -> None:
    shapes = [(128, 24, 4, 4), (24, 12, 4, 4), (12, 6, 4, 4)]
    # 5000 weights: 3 outputs. They bring the second layer 3 * 12 * 16 = 576 weights.
    assert grown_outputs(shapes, [5000, 576, 0], "weight") == [27, 12, 6]
    # One more: an output of 27 * 16 weights, which brings the third 6 * 16 = 96.
    assert grown_outputs(shapes, [5000, 577, 96], "weight") == [27, 13, 6]
    assert grown_outputs(shapes, [5000, 577, 97], "weight") == [27, 13, 7]
    # 577 + 432 - 576 = 433 are one more than an output of 432.
    assert grown_outputs(shapes, [5000, 577 + 432, 97], "weight") == [27, 14, 6]


def test_units_are_replaced_one_for_one() -> None:
    shapes = [(128, 24, 4, 4), (24, 12, 4, 4), (12, 6, 4, 4)]
    assert grown_outputs(shapes, [7, 0, 6], "unit") == [31, 12, 12]


def test_ways_that_meet_get_as_many_outputs() -> None:
    # A block: 4 -> 3 -> 2 channels, and 4 -> 2 beside it; before it 5 -> 4.
    shapes = [(5, 4, 4, 4), (4, 3, 3, 3), (3, 2, 3, 3), (4, 2, 1, 1)]
    ends = [(0, 1), (1, 2), (2, 3), (1, 3)]
    assert grown_outputs(shapes, [0, 0, 0, 0], "weight", ends) == [4, 3, 2]
    assert grown_outputs(shapes, [0, 0, 1, 0], "weight", ends) == [4, 3, 3]
    # Five of 1 x 1 need two outputs of four inputs; with an input more, which brings two, one.
    assert grown_outputs(shapes, [0, 0, 1, 5], "weight", ends) == [4, 3, 4]
    assert grown_outputs(shapes, [1, 0, 0, 5], "weight", ends) == [5, 3, 3]
    assert grown_outputs(shapes, [2, 1, 1, 2], "unit", ends) == [6, 4, 4]


@pytest.mark.parametrize("seed", range(20))
def test_no_fewer_weights_are_free_and_one_output_less_would_not_do(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 9, (4,), generator=generator).tolist()
    shapes = [(i, o, 4, 4) for i, o in pairwise(sizes)]
    newly = [int(torch.randint(math.prod(s) + 1, (), generator=generator)) for s in shapes]
    outputs = grown_outputs(shapes, newly, "weight")
    inputs = [sizes[0], *outputs]
    for (i, o, *_), delta, n, out in zip(shapes, newly, inputs, outputs, strict=False):
        added = 16 * (n * out - i * o)
        assert added >= delta
        assert out == o or added - 16 * n < delta


def test_the_old_is_in_the_corner() -> None:
    old = torch.arange(6.0).view(2, 3)
    assert grown(old, torch.full((3, 4), 9.0)).tolist() == [
        [0, 1, 2, 9],
        [3, 4, 5, 9],
        [9, 9, 9, 9],
    ]
