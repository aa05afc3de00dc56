"""``clfast run dgm``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console

from .cli_options import ROOT, THREADS, out_folder, require

_COUNT = click.IntRange(min=1)
_WEIGHT = click.FloatRange(min=0)


@click.command()
@click.option("--data", type=click.Choice(["mnist", "arrays"]), default="mnist", show_default=True)
@ROOT
@click.option(
    "--variant",
    type=click.Choice(["weight", "unit"]),
    default="weight",
    show_default=True,
    help="Masks of weights (DGMw) or of units (DGMa).",
)
@click.option("--classes-per-task", type=_COUNT, default=1, show_default=True)
@click.option("--tasks", type=_COUNT, help="At most.  [default: all classes]")
@click.option("--samples", type=_COUNT, help="Training images of each class at most.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@THREADS
@click.option("--minutes", type=_WEIGHT, default=10.0, show_default=True, help="Of a checkpoint.")
@click.option("--epochs", type=_COUNT, help="Of each task.")
@click.option("--batch", type=_COUNT)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Of Adam.")
@click.option("--width", type=_COUNT, help="g: the generator begins with 4 g, 2 g, g outputs.")
@click.option("--critic-width", type=_COUNT, help="Outputs of the critic's first layer.")
@click.option("--size", type=_COUNT, help="Of images, a power of two from 16 on.  [default: 32]")
@click.option("--network", type=click.Choice(["dcgan", "resnet"]), help="Generator and critic.")
@click.option("--last", type=click.Choice(["task", "class"]), help="What has a last layer.")
@click.option("--max-scale", type=click.FloatRange(min=0, min_open=True), help="s_max")
@click.option("--schedule", type=click.Choice(["dgmw", "dgma", "dgmw_imnet", "hat"]), help="Of s.")
@click.option("--normalise", type=click.Choice(["code", "paper"]), help="Of s.")
@click.option("--sparsity-weight", type=_WEIGHT, help="lambda_RU")
@click.option("--alpha", type=click.Choice(["outputs", "weights"]), help="Of lambda_RU: of what.")
@click.option("--penalty-weight", type=_WEIGHT, help="lambda_GP")
@click.option("--classify-fakes", is_flag=True, default=None, help="L_c in the generator's loss.")
@click.option("--compensation", type=click.Choice(["analytic", "reference", "none"]))
@click.option("--embedding-clamp", type=click.FloatRange(min=0, min_open=True))
@click.option("--new-critic/--same-critic", default=None, help="For each task.")
@click.option("--replay-mask", type=click.Choice(["soft", "binary"]))
@click.option(
    "--blocked",
    type=click.Choice(["outputs", "both_ends"]),
    help="Weights that a reserved unit reserves; both_ends is the authors' code.",
)
@click.option("--real-share", type=click.FloatRange(0, 1), help="r, of real samples in the replay.")
@click.option("--real-budget", type=_COUNT, help="K, real samples that are stored in all.")
@out_folder("dgm")
def dgm(
    data: str,
    root: Path,
    variant: Literal["weight", "unit"],
    classes_per_task: int,
    tasks: int | None,
    samples: int | None,
    seed: int,
    device: str,
    threads: int,
    minutes: float,
    out: Path,
    **options: Any,
) -> None:
    """Classes one after another, and images of all of them: dynamic generative memory.

    Prints accuracy, neurons and sizes after each task; the run's folder gets plots of them (figures
    3, 4 and table 4 of the DGM paper), growth.json, and images of all classes. The options are the
    authors' for MNIST unless they are given here: with their 101 epochs of all images, some 700,000
    steps. The folder of --data arrays holds train.npz and test.npz, each with images [N, H, W], [N,
    Ch, H, W] or [N, H, W, Ch] and labels [N].
    """
    require("matplotlib", "matplotlib")
    from .experiments import dgm as experiment

    given = {name: value for name, value in options.items() if value is not None}
    if variant == "weight" and "blocked" in given:
        raise click.UsageError("--blocked is for --variant unit: masks of weights leave no choice")
    try:
        wanted = experiment.OPTIONS[variant](**given)
        train, test = experiment.load(data, root, wanted.size)
        config = dataclasses.replace(
            experiment.DgmExperiment(data=data, variant=variant),
            options=dataclasses.replace(wanted, max_classes=len(train[1].unique())),
            classes_per_task=classes_per_task,
            tasks=tasks,
            samples=samples,
            seed=seed,
            device=device,
            threads=threads,
        )
        table, plots = experiment.run(config, train, test, out, minutes=minutes)
    except (OSError, ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    table.print(Console())
    click.echo(f"Plots: {', '.join(map(str, plots))}\nMetrics: {out / 'metrics.jsonl'}")
