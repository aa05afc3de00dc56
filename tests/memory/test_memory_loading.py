"""Loading a KeyValueMemory: what is not a whole and sound file of its kind is refused."""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_helpers import filled, stream, unchanged
from safetensors.torch import save_file

from clfast.memory import KeyValueMemory, storage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.safetensors"


def refuses_to_load(path: Path, error: type[Exception], reason: str) -> None:
    """load leaves the memory as it was, from_file makes none, both say path and reason."""
    memory = filled(20, capacity=8, policy="class_balanced")
    for name, load in (("load", memory.load), ("from_file", KeyValueMemory.from_file)):
        message = re.escape(f"KeyValueMemory.{name}: {path}: ") + ".*" + reason
        with unchanged(memory), pytest.raises(error, match=message):
            load(path)


def test_every_truncation_is_refused(path: Path) -> None:
    filled(20, capacity=8, policy="class_balanced").save(path)
    whole = path.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    data = 8 + header
    cuts = {0, 1, 7, 8, 9, 8 + header // 2, data - 1, data, data + 1, len(whole) - 1}
    cuts |= set(range(data, len(whole), 500))
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        refuses_to_load(path, ValueError, "truncated")
    path.write_bytes(whole)
    assert len(KeyValueMemory.from_file(path)) == 8


def test_every_damaged_byte_is_refused(path: Path) -> None:
    filled(20, capacity=8, policy="class_balanced").save(path)
    whole = path.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    for at in range(8 + header, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refuses_to_load(path, ValueError, "the file is damaged: its checksum is another one")


def write_text(path: Path) -> None:
    path.write_text("key,value\n" * 100)


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("keys", b"0" * 1000)


def write_torch(path: Path) -> None:
    torch.save(filled(20, capacity=8, policy="class_balanced").state_dict(), path)


def write_longer(path: Path) -> None:
    filled(20, capacity=8, policy="class_balanced").save(path)
    with path.open("ab") as file:
        file.write(b"\0")


def write_huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}" * 50)


def write_without_metadata(path: Path) -> None:
    save_file({"keys": torch.ones(2, 4)}, path)


def write_other_program(path: Path) -> None:
    save_file({"keys": torch.ones(2, 4)}, path, metadata={"format": "pt"})


def write_damaged_metadata(path: Path) -> None:
    save_file({}, path, metadata={"format": "clfast.KeyValueMemory", "plain": '{"version": 1'})


def write_metadata_of_another_type(path: Path) -> None:
    save_file({}, path, metadata={"format": "clfast.KeyValueMemory", "plain": "[1, 2]"})


def write_deep_metadata(path: Path) -> None:
    metadata = {"format": "clfast.KeyValueMemory", "plain": 100_000 * "["}
    save_file({"keys": torch.zeros(1)}, path, metadata)


def write_no_more_than_the_format(path: Path) -> None:
    save_file({}, path, metadata={"format": "clfast.KeyValueMemory"})


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (Path.touch, "no safetensors file"),
        (write_text, "no safetensors file"),
        (write_zip, "no safetensors file"),
        (write_torch, "no safetensors file"),
        (write_longer, "no safetensors file"),
        (write_huge_header, "no safetensors file"),
        (write_without_metadata, "safetensors file of format None, not 'clfast.KeyValueMemory'"),
        (write_other_program, "safetensors file of format 'pt', not 'clfast.KeyValueMemory'"),
        (write_damaged_metadata, "metadata is damaged"),
        (write_metadata_of_another_type, "metadata is damaged"),
        (write_deep_metadata, "metadata is damaged"),
        (write_no_more_than_the_format, "the file is damaged"),
    ],
)
def test_foreign_files_are_refused(path: Path, write: Callable[[Path], None], reason: str) -> None:
    write(path)
    refuses_to_load(path, ValueError, reason)


def test_what_is_no_file_is_refused(path: Path, tmp_path: Path) -> None:
    refuses_to_load(path, FileNotFoundError, "there is no such file")
    refuses_to_load(tmp_path, IsADirectoryError, "is a folder, not a file")
    refuses_to_load(tmp_path / ("n" * 300), OSError, "File name too long")
    refuses_to_load(tmp_path / "a\0b", FileNotFoundError, "there is no such file")
    os.mkfifo(path)
    refuses_to_load(path, FileNotFoundError, "there is no such file")


