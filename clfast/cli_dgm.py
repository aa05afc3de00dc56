"""``clfast run dgm``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .cli_options import ROOT, THREADS, out_folder, require, tell

_METHODS = ["dgmw", "dgma", "dgr", "mergan", "mergan-ra", "ewc", "joint", "none"]
_VARIANTS = {"weight": "dgmw", "unit": "dgma"}
_COUNT = click.IntRange(min=1)
_WEIGHT = click.FloatRange(min=0)


@click.command()
@click.option("--data", type=click.Choice(["mnist", "arrays"]), default="mnist", show_default=True)
@ROOT
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(_METHODS),
    help="May be given several times.  [default: dgmw]",
)
@click.option(
    "--variant",
    type=click.Choice(list(_VARIANTS)),
    help="Masks of weights, --method dgmw, or of units, --method dgma.",
)
@click.option("--classes-per-task", type=_COUNT, default=1, show_default=True)
@click.option("--tasks", type=_COUNT, help="At most.  [default: all classes]")
@click.option("--samples", type=_COUNT, help="Training images of each class at most.")
@click.option(
    "--validation",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Images of each class held out to find the best epoch, which is told besides.",
)
@click.option("--seeds", type=_COUNT, default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@THREADS
@click.option("--minutes", type=_WEIGHT, default=10.0, show_default=True, help="Of a checkpoint.")
@click.option("--epochs", type=_COUNT, help="Of each task.")
@click.option("--batch", type=_COUNT)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Of Adam.")
@click.option("--width", type=_COUNT, help="g: the generator begins with 4 g, 2 g, g outputs.")
@click.option("--noise", type=_COUNT, help="Length of z; in DGM at least the number of classes.")
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
@click.option(
    "--classifier-epochs",
    type=click.IntRange(min=0),
    help="In which generated images alone teach a classifier, when a task ends.",
)
@click.option(
    "--recompute-statistics",
    is_flag=True,
    default=None,
    help="Batch normalisation's, of the critic when a task ends.",
)
@click.option("--critic-steps", type=_COUNT, help="For each of the generator.")
@click.option("--alignment-weight", type=_WEIGHT, help="Of MeRGAN's alignment.")
@click.option("--strength", type=_WEIGHT, help="lambda of EWC")
@click.option("--fisher-samples", type=_COUNT, help="Of each class, for EWC.")
@out_folder("dgm")
def dgm(
    data: str,
    root: Path,
    methods: tuple[str, ...],
    variant: str | None,
    classes_per_task: int,
    tasks: int | None,
    samples: int | None,
    validation: int,
    seeds: int,
    device: str,
    threads: int,
    minutes: float,
    out: Path,
    **options: Any,
) -> None:
    """Classes one after another, and images of all of them: dynamic generative memory.

    Or what it is compared to (table 1 of the DGM paper): dgmw and dgma; DGR (dgr); MeRGAN by joint
    retraining (mergan) or replay alignment (mergan-ra); EWC in the generator (ewc); joint training
    on real samples (joint) and no replay (none), the bounds.

    Each method and seed has a folder of its own in that of --out, with plots of it (figures 3, 4
    and table 4), growth.json, and images of all classes; a run that was cut short goes on. Prints
    accuracy, neurons and sizes after each task, and at the end all methods side by side, with plots
    of that and comparison.json.

    The options are the authors' for MNIST unless they are given here, to all methods that have
    them: with the 101 epochs of DGM and all images, some 700,000 steps. The folder of --data arrays
    holds train.npz and test.npz, each with images [N, H, W], [N, Ch, H, W] or [N, H, W, Ch] and
    labels [N].
    """
    require("matplotlib", "matplotlib")
    from .experiments import dgm as experiment
    from .experiments.dgm_comparison import compare
    from .methods.generative_options import ClassifierOptions

    if variant is not None and methods:
        raise click.UsageError("--variant says which --method there is: give one of them")
    chosen = list(dict.fromkeys(methods)) or [_VARIANTS[variant or "weight"]]
    given = {name: value for name, value in options.items() if value is not None}
    shared = experiment.DgmExperiment(
        data=data,
        classes_per_task=classes_per_task,
        tasks=tasks,
        samples=samples,
        validation=validation,
        device=device,
        threads=threads,
    )
    for option in given:
        users = [name for name in _METHODS if experiment.METHODS[name].has(option)]
        if not set(users) & set(chosen):
            raise click.UsageError(
                f"--{option.replace('_', '-')} means nothing to {', '.join(chosen)}: it is an "
                f"option of {', '.join(users)}"
            )
    console = Console()
    try:
        size = given.get("size", ClassifierOptions.size)
        train, test = experiment.load(data, root, size)
        given["max_classes"] = len(train[1].unique())
        runs = [shared.for_method(name, seed, given) for name in chosen for seed in range(seeds)]
        found = compare(
            runs, train, test, out, minutes=minutes, ended=lambda table: table.print(console)
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    tell(found, out, console)
