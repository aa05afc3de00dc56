"""Run folders: the configuration, environment, metrics and checkpoints of one run on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import _arguments
from .._files import atomic_write, leftovers, write_text


class Checkpoint(NamedTuple):
    """What was saved, and the step it was saved at."""

    step: int
    state: Any


class RunFolder:
    """A folder that one run at a time writes to, and that survives a kill at any moment.

    * `config.json`: `config`, a dataclass or a mapping of what JSON can hold;
    * `environment.json`: versions, machine and git revision of the session that came last;
    * `metrics.jsonl`: one JSON object a line, see `log`;
    * `checkpoints/`: the last `keep_checkpoints` states, see `save_checkpoint`.

    A new or empty folder starts a run. A folder with the same configuration resumes: the metrics
    stay, less a last line that a kill cut short. Any other folder raises ValueError, which names
    the keys that differ, and is left alone.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: Mapping[str, Any] | object,
        *,
        keep_checkpoints: int = 2,
    ) -> None:
        keep = _arguments.integer(keep_checkpoints, "keep_checkpoints", "RunFolder", least=1)
        self.path = _arguments.path(path, "RunFolder")
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"RunFolder: {self.path} is a file, not a folder")
        self.config = _as_json_object(config)
        self._keep_checkpoints = keep
        if self._is_new():
            self.path.mkdir(parents=True, exist_ok=True)
            _write_json(self.path / "config.json", self.config)
        self._checkpoints.mkdir(exist_ok=True)
        for leftover in leftovers(self.path) + leftovers(self._checkpoints):
            shutil.rmtree(leftover)
        _write_json(self.path / "environment.json", environment())
        self._drop_torn_line()

    def log(self, **metrics: Any) -> None:
        """Append `metrics` to metrics.jsonl as one line, out of this process before it returns.

        Values are numbers, text, None, containers of these, or tensors and arrays of one element;
        else TypeError. NaN and infinities are written as Python's json writes them. What a resumed
        run does again after its checkpoint it logs again: the last line of a step counts.
        """
        fields = []
        for name, value in metrics.items():
            try:
                fields.append(f"{json.dumps(name)}: {json.dumps(value, default=_scalar)}")
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(f"RunFolder.log: {name}: {error}") from None
        if not fields:
            raise ValueError("RunFolder.log: no metrics were given")
        with self._metrics.open("ab") as file:
            file.write(f"{{{', '.join(fields)}}}\n".encode())

    def metrics(self) -> list[dict[str, Any]]:
        """Everything logged so far; ValueError for a line that is not a JSON object."""
        if not self._metrics.exists():
            return []
        # What follows the last newline is a line that a kill cut short.
        *lines, _ = self._metrics.read_bytes().split(b"\n")
        return [_parsed(line, self._metrics, n) for n, line in enumerate(lines, 1)]

    def save_checkpoint(self, state: Any, step: int) -> Path:
        """Write `state` so that a kill leaves the checkpoints of before, or this one, whole.

        `state` holds tensors, numbers, text and containers of these, as a `state_dict` does;
        anything else is a TypeError now rather than when it is needed. `step` may not be smaller
        than that of the last checkpoint; an equal one replaces it.
        """
        last = max(self._saved_steps(), default=0)
        step = _arguments.integer(step, "step", "RunFolder.save_checkpoint", least=last)
        target = self._checkpoint_path(step)
        with atomic_write(target) as file:
            try:
                torch.save(state, file)
                file.flush()
                # Safe loading runs no code from the file; mmap leaves the tensors on disk.
                torch.load(file.name, map_location="cpu", weights_only=True, mmap=True)
            except OSError:
                raise
            except Exception as error:
                raise TypeError(
                    "RunFolder.save_checkpoint: state must hold only tensors, numbers, text and "
                    f"containers of these: {error}"
                ) from error
        for old in self._saved_steps()[: -self._keep_checkpoints]:
            self._checkpoint_path(old).unlink()
        return target

    def load_checkpoint(self, map_location: torch.device | str = "cpu") -> Checkpoint | None:
        """The last checkpoint, its tensors on `map_location`; None where there is none.

        ValueError for a file that cannot be read; delete it to go on from the one before.
        """
        saved = self._saved_steps()
        if not saved:
            return None
        path = self._checkpoint_path(saved[-1])
        try:
            state = torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:
            raise ValueError(
                f"RunFolder.load_checkpoint: {path} cannot be read: {error}"
            ) from error
        return Checkpoint(saved[-1], state)

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _checkpoint_path(self, step: int) -> Path:
        return self._checkpoints / f"step-{step:09d}.pt"

    def _saved_steps(self) -> list[int]:
        numbers = (path.stem[5:] for path in self._checkpoints.glob("step-*.pt"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def _is_new(self) -> bool:
        config_path = self.path / "config.json"
        if config_path.exists():
            there = _parsed(config_path.read_bytes(), config_path)
            if found := _differences(there, self.config):
                raise ValueError(
                    f"RunFolder: {self.path} holds a run of another config: {'; '.join(found)}; "
                    "choose another folder"
                )
            return False
        # A start that was killed may have left what was to become its configuration.
        entries = set(self.path.iterdir()) if self.path.exists() else set()
        if entries - set(leftovers(self.path)):
            raise ValueError(f"RunFolder: {self.path} is not empty and holds no config.json")
        return True

    def _drop_torn_line(self) -> None:
        if self._metrics.exists():
            whole = self._metrics.read_bytes().rfind(b"\n") + 1
            os.truncate(self._metrics, whole)


def data_digest(*tensors: torch.Tensor) -> str:
    """Of shapes and values. In the configuration of a run it makes its folder that of a run on the
    same data alone."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(list(tensor.shape)).encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


# What `CLFAST_SIMD` may say, and what the compiled library numbers.
SIMD_LEVELS = ("base", "avx2", "avx512", "avx512_bf16", "amx")


def environment() -> dict[str, Any]:
    """What a result depends on besides its configuration; None for what cannot be found out."""
    return {
        "python": platform.python_version(),
        "clfast": _version("clfast"),
        "torch": torch.__version__,  # with +cpu or +cu130, which a wheel's metadata may leave out
        "numpy": _version("numpy"),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "simd": SIMD_LEVELS[int(torch.ops.clfast.simd_level())],
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_revision": _git_revision(),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _git_revision() -> str | None:
    """The commit checked out in the current directory, with "-dirty" when files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _as_json_object(config: Mapping[str, Any] | object) -> dict[str, Any]:
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    if not isinstance(config, Mapping):
        raise TypeError(
            f"RunFolder: config must be a dataclass or a mapping, got {type(config).__name__}"
        )
    try:
        # There and back, so that tuples and number keys compare equal to what is on disk.
        plain: dict[str, Any] = json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"RunFolder: config must be what JSON can hold: {error}") from None
    return plain


def _differences(there: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted(there.keys() | now.keys()):
        if isinstance(there.get(key), dict) and isinstance(now.get(key), dict):
            found += _differences(there[key], now[key], f"{prefix}{key}.")
            continue
        old, new = (json.dumps(side[key]) if key in side else "missing" for side in (there, now))
        if old != new:
            found.append(f"{prefix}{key} is {old} there, {new} now")
    return found


def _scalar(value: Any) -> Any:
    if not hasattr(value, "item"):
        raise TypeError(f"JSON cannot hold a {type(value).__name__}")
    return value.item()


def _parsed(text: bytes, path: Path, line: int = 1) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"RunFolder: {path}, line {line}: not a JSON object")
    return value


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
