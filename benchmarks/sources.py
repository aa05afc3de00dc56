"""Which code a result belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from .families import IMPORTANCE, INDEX, OBSERVE, ONLINE, PLUGINS, REPLAY, SCALING

ROOT = Path(__file__).resolve().parents[1]
MADE_OF = ("csrc", "clfast", "benchmarks", "CMakeLists.txt", "setup.py")
# What a timed call runs through, what it is compared with, and what times it; and the cases.
_TIMED = (
    *("csrc", "clfast/ops", "clfast/_backend.py", "CMakeLists.txt", "setup.py"),
    *("benchmarks/case.py", "benchmarks/harness.py", "benchmarks/machine.py"),
    *("benchmarks/worker.py", "benchmarks/bystanders.py"),
    *("benchmarks/oracle.py", "benchmarks/opponents", "benchmarks/families/_adaptation_inputs.py"),
)
# Families that take cases or inputs of others, or of modules that they share.
_TAKES = {
    SCALING: ("retrieval", "adaptation"),
    INDEX: ("retrieval",),
    OBSERVE: ("_bilevel_step", "_chains", "_dgm_iteration"),
    PLUGINS: ("consolidation",),
    "exemplars": ("_exemplar_losses", "_herding", "_softmax_descent"),
    "masks": ("_masked_networks", "_kept_masks"),
    "optimizers": ("_masked_networks",),
}
_METHODS = (
    *("clfast/memory", "clfast/methods", "clfast/nn", "clfast/_modes.py"),
    "clfast/experiments/naive.py",
)
_PARTS = {
    ONLINE: _METHODS,
    INDEX: _METHODS,
    OBSERVE: (*_METHODS, "clfast/optim", "benchmarks/baselines", "benchmarks/memory.py"),
    "optimizers": ("clfast/optim",),
    IMPORTANCE: ("clfast/_modes.py", "clfast/nn/resnet.py", "benchmarks/memory.py"),
    PLUGINS: ("clfast/plugins",),
    REPLAY: ("clfast/memory",),
}
SUFFIXES = {".py", ".cpp", ".h", ".cuh", ".cu", ".txt"}


def timed(families: Sequence[str]) -> list[str]:
    """The parts that the times of these families depend on."""
    found = [*_TIMED]
    for family in families:
        found += [f"benchmarks/families/{name}.py" for name in (family, *_TAKES.get(family, ()))]
        found += _PARTS.get(family, ())
    return list(dict.fromkeys(found))


def digest(root: Path = ROOT, parts: Sequence[str] = MADE_OF) -> str:
    """Of the names and contents of the source files under these parts of the tree.

    Of the sources and not of the libraries, which differ from build to build.
    """
    total = hashlib.sha256()
    for part in parts:
        path = root / part
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in SUFFIXES and file.is_file():
                total.update(f"{file.relative_to(root)}\0".encode())
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]
