"""Saving a KeyValueMemory: what comes back, what is left when it fails."""

from __future__ import annotations

import json
import os
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_helpers import POLICIES, filled, same, snapshot, stream, unchanged
from safetensors import safe_open

from clfast.memory import KeyValueMemory

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.safetensors"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rows", [0, 5, 8, 50])
def test_a_loaded_memory_goes_on_bit_for_bit(
    path: Path, policy: str, dtype: torch.dtype, rows: int
) -> None:
    memory = filled(rows, capacity=8, policy=policy, dtype=dtype)
    memory.save(path)
    loaded = KeyValueMemory(4, capacity=8, policy=policy, dtype=dtype)
    loaded.add(*stream(3, seed=9))
    loaded.load(path)
    made = KeyValueMemory.from_file(path)
    more = stream(30, classes=5, seed=1)
    for copied in (loaded, made):
        assert same(snapshot(copied), snapshot(memory))
    for going_on in (memory, loaded, made):
        going_on.add(*more)
    for copied in (loaded, made):
        assert same(snapshot(copied), snapshot(memory))


def test_unbounded_memory_comes_back(path: Path) -> None:
    memory = filled(70)
    memory.save(str(path))
    made = KeyValueMemory.from_file(str(path))
    assert made.capacity is None
    assert same(snapshot(made), snapshot(memory))


def test_any_safetensors_reader_reads_the_file(path: Path) -> None:
    memory = filled(20, capacity=8, policy="class_balanced")
    memory.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        assert torch.equal(file.get_tensor("keys"), memory.keys)
        assert torch.equal(file.get_tensor("values"), memory.values)
    assert metadata["format"] == "clfast.KeyValueMemory"
    assert json.loads(metadata["plain"]) == {
        "version": 1,
        "config": {
            "dim": 4,
            "capacity": 8,
            "policy": "class_balanced",
            "index": "exact",
            "dtype": "float32",
            "index_parameters": "",
            "candidates": 4,
        },
    }


def test_the_file_holds_rows_and_no_spare_room(path: Path) -> None:
    memory = filled(64, 64)
    memory.add(*stream(1, 64))
    memory.save(path)
    assert path.stat().st_size < 65 * 64 * 4 + 10_000


def test_saving_replaces_and_leaves_nothing_else(path: Path) -> None:
    filled(5).save(path)
    filled(9).save(path)
    assert len(KeyValueMemory.from_file(path)) == 9
    assert os.listdir(path.parent) == [path.name]


def test_a_loaded_memory_does_not_need_its_file(path: Path) -> None:
    filled(2000, 64).save(path)
    memory = KeyValueMemory.from_file(path)
    before = snapshot(memory)
    path.write_bytes(b"")
    assert same(snapshot(memory), before)


def test_saving_through_a_link_keeps_the_link(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    path.symlink_to(folder / "file")
    filled(5).save(path)
    assert path.is_symlink()
    assert len(KeyValueMemory.from_file(folder / "file")) == 5


def test_the_umask_decides_who_reads_the_file(path: Path) -> None:
    previous = os.umask(0o027)
    try:
        filled(5).save(path)
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o640


def test_savers_at_the_same_time_do_not_mix(path: Path) -> None:
    memories = [filled(100 * (i + 1), 32) for i in range(3)]

    def save_often(memory: KeyValueMemory) -> None:
        for _ in range(10):
            memory.save(path)

    threads = [threading.Thread(target=save_often, args=(memory,)) for memory in memories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = snapshot(KeyValueMemory.from_file(path))
    assert any(same(found, snapshot(memory)) for memory in memories)
    assert os.listdir(path.parent) == [path.name]


def test_save_says_where_it_cannot(path: Path, tmp_path: Path) -> None:
    memory = filled(5)
    with unchanged(memory):
        with pytest.raises(FileNotFoundError, match=r"KeyValueMemory.save: .*there is no folder"):
            memory.save(tmp_path / "missing" / "file")
        with pytest.raises(OSError, match=r"KeyValueMemory.save: .*no regular file"):
            memory.save(tmp_path)
        for name, reason in (("n" * 300, "File name too long"), ("a\0b", "null")):
            with pytest.raises(OSError, match=rf"KeyValueMemory.save: .*{reason}"):
                memory.save(tmp_path / name)
        os.mkfifo(path)
        with pytest.raises(OSError, match=rf"KeyValueMemory.save: {path}: .*no regular file"):
            memory.save(path)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("broken", ["save_file", "_files._sync", "Path.replace"])
def test_a_save_that_fails_leaves_the_old_file(
    path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = filled(5), filled(9)
    old.save(path)

    def fail(*args: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(f"clfast.memory.storage.{broken}", fail)
        with pytest.raises(OSError, match=rf"KeyValueMemory.save: {path}: the disk is gone"):
            new.save(path)
    assert same(snapshot(KeyValueMemory.from_file(path)), snapshot(old))
    assert os.listdir(path.parent) == [path.name]


def test_a_disk_that_takes_no_more_leaves_the_old_file(path: Path) -> None:
    old, new = filled(5), filled(5000, 64)
    old.save(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"KeyValueMemory.save: {path}: .*[Ff]ile too large"):
            new.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(snapshot(KeyValueMemory.from_file(path)), snapshot(old))
    assert os.listdir(path.parent) == [path.name]


def test_the_permissions_of_an_old_file_stay(path: Path) -> None:
    filled(5).save(path)
    path.chmod(0o640)
    filled(9).save(path)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("call", ["save", "load", "from_file"])
@pytest.mark.parametrize("wrong", [None, 3, b"memory"])
def test_paths_that_are_none(call: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"KeyValueMemory\.{call}: path must be a str or a Path"):
        getattr(filled(3), call)(wrong)


def test_names_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("m" * 255)
    filled(5).save(path)
    assert len(KeyValueMemory.from_file(path)) == 5
