"""``clfast run mnemonics``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .cli_options import ROOT, SEEDS, THREADS, out_folder, require, tell

_LEARNERS = ["lwf", "icarl", "bic", "lucir"]
_EXEMPLARS = ["random", "herding", "mnemonics", "mnemonics-unadjusted"]
_TRAINING = {
    "objective": "objective",
    "inner_steps": "steps",
    "inner_lr": "inner_lr",
    "inner_batch": "inner_batch",
    "exemplar_epochs": "epochs",
    "exemplar_lr": "lr",
    "adjust_lr": "adjust_lr",
    "exemplar_halving": "halve_every",
    "exemplar_batch": "batch",
    "exemplar_batches": "batches",
    "exemplar_init": "init",
    "folds": "folds",
}
"""Options of the training of exemplars, and what `Mnemonics` calls them."""
_COUNT = click.IntRange(min=1)
_WEIGHT = click.FloatRange(min=0)
_RATE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option(
    "--data", type=click.Choice(["cifar100", "mnist"]), default="cifar100", show_default=True
)
@ROOT
@click.option(
    "--learner",
    "learners",
    multiple=True,
    type=click.Choice(_LEARNERS),
    help="May be given several times.  [default: lucir]",
)
@click.option(
    "--exemplars",
    multiple=True,
    type=click.Choice(_EXEMPLARS),
    help="May be given several times.  [default: all]",
)
@click.option("--phases", type=_COUNT, help="N, after the first.")
@click.option("--first", type=_COUNT, help="Classes of the first phase.  [default: half]")
@SEEDS
@click.option("--classes", type=_COUNT, help="So many, drawn by the seed.  [default: all]")
@click.option("--samples", type=_COUNT, help="Training images of each class at most.")
@click.option("--per-class", type=_COUNT, help="Exemplars of each class.")
@click.option("--total", type=_COUNT, help="Exemplars of all classes, in place of --per-class.")
@click.option("--storage", type=click.Choice(["uint8", "float32"]), help="Of exemplars.")
@click.option("--network", type=click.Choice(["resnet32", "resnet18", "convnet"]))
@click.option("--width", type=_COUNT, help="Channels of the network's first stage.")
@click.option("--epochs", type=_COUNT, help="Of each phase.")
@click.option("--batch", type=_COUNT)
@click.option("--lr", type=_RATE, help="Of SGD with momentum 0.9.")
@click.option("--weight-decay", type=_WEIGHT)
@click.option("--finetune-epochs", type=click.IntRange(min=0), help="On exemplars, in every arm.")
@click.option("--finetune-lr", type=_RATE)
@click.option("--transfer", type=click.Choice(["scale", "scale_shift", "none"]), help="Of weights.")
@click.option("--shift", type=click.IntRange(min=0), help="Of training images, in pixels at most.")
@click.option("--flip/--no-flip", default=None, help="Mirror images.  [default: not of digits]")
@click.option("--objective", type=click.Choice(["bop_full", "bop_fc", "proto"]))
@click.option("--inner-steps", type=_COUNT, help="T, of the temporary network.")
@click.option("--inner-lr", type=_RATE, help="alpha_2, of the temporary network.")
@click.option("--inner-batch", type=_COUNT, help="Exemplars of such a step.  [default: all]")
@click.option("--exemplar-epochs", type=_COUNT, help="In which exemplars are trained.")
@click.option("--exemplar-lr", type=_RATE, help="beta_1, of steps on exemplars.")
@click.option("--adjust-lr", type=_RATE, help="beta_2, on old ones.  [default: the same]")
@click.option("--exemplar-halving", type=_COUNT, help="Epochs after which beta is halved.")
@click.option("--exemplar-batch", type=_COUNT, help="Real images of a step on exemplars.")
@click.option("--exemplar-batches", type=_COUNT, help="Steps on exemplars of an epoch at most.")
@click.option("--exemplar-init", type=click.Choice(["random", "herding"]))
@click.option("--folds", type=click.IntRange(min=2), help="Of old exemplars that are adjusted.")
@click.option("--device", default="cpu", show_default=True)
@THREADS
@click.option("--minutes", type=_WEIGHT, default=10.0, show_default=True, help="Of a checkpoint.")
@out_folder("mnemonics")
def mnemonics(
    data: str,
    root: Path,
    learners: tuple[str, ...],
    exemplars: tuple[str, ...],
    seeds: int,
    flip: bool | None,
    transfer: str | None,
    per_class: int | None,
    total: int | None,
    minutes: float,
    out: Path,
    **options: Any,
) -> None:
    """Half of the classes, or --first, then N phases: learners with exemplars of several kinds.

    Table 1 of the Mnemonics paper, and its ablation. Each learner, kind of exemplars and seed has
    a folder of its own in that of --out, with pictures of exemplars; a run that was cut short goes
    on. Prints accuracies after each phase, and at the end all runs side by side, with plots of that
    and comparison.json.

    The options are the paper's for CIFAR-100 unless they are given here, to all arms alike.
    """
    require("matplotlib", "matplotlib")
    from .experiments import mnemonics as experiment
    from .experiments.mnemonics_comparison import compare

    if per_class is not None and total is not None:
        raise click.UsageError("--per-class and --total: give one of them")
    given = {name: value for name, value in options.items() if value is not None}
    kinds = list(dict.fromkeys(exemplars or _EXEMPLARS))
    asked = [f"--{name.replace('_', '-')}" for name in _TRAINING if name in given]
    training = {of: given.pop(name) for name, of in _TRAINING.items() if name in given}
    if asked and not any("mnemonics" in kind for kind in kinds):
        raise click.UsageError(
            f"{', '.join(asked)}: these are options of mnemonics, which --exemplars leaves out"
        )
    if per_class is not None or total is not None:
        given |= {"per_class": per_class or 0, "total": total}
    if transfer is not None:
        given["transfer"] = None if transfer == "none" else transfer
    given["flip"] = data != "mnist" if flip is None else flip
    shared = experiment.MnemonicsExperiment(data=data, **given)
    configs = [
        dataclasses.replace(
            shared,
            learner=learner,
            exemplars=kind,
            seed=seed,
            training=experiment.Training(**training) if "mnemonics" in kind else None,
        )
        for learner in dict.fromkeys(learners or ["lucir"])
        for kind in kinds
        for seed in range(seeds)
    ]
    console = Console()
    try:
        train, test = experiment.load(data, root)
        found = compare(
            configs, train, test, out, minutes=minutes, ended=lambda table: table.print(console)
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    tell(found, out, console)
