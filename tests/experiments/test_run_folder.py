"""RunFolder: what is on disk, resuming, and kills at any moment."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clfast._files import atomic_write
from clfast.experiments.run_folder import RunFolder, environment


@dataclasses.dataclass
class Training:
    lr: float = 0.1
    sizes: tuple[int, ...] = (2, 3)


@dataclasses.dataclass
class Config:
    name: str = "demo"
    training: Training = dataclasses.field(default_factory=Training)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_new_folder_describes_its_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "deep" / "run", Config())
    config = json.loads((run.path / "config.json").read_text())
    assert config == run.config == {"name": "demo", "training": {"lr": 0.1, "sizes": [2, 3]}}
    found = json.loads((run.path / "environment.json").read_text())
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__
    assert found["threads"] == torch.get_num_threads()
    assert set(found) == {
        *("python", "clfast", "torch", "numpy", "platform"),
        *("cpu", "simd", "cpu_count", "threads", "gpu", "git_revision"),
    }
    assert run.metrics() == []
    assert run.load_checkpoint() is None


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    assert environment()["git_revision"] is None
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q"], ["add", "file"], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], check=True)
    subprocess.run(["git", *who, "tag", "-am", "v", "v1"], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert environment()["git_revision"] == head.stdout.strip()
    (tmp_path / "file").write_text("two")
    assert environment()["git_revision"] == head.stdout.strip() + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert environment()["git_revision"] is None


def test_the_same_config_resumes(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, Config())
    first.log(step=1, loss=0.5)
    first.save_checkpoint({"w": torch.ones(2)}, 1)
    for same in (Config(), dataclasses.asdict(Config())):
        again = RunFolder(tmp_path, same)
        assert again.metrics() == [{"step": 1, "loss": 0.5}]
        checkpoint = again.load_checkpoint()
        assert checkpoint is not None
        assert checkpoint.step == 1
        assert torch.equal(checkpoint.state["w"], torch.ones(2))


def test_another_config_is_refused_by_its_keys(tmp_path: Path) -> None:
    RunFolder(tmp_path, Config()).log(step=1)
    before = contents(tmp_path)
    other = {"name": "demo", "training": {"lr": 0.2, "sizes": [2, 3]}, "seed": 1}
    message = r"seed is missing there, 1 now; training\.lr is 0\.1 there, 0\.2 now; choose"
    with pytest.raises(ValueError, match=message):
        RunFolder(tmp_path, other)
    with pytest.raises(ValueError, match=r"name is \"demo\" there, missing now"):
        RunFolder(tmp_path, {})
    assert contents(tmp_path) == before


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"is not empty and holds no config\.json"):
        RunFolder(tmp_path, {})
    (tmp_path / "config.json").write_text("lr: 0.1")
    with pytest.raises(ValueError, match=r"config\.json, line 1: not a JSON object"):
        RunFolder(tmp_path, {})
    assert sorted(contents(tmp_path)) == ["config.json", "thesis.txt"]


def test_a_start_cut_short_does_not_block_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".clfast-abc.tmp").mkdir()
    (tmp_path / ".clfast-abc.tmp" / "config.json").write_text('{"na')
    assert RunFolder(tmp_path, {"a": 1}).config == {"a": 1}
    assert not list(tmp_path.glob("*.tmp"))


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    RunFolder(tmp_path, {"a": 1})
    (tmp_path / ".x.1.tmp").write_text("mine")
    (tmp_path / ".y.2.tmp").mkdir()
    (tmp_path / ".clfast-z.tmp").write_text("mine, too")
    RunFolder(tmp_path, {"a": 1})
    assert {entry.name for entry in tmp_path.glob(".*.tmp")} == {
        *(".x.1.tmp", ".y.2.tmp", ".clfast-z.tmp"),
    }


@pytest.mark.parametrize("config", [{"a": object()}, {"a": float("nan")}, [1], Config, "a"])
def test_bad_configs(tmp_path: Path, config: Any) -> None:
    with pytest.raises(TypeError, match="RunFolder: config must be"):
        RunFolder(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_log_writes_one_line_a_call(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    run.log(step=np.int64(1), loss=torch.tensor(0.25), best=None, names=["a\nb"], done=True)
    run.log(**{"acc/new": {"5": np.float32(0.5)}}, loss=float("nan"))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    first, second = run.metrics()
    assert first == {"step": 1, "loss": 0.25, "best": None, "names": ["a\nb"], "done": True}
    assert second["acc/new"] == {"5": 0.5}
    assert np.isnan(second["loss"])


def test_bad_metrics_write_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    with pytest.raises(ValueError, match=r"RunFolder\.log: no metrics"):
        run.log()
    for value in (torch.zeros(2), np.zeros(2), object(), {1, 2}, torch.tensor(1j)):
        with pytest.raises(TypeError, match=r"RunFolder\.log: loss: "):
            run.log(step=1, loss=value)
    assert run.metrics() == []


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    run.log(step=1)
    run.log(step=2)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        assert len(run.metrics()) == kept
        resumed = RunFolder(tmp_path, {})
        assert path.read_bytes() == whole[: whole[:cut].rfind(b"\n") + 1]
        resumed.log(step=9)
        assert [line["step"] for line in resumed.metrics()] == [*range(1, kept + 1), 9]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not a JSON object"):
        run.metrics()


def test_checkpoints_keep_everything_a_run_needs(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(3)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "best": (0.5, None, [1, "two", True]),
    }
    RunFolder(tmp_path, {}).save_checkpoint(state, 12)
    checkpoint = RunFolder(tmp_path, {}).load_checkpoint()
    assert checkpoint is not None
    step, read = checkpoint
    assert step == 12
    assert read["best"] == state["best"]
    assert torch.equal(read["generator"], generator.get_state())
    assert torch.equal(read["model"]["weight"], model.weight)
    twin = torch.optim.Adam(model.parameters())
    twin.load_state_dict(read["optimizer"])
    assert torch.equal(
        twin.state[model.weight]["exp_avg"], optimizer.state[model.weight]["exp_avg"]
    )


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {}, keep_checkpoints=3)
    for step in (0, 5, 5, 40, 1_000_000_000, 1_000_000_001):
        run.save_checkpoint({"step": step}, step)
        assert run.load_checkpoint() == (step, {"step": step})
    (tmp_path / "checkpoints" / "step-best.pt").write_bytes(b"a copy of the user's")
    assert run._saved_steps() == [40, 1_000_000_000, 1_000_000_001]
    for step in (41, -1):
        with pytest.raises(ValueError, match="step must be at least 1000000001"):
            run.save_checkpoint({}, step)
    for wrong in (1e9, "2"):
        with pytest.raises(TypeError, match="step must be an integer"):
            run.save_checkpoint({}, wrong)
    with pytest.raises(ValueError, match="keep_checkpoints must be at least 1, got 0"):
        RunFolder(tmp_path, {}, keep_checkpoints=0)


@pytest.mark.parametrize(
    "state", [{"model": torch.nn.Linear(2, 2)}, {"f": lambda: 0}, {"c": Config()}]
)
def test_a_state_that_could_not_be_read_back_is_refused(tmp_path: Path, state: Any) -> None:
    run = RunFolder(tmp_path, {}, keep_checkpoints=1)
    run.save_checkpoint({"w": 1}, 1)
    before = contents(tmp_path)
    with pytest.raises(TypeError, match="state must hold only tensors, numbers, text"):
        run.save_checkpoint(state, 2)
    assert contents(tmp_path) == before


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    run.save_checkpoint({"w": torch.zeros(100)}, 1)
    path = run.save_checkpoint({"w": torch.ones(100)}, 2)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"step-000000002\.pt cannot be read"):
        run.load_checkpoint()
    path.unlink()
    assert run.load_checkpoint() is not None


def test_atomic_write_leaves_the_old_file_when_anything_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a"
    with atomic_write(target) as file:
        file.write(b"old")
        assert not target.exists()

    def fail_in_the_block() -> None:
        with atomic_write(target) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_in_the_block()
    assert contents(tmp_path) == {"a": b"old"}

    def no_space(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"), atomic_write(target) as file:
        file.write(b"new")
    assert contents(tmp_path) == {"a": b"old"}


KILLED = """
import itertools, sys, torch
from clfast.experiments.run_folder import RunFolder
run = RunFolder(sys.argv[1], {"a": 1})
checkpoint = run.load_checkpoint()
for step in itertools.count(checkpoint.step + 1 if checkpoint else 0):
    run.log(step=step, text="x" * 2000)
    run.save_checkpoint({"step": step, "w": torch.full((5000,), float(step))}, step)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_kill_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    last = -1
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, env=env
        ) as child:
            assert child.stdout is not None
            steps = [int(child.stdout.readline()) for _ in range(5)]
            child.kill()
        assert steps[0] > last
        run = RunFolder(tmp_path, {"a": 1})
        checkpoint = run.load_checkpoint()
        assert checkpoint is not None
        last, state = checkpoint
        assert last >= steps[-1]
        assert state["step"] == last
        assert torch.equal(state["w"], torch.full((5000,), float(last)))
        assert {line["step"] for line in run.metrics()} >= set(range(last + 1))
        assert not list((tmp_path / "checkpoints").glob(".*"))


def test_arguments_of_a_wrong_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="RunFolder: path must be a str or a Path, got NoneType"):
        RunFolder(None, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="RunFolder: keep_checkpoints must be an integer, got str"):
        RunFolder(tmp_path, {}, keep_checkpoints="2")  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"RunFolder: .*file is a file, not a folder"):
        RunFolder(tmp_path / "file", {})
    folder = RunFolder(tmp_path / "run", {})
    with pytest.raises(TypeError, match="save_checkpoint: step must be an integer, got bool"):
        folder.save_checkpoint({}, step=True)
    assert folder.save_checkpoint({}, step=np.int64(3)).exists()
