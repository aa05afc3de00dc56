"""The command line."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import clfast
from clfast.cli import main
from clfast.experiments import online_adaptation


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_info_as_json() -> None:
    level = torch.ops.clfast.simd_level()
    found = call("info", "--json")
    assert found.exit_code == 0
    facts = json.loads(found.stdout)
    assert facts["clfast"] == clfast.__version__
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["libraries"][0] == "_C.so"
    assert ("_C_cuda.so" in facts["libraries"]) == (facts["cuda_build"] is not None)
    levels = ["base", "avx2", "avx512", "avx512_bf16", "amx"]
    assert facts["simd_in_use"] == levels[level]
    assert levels.index(facts["simd_best"]) >= level
    assert torch.ops.clfast.simd_level() == level
    assert facts["extras"]["pytest"] == pytest.__version__


def test_the_best_level_is_told_apart_from_the_one_in_use() -> None:
    level = torch.ops.clfast.simd_level()
    torch.ops.clfast.set_simd_level(0)
    try:
        facts = json.loads(call("info", "--json").stdout)
        assert torch.ops.clfast.simd_level() == 0
    finally:
        torch.ops.clfast.set_simd_level(level)
    assert facts["simd_in_use"] == "base"
    assert facts["simd_best"] == json.loads(call("info", "--json").stdout)["simd_best"]


def test_info_as_text_is_what_no_command_prints() -> None:
    lines = call("info").stdout.splitlines()
    assert lines[0].split() == ["clfast", clfast.__version__]
    assert any(line.startswith("simd in use") for line in lines)
    assert call().stdout.splitlines() == lines


def test_version_and_help() -> None:
    assert call("--version").stdout == f"clfast, version {clfast.__version__}\n"
    assert "demo" in call("--help").stdout


def test_python_m_clfast() -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "clfast", "info", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    assert json.loads(done.stdout)["clfast"] == clfast.__version__


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    small = replace(online_adaptation.DIGITS, chunk=50, pretrain_epochs=1, timed_chunks=1, dim=8)
    monkeypatch.setitem(online_adaptation.PRESETS, "digits", small)
    done = call("demo", "--seeds", "2", "--out", str(tmp_path / "run"))
    assert done.exit_code == 0, done.output
    for method in ("Parametric", "Mixture", "MbPA", "Hebb"):
        assert f"| {method} |" in done.stdout
    assert "2 seeds" in done.stdout
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "run" / "new_classes.png").exists()

    monkeypatch.chdir(tmp_path)
    assert call("demo", "--seeds", "1").exit_code == 0
    [folder] = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("demo-digits-")

    other = call("demo", "--seeds", "3", "--out", str(tmp_path / "run"))
    assert other.exit_code == 1
    assert "Error: RunFolder: " in other.output
    assert "seeds is 2 there, 3 now; choose another folder" in other.output


def test_options_reach_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    from clfast.experiments import images, online_report, permuted_mnist

    seen: list[Any] = []

    def keep(config: Any, *others: Any) -> Any:
        seen.append(config)
        raise ValueError("kept")

    monkeypatch.setattr(online_report, "run", keep)
    monkeypatch.setattr(permuted_mnist, "run", keep)
    monkeypatch.setattr(images, "load_images", lambda *_: None)
    for arguments in (
        ["demo", "--chunk", "7"],
        ["demo"],
        ["permuted-mnist", "--root", str(tmp_path), "--lr", "0.05", "--optimizer", "rmsprop_tf"],
        ["permuted-mnist", "--root", str(tmp_path), "--ewc-strength", "30", "--without-memory"],
    ):
        assert call(*arguments).output.endswith("Error: kept\n")
    assert seen[0] == replace(online_adaptation.DIGITS, chunk=7)
    assert seen[1] == online_adaptation.DIGITS
    assert seen[2] == permuted_mnist.PermutedMnist(lr=0.05, optimizer="rmsprop_tf")
    assert seen[3] == permuted_mnist.PermutedMnist(ewc_strength=30.0, stored=())


@pytest.mark.parametrize(
    ("module", "package"), [("matplotlib", "matplotlib"), ("sklearn", "scikit-learn")]
)
def test_demo_names_the_package_that_is_missing(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec

    def without(name: str, parent: str | None = None) -> Any:
        return None if name == module else find_spec(name, parent)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    done = call("demo")
    assert done.exit_code == 1
    assert done.output == (
        f"Error: this needs {package}, which is not installed: pip install {package}\n"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--data", "mnist"], 2, "--data mnist needs --root"),
        (["--data", "cifar"], 2, "'cifar' is not one of 'digits', 'mnist'"),
        (["--seeds", "0"], 2, "0 is not in the range x>=1"),
        (["--data", "mnist", "--root", "nowhere"], 2, "'nowhere' does not exist"),
        (["--data", "mnist", "--root", "."], 1, "Error: load_mnist: no train-images-idx3-ubyte"),
    ],
)
def test_demo_misused(
    arguments: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    done = call("demo", *arguments)
    assert done.exit_code == status
    assert message in done.output
    assert list(tmp_path.iterdir()) == []


def test_the_methods_of_sequential_tasks_are_those_of_the_experiment() -> None:
    from clfast import cli
    from clfast.experiments.sequential_tasks import METHODS

    assert list(METHODS) == cli._SEQUENTIAL


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--method", "ADI", "--diversity", "0"], "--diversity means nothing to ADI"),
        (["--method", "LwF", "--method", "ER", "--steps", "5"], "--steps means nothing to LwF, ER"),
        (["--method", "SGD", "--repeats", "1"], "--repeats means nothing to SGD"),
        (["--method", "SGD", "--save-recall"], "--save-recall means nothing to SGD"),
        (["--method", "ARM", "--method", "ADI", "--memory", "9"], "--memory means nothing to ARM"),
    ],
)
def test_options_that_no_method_has(arguments: list[str], option: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = call("run", "arm", "--root", str(tmp_path), "--out", str(tmp_path / "run"), *arguments)
    assert found.exit_code == 2
    assert option in found.stderr
    assert "it is an option of" in found.stderr
    assert not (tmp_path / "run").exists()


def test_an_option_of_one_of_the_methods_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    methods = ("--method", "ADI", "--method", "ARM", "--diversity", "0")
    found = call("run", "arm", "--root", str(tmp_path), *methods)
    assert found.exit_code == 1
    assert "Error: load_mnist: no train-images-idx3-ubyte" in found.stderr


@pytest.mark.parametrize("command", [["permuted-mnist"], ["cifar"], ["run", "arm"]])
def test_experiments_name_what_is_missing(command: list[str], tmp_path: Path) -> None:
    found = call(*command, "--root", str(tmp_path), "--out", str(tmp_path / "run"))
    assert found.exit_code == 1
    assert "Error: load_" in found.stderr
    assert str(tmp_path) in found.stderr
    assert not (tmp_path / "run").exists()
    assert call(*command).exit_code == 2


def test_bench_takes_the_options_of_the_benchmarks(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "clfast", "bench", "--family", "calls", "--only", "nothing"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "benchmarks: no case of calls has 'nothing' in its name\n"


def test_bench_wants_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clfast.cli._REPOSITORY", tmp_path)
    found = call("bench", "--family", "calls")
    assert found.exit_code == 1
    assert "Error: the benchmarks are not part of the installed package" in found.stderr


def test_importing_clfast_loads_neither_the_compiler_nor_an_adapter() -> None:
    program = (
        "import sys, clfast\n"
        "print([n for n in sys.modules if n.startswith(('torch._dynamo', 'clfast.integrations'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