def test_a_file_that_cannot_be_read_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(5).save(path)

    def fail(*args: object, **options: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(storage, "safe_open", fail)
    refuses_to_load(path, OSError, "not yours")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("candidates", 0, "candidates must be"),
        ("policy", "oldest", "policy must be"),
        ("dim", 0, "dim must be"),
    ],
)
def test_a_damaged_config_is_refused(path: Path, name: str, value: Any, reason: str) -> None:
    filled(5).save(path)
    saved = storage.read(path, "clfast.KeyValueMemory", "")
    saved["config"][name] = value
    storage.write(path, saved, "")
    message = re.escape(f"KeyValueMemory.from_file: {path}: ") + ".*" + reason
    with pytest.raises(ValueError, match=message):
        KeyValueMemory.from_file(path)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"dim": 5}, "dim is 4, not 5"),
        ({"capacity": None}, "capacity is 8, not None"),
        ({"capacity": 9}, "capacity is 8, not 9"),
        ({"policy": "reservoir"}, "policy is 'ring', not 'reservoir'"),
        ({"dtype": torch.float64}, "dtype is 'float32', not 'float64'"),
    ],
)
def test_a_memory_of_another_kind_is_refused(
    path: Path, options: dict[str, Any], difference: str
) -> None:
    saved = filled(20, capacity=8)
    saved.save(path)
    memory = KeyValueMemory(**{"dim": 4, "capacity": 8, **options})
    memory.add(*stream(3, memory.dim))
    with unchanged(memory):
        with pytest.raises(ValueError, match=rf"load: {path}: .*{difference}.*from_file"):
            memory.load(path)
        with pytest.raises(ValueError, match=rf"load_state_dict: .*{difference}"):
            memory.load_state_dict(saved.state_dict())


def replaced(name: str, entry: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name: entry})


def edited(name: str, edit: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name: edit(state[name])})


def configured(**entries: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state["config"].update(entries)


def with_nan(keys: torch.Tensor) -> torch.Tensor:
    keys[1, 2] = float("nan")
    return keys


TAMPERED: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (replaced("version", 2), "must have format 'clfast.KeyValueMemory' and version 1, got .* 2"),
    (lambda state: state.pop("version"), "version 1, got 'clfast.KeyValueMemory' and None"),
    (lambda state: state.pop("config"), "config None describes no memory"),
    (replaced("config", [1]), "describes no memory"),
    (configured(dim=0), "describes no memory"),
    (configured(dim="4"), "describes no memory"),
    (configured(dtype="int8"), "describes no memory"),
    (configured(policy="fifo"), "describes no memory"),
    (configured(colour="red"), "describes no memory"),
    (lambda state: state["config"].pop("capacity"), "describes no memory"),
    (lambda state: state.pop("values"), "values missing"),
    (lambda state: state.pop("full_classes"), "full_classes missing"),
    (replaced("extra", torch.ones(1)), "unknown extra"),
    (edited("keys", torch.Tensor.double), "keys must be a tensor of torch.float32"),
    (edited("keys", torch.flatten), "keys must be a tensor of torch.float32 with 2 dimensions"),
    (edited("keys", lambda keys: keys[:, :3].contiguous()), "keys have 3 columns, not 4"),
    (edited("keys", lambda keys: keys[:5]), "5 keys, but 8 values"),
    (edited("keys", with_nan), "keys must be finite"),
    (edited("values", torch.Tensor.int), "values must be a tensor of torch.int64"),
    (edited("values", lambda values: values - 1), "more rows of a class are stored"),
    (edited("values", lambda values: values + 50), "more rows of a class are stored"),
    (edited("seen_labels", lambda labels: labels.flip(0)), "seen_labels must be distinct"),
    (edited("seen_labels", lambda labels: labels * 0), "seen_labels must be distinct"),
    (edited("seen_labels", lambda labels: labels - 1), "seen_labels must be distinct"),
    (edited("seen_counts", lambda counts: counts[:-1]), "seen_counts differ in length"),
    (edited("seen_counts", lambda counts: counts * 0), "seen_counts must be positive"),
    (edited("generator", lambda state: state[:-1]), "generator is no state"),
    (edited("full_classes", lambda full: full + 50), "full_classes must be distinct"),
]


@pytest.mark.parametrize(("tamper", "reason"), TAMPERED)
def test_parts_that_do_not_fit_together_are_refused(
    path: Path, tamper: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    memory = filled(20, capacity=8, policy="class_balanced")
    state = memory.state_dict()
    tamper(state)
    with (
        unchanged(memory),
        pytest.raises(ValueError, match=f"KeyValueMemory.load_state_dict: .*{reason}"),
    ):
        memory.load_state_dict(state)
    storage.write(path, state, "a tampered file")
    refuses_to_load(path, ValueError, reason)


def test_rows_that_the_capacity_does_not_explain_are_refused() -> None:
    memory = filled(20, capacity=8)
    state = memory.state_dict()
    state["keys"], state["values"] = state["keys"][:5], state["values"][:5]
    with (
        unchanged(memory),
        pytest.raises(ValueError, match="5 rows are stored where 20 were added"),
    ):
        memory.load_state_dict(state)


@pytest.mark.parametrize("state", [{}, {"format": "other", "version": 1}])
def test_a_state_of_something_else_is_refused(state: dict[str, Any]) -> None:
    memory = filled(3)
    with unchanged(memory), pytest.raises(ValueError, match="load_state_dict: state must have"):
        memory.load_state_dict(state)
