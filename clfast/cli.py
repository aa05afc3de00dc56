"""The command line: ``info`` for bug reports, ``demo`` for a first look, ``run`` and others for the
papers' experiments, ``bench`` for times."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

from . import __version__
from ._library import cuda_library_loaded
from .cli_dgm import dgm
from .cli_mnemonics import mnemonics
from .cli_options import ROOT, SEEDS, THREADS, out_folder, require
from .experiments.run_folder import SIMD_LEVELS, environment
from .ops.adaptation import Optimizer

# Distributions that the extras bring.
_OPTIONAL = ("scikit-learn", "matplotlib", "faiss-cpu", "faiss-gpu", "pytest", "pytest-benchmark")


@click.group(invoke_without_command=True)
@click.version_option(__version__, prog_name="clfast")
@click.pass_context
def main(context: click.Context) -> None:
    """Continual-learning methods at hardware speed. Without a command: info."""
    if context.invoked_subcommand is None:
        context.invoke(info)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool = False) -> None:
    """What is installed and in use, for a bug report."""
    facts = _facts()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            value = [f"{key} {entry or 'not installed'}" for key, entry in value.items()]
        if isinstance(value, list):
            value = ", ".join(value)
        click.echo(f"{name.replace('_', ' '):12} {'none' if value is None else value}")


@main.command()
@click.option(
    "--data",
    type=click.Choice(["digits", "mnist"]),
    default="digits",
    show_default=True,
    help="scikit-learn's digits, about a minute; or MNIST, a few minutes.",
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder with the four MNIST files.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The run's folder; a run that was cut short goes on.  [default: runs/demo-DATA-TIME]",
)
@click.option(
    "--chunk",
    type=click.IntRange(min=1),
    help="Samples that are predicted before any of them is learnt.  [default: 10; mnist: 100]",
)
@click.option("--tune", is_flag=True, help="Choose the hyper-parameters again first: minutes.")
def demo(
    data: str, root: Path | None, seeds: int, out: Path | None, chunk: int | None, tune: bool
) -> None:
    """Online adaptation to new classes on real images (section 4.3 of the Hebb paper, in small).

    Prints a table of Parametric, Mixture, MbPA and Hebb: accuracy on new, old and all classes, and
    the time of clfast beside that of a plain PyTorch loop over the queries. The run's folder gets
    the configuration, the metrics and a plot.
    """
    if data == "mnist" and root is None:
        raise click.UsageError("--data mnist needs --root, the folder with the four MNIST files")
    if data != "mnist" and root is not None:
        raise click.UsageError("--root is for --data mnist: the digits come with scikit-learn")
    require("matplotlib", "matplotlib")
    if data == "digits":
        require("sklearn", "scikit-learn")
    # Only now: the rest of the command line should not wait for these.
    from .experiments import online_adaptation, online_report, online_tuning
    from .experiments.images import load_images

    try:
        images = load_images(data, root)
        config = dataclasses.replace(online_adaptation.PRESETS[data], seeds=seeds)
        config = dataclasses.replace(config, chunk=chunk or config.chunk)
        if tune:
            config = online_tuning.tune(config, images)
            click.echo(f"Tuned: {config}")
        path = out or Path("runs", f"demo-{data}-{time.strftime('%Y%m%d-%H%M%S')}")
        table, plot = online_report.run(config, images, path)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    table.print(Console())
    click.echo(f"Plot: {plot}\nMetrics: {path / 'metrics.jsonl'}")


@main.command()
@ROOT
@SEEDS
@THREADS
@click.option("--tasks", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Of MbPA's steps.")
@click.option(
    "--optimizer",
    type=click.Choice(["rmsprop", "rmsprop_tf", "sgd"]),
    default="rmsprop",
    show_default=True,
    help="Of MbPA's steps.",
)
@click.option("--ewc-strength", type=click.FloatRange(min=0), default=1e3, show_default=True)
@click.option("--without-memory", is_flag=True, help="MLP and EWC alone, in a few minutes a seed.")
@out_folder("permuted-mnist")
def permuted_mnist(
    root: Path,
    seeds: int,
    threads: int,
    tasks: int,
    epochs: int,
    lr: float,
    optimizer: Optimizer,
    ewc_strength: float,
    without_memory: bool,
    out: Path,
) -> None:
    """Continual learning of permuted MNIST (section 4.1 of the Hebb paper, in small).

    Prints and plots the accuracy of a network, EWC, MbPA and Hebb on all tasks so far, as figure 2
    does. About half an hour on two cores.
    """
    require("matplotlib", "matplotlib")
    from .experiments import permuted_mnist as experiment
    from .experiments.images import load_images

    config = experiment.PermutedMnist(
        seeds=seeds,
        threads=threads,
        tasks=tasks,
        epochs=epochs,
        lr=lr,
        optimizer=optimizer,
        ewc_strength=ewc_strength,
    )
    if without_memory:
        config = dataclasses.replace(config, stored=())
    evaluated = tuple(sorted({min(number, tasks) for number in config.evaluated}))
    config = dataclasses.replace(config, evaluated=evaluated)
    try:
        table, plot = experiment.run(config, load_images("mnist", root), out)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    table.print(Console())
    click.echo(f"Plot: {plot}\nMetrics: {out / 'metrics.jsonl'}")


@main.command()
@ROOT
@SEEDS
@THREADS
@click.option("--tune", is_flag=True, help="Choose the hyper-parameters again first.")
@click.option(
    "--old-stored",
    type=click.IntRange(1),
    help="The online stream alone, with so many samples of each old class in the memory at first.",
)
@out_folder("cifar")
def cifar(
    root: Path, seeds: int, threads: int, tune: bool, old_stored: int | None, out: Path
) -> None:
    """Online and incremental learning of CIFAR-100's other half (sections 4.2 and 4.3, in small).

    Prints the tables of Parametric, Mixture, MbPA and Hebb, balanced and imbalanced, on features of
    a small network trained on 50 classes. The folder holds cifar-100-python, or cifar100_train.npz
    and cifar100_test.npz, each with images [N, 32, 32, 3] and labels [N].
    """
    require("matplotlib", "matplotlib")
    from .experiments import cifar_adaptation as experiment
    from .streams import load_cifar100

    config = experiment.CifarAdaptation(seeds=seeds, threads=threads, old_stored=old_stored)
    if old_stored is not None:
        config = dataclasses.replace(config, ratios=())
    try:
        train, test = load_cifar100(root)
        if tune:
            config = experiment.tune(config, train, test)
            click.echo(f"Tuned: {config}")
        tables, plots = experiment.run(config, train, test, out)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    for table in tables:
        table.print(Console())
    click.echo(f"Plots: {', '.join(map(str, plots))}\nMetrics: {out / 'metrics.jsonl'}")


_REPOSITORY = Path(__file__).resolve().parents[1]


# Without a --help of its own: that of the benchmarks tells more.
@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def bench(context: click.Context, options: tuple[str, ...]) -> None:
    """Times ops and methods beside their rivals, in a checkout of clfast.

    The same as `python -m benchmarks.run` there, with its options.
    """
    if not (_REPOSITORY / "benchmarks" / "run.py").exists():
        raise click.ClickException(
            "the benchmarks are not part of the installed package: clone clfast's repository, and "
            "in it call `make bench`, or `pip install -e .` and `clfast bench`"
        )
    paths = [str(_REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    context.exit(done.returncode)


_SPLIT = ["HAT", "HAT, soft masks", "SGD"]
_SEQUENTIAL = ["ARM", "ADI", "LwF", "SGD", "ER", "ER-MIR", "A-GEM", "GEM", "iCaRL"]


@main.group()
def run() -> None:
    """Experiments of the papers, by family."""


run.add_command(dgm)
run.add_command(mnemonics)


@run.command()
@click.option(
    "--data", type=click.Choice(["mnist", "cifar100"]), default="mnist", show_default=True
)
@ROOT
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@THREADS
@click.option("--method", "methods", multiple=True, type=click.Choice(_SEQUENTIAL))
@click.option("--memory", type=click.IntRange(min=5), help="Images that ER, GEM and others store.")
@click.option("--icarl-steps", type=click.IntRange(min=1), help="Of iCaRL on each batch.")
@click.option("--batches", type=click.IntRange(min=1), help="Of each task at most.")
@click.option("--images", type=click.IntRange(min=1), help="M, recalled in each step.")
@click.option("--steps", type=click.IntRange(min=1), help="S, of gradient descent on them.")
@click.option("--divergence", type=click.Choice(["ag", "js", "ce"]))
@click.option("--not-local-old", type=float, help="lambda 1")
@click.option("--not-local-new", type=float, help="lambda 2")
@click.option("--diversity", type=float, help="lambda 3")
@click.option("--sharpness", type=float, help="lambda 4")
@click.option("--l2-weight", type=float, help="lambda 5")
@click.option("--tv-weight", type=float, help="lambda 6")
@click.option("--repeats", type=click.IntRange(min=1), help="Recall and replay so often a batch.")
@click.option("--start", type=click.Choice(["batch", "noise"]), help="Of recalled images.")
@click.option("--save-recall", is_flag=True, help="Pictures of recalled images of the first seed.")
@out_folder("arm")
def arm(
    data: str,
    root: Path,
    seeds: int,
    threads: int,
    methods: tuple[str, ...],
    memory: int | None,
    icarl_steps: int | None,
    batches: int | None,
    repeats: int | None,
    save_recall: bool,
    out: Path,
    **recall: Any,
) -> None:
    """Five tasks of two classes, seen once: ARM and what it is compared to.

    Sequential MNIST-5k-5 (table 6 of the ARM paper), or ten classes of CIFAR-100 for the ResNet-18
    of table 1. Prints accuracy and forgetting after five tasks, and in how many seeds a method
    diverged. The options of ARM are those of the authors unless they are given here, as for
    ablations; ADI goes by those that it shares with ARM. On MNIST a minute a seed; on CIFAR hours
    for ADI and ten minutes for ARM.
    """
    require("matplotlib", "matplotlib")
    from .experiments import sequential_tasks as experiment

    config = experiment.CONFIGS[data]
    given = {name: value for name, value in recall.items() if value is not None}
    config = dataclasses.replace(
        config,
        recall=dataclasses.replace(config.recall, **given),
        methods=methods or config.methods,
        memory=memory or config.memory,
        icarl_steps=icarl_steps or config.icarl_steps,
        batches=batches,
        repeats=repeats or config.repeats,
        seeds=seeds,
        threads=threads,
    )
    asked = {
        **given,
        "memory": memory,
        "icarl_steps": icarl_steps,
        "repeats": repeats,
        "save_recall": save_recall or None,
    }
    for option, users in experiment.USED_BY.items():
        if asked.get(option) is not None and not set(users) & set(config.methods):
            raise click.UsageError(
                f"--{option.replace('_', '-')} means nothing to {', '.join(config.methods)}: "
                f"it is an option of {', '.join(users)}"
            )
    try:
        train, test = experiment.load(data, root)
        table, plot = experiment.run(config, train, test, out, save_recall=save_recall)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    table.print(Console())
    if plot is not None:
        click.echo(f"Plot: {plot}")
    click.echo(f"Metrics: {out / 'metrics.jsonl'}")


@run.command()
@click.option("--data", type=click.Choice(["mnist"]), default="mnist", show_default=True)
@ROOT
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@THREADS
@click.option("--method", "methods", multiple=True, type=click.Choice(_SPLIT))
@click.option("--width", type=click.IntRange(min=1), help="Units of both hidden layers.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of each task.")
@click.option("--lr", type=click.FloatRange(min=0), help="Of SGD.")
@click.option("--sparsity", type=click.FloatRange(min=0), help="lambda")
@click.option("--max-scale", type=click.FloatRange(min=0, min_open=True), help="s_max")
@click.option("--samples", type=click.IntRange(min=1), help="Of each digit at most.")
@out_folder("hat")
def hat(
    data: str,
    root: Path,
    methods: tuple[str, ...],
    width: int | None,
    out: Path,
    **options: Any,
) -> None:
    """Split MNIST with a head for every task: HAT, and plain training of the same network.

    Five tasks of two digits. Prints accuracy and forgetting after five tasks, how many outputs for
    test images have changed since their task ended, and the units that tasks use. A few minutes a
    seed.
    """
    require("matplotlib", "matplotlib")
    from .experiments import split_hat as experiment

    config = experiment.SplitHAT()
    given = {name: value for name, value in options.items() if value is not None}
    config = dataclasses.replace(
        config,
        methods=methods or config.methods,
        widths=(width, width) if width else config.widths,
        **given,
    )
    try:
        tables, plots = experiment.run(config, *experiment.load(root), out)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    for table in tables:
        table.print(Console())
    click.echo(f"Plots: {', '.join(map(str, plots))}\nMetrics: {out / 'metrics.jsonl'}")


def _facts() -> dict[str, Any]:
    here = environment()
    level = int(torch.ops.clfast.simd_level())
    libraries = ["_C.so", *(["_C_cuda.so"] if cuda_library_loaded() else [])]
    return {
        "clfast": here["clfast"],
        "python": here["python"],
        "torch": here["torch"],
        "numpy": here["numpy"],
        "platform": here["platform"],
        "cpu": here["cpu"],
        "cpus": here["cpu_count"],
        "threads": here["threads"],
        "gpu": here["gpu"],
        "libraries": libraries,
        "build": _text_of("build_info"),
        "cuda_build": _text_of("cuda_build_info") if cuda_library_loaded() else None,
        "simd_in_use": here["simd"],
        "simd_best": SIMD_LEVELS[_best_simd_level(level)],
        "extras": {name: _installed(name) for name in _OPTIONAL},
    }


def _text_of(op: str) -> str | None:
    """What a compiled library says of itself; None from one that does not."""
    function = getattr(torch.ops.clfast, op, None)
    return function() if function else None


def _best_simd_level(current: int) -> int:
    """What this processor can do: levels above are lowered to it."""
    torch.ops.clfast.set_simd_level(len(SIMD_LEVELS) - 1)
    best = int(torch.ops.clfast.simd_level())
    torch.ops.clfast.set_simd_level(current)
    return best


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
