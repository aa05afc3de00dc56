"""What `Mnemonics` and the other selections refuse, and that they change nothing by it."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from selections import images, mnemonics, network, seeded, unchanged
from torch import nn

from clfast.methods.exemplar_selection import (
    Exemplars,
    ExemplarSelection,
    Herding,
    RandomSelection,
)
from clfast.methods.mnemonics import Mnemonics


def refused(
    selection: ExemplarSelection, error: type[Exception], text: str, net: Any, *given: Any
) -> None:
    generator = seeded()
    before, losses = generator.get_state(), getattr(selection, "select_losses", None)
    call = selection.adjust if len(given) == 1 else selection.select
    with unchanged(net), pytest.raises(error, match=text):
        call(net, *given, generator=generator)
    assert torch.equal(generator.get_state(), before)
    assert getattr(selection, "select_losses", None) == losses


@pytest.mark.parametrize("selection", [RandomSelection(), Herding(), mnemonics()])
def test_samples_that_cannot_be(selection: ExemplarSelection) -> None:
    net, (x, y) = network(), images()
    name = type(selection).__name__
    refused(selection, ValueError, f"{name}.select: count is 9, but class 0 has 8", net, x, y, 9)
    refused(selection, ValueError, "count must be at least 1", net, x, y, 0)
    refused(selection, TypeError, "x must be a torch.Tensor, got list", net, [1], y, 1)
    refused(selection, TypeError, "x must be floating point or uint8", net, x.long(), y, 1)
    refused(selection, ValueError, "x holds no images", net, x[:0], y[:0], 1)
    refused(selection, TypeError, "y must be an int64 tensor", net, x, y.double(), 1)
    refused(selection, ValueError, r"y must have shape \[24\]", net, x, y[:3], 1)
    refused(selection, ValueError, "y holds label -1", net, x, y - 1, 1)
    number: Any = 3
    with pytest.raises(TypeError, match="generator must be a torch"):
        selection.select(net, x, y, 1, generator=number)


def test_what_does_not_fit_the_network() -> None:
    net, (x, y) = network(), images()
    text = "y holds label 3, but the head of network has 3 outputs; labels must be contiguous"
    refused(mnemonics(), ValueError, text, net, x, y + 1, 1)
    old = Exemplars(x[:, :, :3], y)
    refused(mnemonics(), ValueError, r"network cannot take x, images of \[1, 3, 5\]", net, old)
    few = Exemplars(x[:2], y[:2])
    refused(mnemonics(folds=3), ValueError, "folds is 3, but class 0 has 1 exemplars", net, few)
    odd = SimpleNamespace(features=net.features, head=nn.Unflatten(1, (2, 3)))
    refused(mnemonics("proto"), ValueError, "must give logits", odd, x, y, 1)
    none = SimpleNamespace(features=net.features, head=None)
    with pytest.raises(TypeError, match="must have modules features and head, but its head"):
        mnemonics().select(none, x, y, 1, generator=seeded())


def test_a_network_with_nothing_to_train() -> None:
    net, (x, y) = network(), images()
    net.head.requires_grad_(False)
    refused(mnemonics("bop_fc"), ValueError, "nothing to train: its head has", net, x, y, 1)
    net.features.requires_grad_(False)
    refused(mnemonics(), ValueError, "network has nothing to train: it has", net, x, y, 1)
    mnemonics("proto").select(net, x, y, 1, generator=seeded())


def test_batch_norm_of_a_single_sample() -> None:
    net, (x, y) = network(), images()

    def on_batches(**options: Any) -> Mnemonics:
        return mnemonics(batch_norm="batch", **options)

    refused(on_batches(batch=1), ValueError, "batch leads to a batch of one", net, x, y, 1)
    refused(
        on_batches(inner_batch=1), ValueError, "inner_batch leads to a batch of one", net, x, y, 1
    )
    refused(on_batches(), ValueError, "count leads to a batch of one", net, x[::3], y[::3], 1)
    old = Exemplars(x[:3], 0 * y[:3])
    refused(on_batches(folds=3), ValueError, "folds leads to a batch of one", net, old)
    mnemonics(inner_batch=1, batch=1, batches=1).select(net, x, y, 1, generator=seeded())


@pytest.mark.parametrize("objective", ["bop_fc", "proto"])
def test_features_of_images_that_stay_are_computed_once(objective: str) -> None:
    net, (x, y) = network(), images()
    seen: list[int] = []
    net.features.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    mnemonics(objective, epochs=7, init="random").select(net, x, y, 2, generator=seeded())
    steps, exemplars, shape = 7 * 3, 6, 1
    assert sum(seen) == len(x) + steps * exemplars + shape


@pytest.mark.parametrize("objective", ["bop_full", "bop_fc", "proto"])
def test_networks_of_16_bits(objective: str) -> None:
    net, (x, y) = network(torch.bfloat16), images()
    x = x.bfloat16()
    found = mnemonics(objective, inner_lr=0.05).select(net, x, y, 2, generator=seeded())
    assert found.x.dtype == torch.bfloat16
    assert bool(found.x.isfinite().all())


def test_training_that_diverges() -> None:
    net, (x, y) = network(), images()
    text = r"Mnemonics: inner_loss is NaN or infinite in step \d of .*; inner_lr is 1e\+200"
    refused(mnemonics(inner_lr=1e200), RuntimeError, text, net, x, y, 1)
    wild = mnemonics("bop_fc", lr=1e300, optimizer=partial(torch.optim.SGD, weight_decay=1e10))
    refused(wild, RuntimeError, "exemplars hold NaN or Inf in epoch 0", net, x, y, 1)
    bad = x.clone()
    bad[0, 0, 0, 0] = torch.nan
    for selection in (mnemonics(), Herding(), RandomSelection()):
        refused(selection, ValueError, "x holds NaN or Inf", net, bad, y, 1)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"objective": "bop"}, ValueError, "objective must be one of bop_full, bop_fc, proto"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"inner_lr": 0}, ValueError, r"inner_lr must be finite and in \(0"),
        ({"lr": -1}, ValueError, r"lr must be finite and in \(0"),
        ({"adjust_lr": 0}, ValueError, r"adjust_lr must be finite and in \(0"),
        ({"inner_momentum": 1}, ValueError, r"inner_momentum must be finite and in \[0, 1\)"),
        ({"inner_batch": 0}, ValueError, "inner_batch must be at least 1"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"halve_every": 0}, ValueError, "halve_every must be at least 1"),
        ({"optimizer": 3}, TypeError, "optimizer must be callable"),
        ({"batch": 0}, ValueError, "batch must be at least 1"),
        ({"batches": 0}, ValueError, "batches must be at least 1"),
        ({"batch_norm": "train"}, ValueError, "batch_norm must be one of running, batch"),
        ({"init": "zeros"}, ValueError, "init must be one of random, herding"),
        ({"values": (1, 0)}, ValueError, "values must be"),
        ({"values": 1}, ValueError, "values must be"),
        ({"folds": 0}, ValueError, "folds must be at least 1"),
        ({"progress": "yes"}, TypeError, "progress must be True or False"),
        ({"first_order": 2}, TypeError, "first_order must be True or False"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="Mnemonics: " + text):
        Mnemonics(**options)
