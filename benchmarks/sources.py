"""Which code a result belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# All that a timed call runs through, and what times it.
MEASURED = ("csrc", "clfast/ops", "clfast/_backend.py", "benchmarks", "CMakeLists.txt", "setup.py")
SUFFIXES = {".py", ".cpp", ".h", ".cuh", ".cu", ".txt"}


def digest(root: Path = ROOT, parts: Sequence[str] = MEASURED) -> str:
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
