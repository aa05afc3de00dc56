"""Copies, files and state dictionaries of ReplayBuffer."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_helpers import POLICIES, same
from memory_helpers import filled as filled_memory
from replay_helpers import filled, samples, unchanged
from safetensors import safe_open

from clfast.memory import ReplayBuffer, storage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "buffer.safetensors"


def loaded(buffer: ReplayBuffer, policy: str, path: Path) -> ReplayBuffer:
    """Loaded into a buffer that held rows of other names."""
    other = ReplayBuffer(8, policy=policy)
    other.add(y=torch.arange(3), logits=torch.ones(3, 2))
    buffer.save(path)
    other.load(path)
    return other


def from_state(buffer: ReplayBuffer, policy: str, path: Path) -> ReplayBuffer:
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    other = ReplayBuffer(8, policy=policy)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


def from_file(buffer: ReplayBuffer, policy: str, path: Path) -> ReplayBuffer:
    buffer.save(str(path))
    return ReplayBuffer.from_file(str(path))


def cloned(buffer: ReplayBuffer, policy: str, path: Path) -> ReplayBuffer:
    return buffer.clone()


def pickled(buffer: ReplayBuffer, policy: str, path: Path) -> ReplayBuffer:
    found = pickle.loads(pickle.dumps(buffer))
    assert isinstance(found, ReplayBuffer)
    return found


WAYS = [loaded, from_state, from_file, cloned, pickled]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rows", [0, 5, 8, 50])
def test_a_copy_goes_on_bit_for_bit(
    path: Path, policy: str, rows: int, way: Callable[[ReplayBuffer, str, Path], ReplayBuffer]
) -> None:
    buffer = filled(rows, policy=policy)
    with unchanged(buffer):
        found = way(buffer, policy, path)
    assert same(found.state_dict(), buffer.state_dict())
    assert list(found.rows) == list(buffer.rows)
    before = buffer.state_dict()
    more = samples(30, classes=5, seed=1)
    drawn = []
    for going_on in (found, buffer):
        going_on.add(**more)
        drawn.append(going_on.sample(5).slots)
        if going_on is found:
            assert same(buffer.state_dict(), before)
    assert same(found.state_dict(), buffer.state_dict())
    assert torch.equal(*drawn)


@pytest.mark.parametrize("way", WAYS)
def test_a_buffer_that_never_held_rows(
    path: Path, way: Callable[[ReplayBuffer, str, Path], ReplayBuffer]
) -> None:
    found = way(ReplayBuffer(8), "reservoir", path)
    assert (len(found), found.seen, found.rows) == (0, 0, {})
    found.add(x=torch.ones(3))
    assert len(found) == 3


def test_copies_of_a_model_share_the_buffer() -> None:
    buffer = filled()
    learner = {"model": torch.nn.Linear(2, 2), "buffer": buffer}
    assert copy.deepcopy(learner)["buffer"] is buffer
    assert copy.copy(buffer) is buffer


def test_loading_sets_the_generator_that_was_given() -> None:
    generator = torch.Generator().manual_seed(5)
    buffer = ReplayBuffer(8, generator=generator)
    saved = filled().state_dict()
    buffer.load_state_dict(saved)
    assert torch.equal(generator.get_state(), saved["generator"])


def test_every_dtype_comes_back(path: Path) -> None:
    dtypes = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16"]
    dtypes += ["float32", "float64"]
    buffer = ReplayBuffer(6)
    for _ in range(3):
        buffer.add(**{name: torch.arange(4).to(getattr(torch, name)) for name in dtypes})
    buffer.save(path)
    assert same(ReplayBuffer.from_file(path).rows, buffer.rows)


@pytest.mark.parametrize(
    ("policy", "stream"),
    [
        ("reservoir", {"seen"}),
        ("ring", {"seen"}),
        ("class_balanced", {"seen_labels", "seen_counts", "full_classes"}),
    ],
)
def test_any_safetensors_reader_reads_the_file(path: Path, policy: str, stream: set[str]) -> None:
    buffer = filled(policy=policy)
    buffer.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        assert torch.equal(file.get_tensor("rows.x"), buffer.rows["x"])
        assert set(file.keys()) == {"rows.x", "rows.y", "rows.task", "generator"} | stream
    assert metadata["format"] == "clfast.ReplayBuffer"
    config = {"capacity": 8, "policy": policy}
    assert json.loads(metadata["plain"]) == {
        "version": 1,
        "config": config,
        "names": ["x", "y", "task"],
    }


def test_the_file_holds_rows_and_no_spare_room(path: Path) -> None:
    buffer = ReplayBuffer(1000)
    for rows in (64, 1):
        buffer.add(x=torch.ones(rows, 64))
    buffer.save(path)
    assert buffer.rows["x"].untyped_storage().nbytes() == 128 * 64 * 4
    assert path.stat().st_size < 65 * 64 * 4 + 10_000


# ---- What is refused ----


def refuses_to_load(path: Path, reason: str, policy: str = "class_balanced") -> None:
    buffer = filled(20, policy=policy)
    for name, load in (("load", buffer.load), ("from_file", ReplayBuffer.from_file)):
        message = re.escape(f"ReplayBuffer.{name}: {path}: ") + ".*" + reason
        with unchanged(buffer), pytest.raises(ValueError, match=message):
            load(path)


def test_truncated_and_damaged_files_are_refused(path: Path) -> None:
    filled(policy="class_balanced").save(path)
    whole = path.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    for at in range(8 + header, len(whole), 97):
        path.write_bytes(whole[:at])
        refuses_to_load(path, "truncated")
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refuses_to_load(path, "the file is damaged: its checksum is another one")


def test_other_files_are_refused(path: Path) -> None:
    buffer = filled()
    filled_memory(20, capacity=8).save(path)
    refuses_to_load(path, "format 'clfast.KeyValueMemory', not 'clfast.ReplayBuffer'")
    with (
        unchanged(buffer),
        pytest.raises(FileNotFoundError, match=r"ReplayBuffer\.load: .*no such"),
    ):
        buffer.load(path.parent / "missing")
    with pytest.raises(FileNotFoundError, match=r"ReplayBuffer\.save: .*there is no folder"):
        buffer.save(path / "missing" / "file")
    wrong: Any = 3
    with pytest.raises(TypeError, match=r"ReplayBuffer\.from_file: path must be a str or a Path"):
        ReplayBuffer.from_file(wrong)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"capacity": 9}, "capacity is 8, not 9"),
        ({"policy": "ring"}, "policy is 'reservoir', not 'ring'"),
    ],
)
def test_a_buffer_of_another_kind_is_refused(
    path: Path, options: dict[str, Any], difference: str
) -> None:
    filled().save(path)
    buffer = filled(**options)
    message = rf"ReplayBuffer\.load: {path}: .*{difference}.*or use ReplayBuffer\.from_file"
    with unchanged(buffer), pytest.raises(ValueError, match=message):
        buffer.load(path)


def replaced(name: str, entry: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state.update({name: entry})


def edited(name: str, edit: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state.update({name: edit(state[name])})


def without_rows(state: dict[str, Any], *names: str) -> None:
    for name in names:
        state["names"].remove(name)
        del state[f"rows.{name}"]


TAMPERED: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("ring", replaced("version", 2), "must have format 'clfast.ReplayBuffer' and version 1"),
    ("ring", replaced("config", {"capacity": 8}), "describes no memory"),
    ("ring", replaced("config", {"capacity": 0, "policy": "ring"}), "capacity must be at least 1"),
    ("ring", replaced("config", {"capacity": 8, "policy": "lru"}), "policy must be one of"),
    ("ring", lambda state: state.pop("names"), "names must be a list"),
    ("ring", replaced("names", "x"), "names must be a list"),
    ("ring", replaced("names", ["x", "y"]), r"names are \['x', 'y'\], but rows are"),
    ("ring", replaced("names", ["x", "y", "y"]), r"names are \['x', 'y', 'y'\], but rows are"),
    ("ring", edited("names", lambda names: [*names, "z"]), r"'z'\], but rows are"),
    ("ring", replaced("rows.z", torch.ones(8)), r"'rows.z'\]"),
    ("ring", replaced("extra", torch.ones(1)), "unknown extra"),
    ("ring", lambda state: state.pop("seen"), "seen missing"),
    ("ring", edited("seen", lambda seen: seen.float()), "seen must be a tensor of torch.int64"),
    ("ring", edited("seen", lambda seen: seen[None]), "seen must be .* with 0 dimensions"),
    ("ring", edited("seen", lambda seen: seen * 0 + 5), "8 rows are stored where 5 were added"),
    ("ring", edited("seen", lambda seen: -seen), "8 rows are stored where -20 were added"),
    ("ring", edited("generator", lambda state: state[:-1]), "generator is no state"),
    ("ring", edited("rows.x", lambda x: x[:7]), "rows.y must have 7 rows as rows.x has"),
    ("ring", edited("rows.x", lambda x: x[0, 0, 0]), r"rows.x must have shape \[n, ...\]"),
    ("ring", edited("rows.x", lambda x: x.to(torch.uint16)), "rows.x must be of bool, uint8"),
    ("ring", lambda state: without_rows(state, "x", "y", "task"), "0 rows are stored where 20"),
    ("class_balanced", lambda state: state.pop("full_classes"), "full_classes missing"),
    ("class_balanced", lambda state: without_rows(state, "y"), r"rows.y must be int64 \[8\]"),
    ("class_balanced", edited("rows.y", lambda y: y.int()), r"rows.y must be int64 \[8\]"),
    ("class_balanced", edited("rows.y", lambda y: y[:, None]), r"rows.y must be int64 \[8\]"),
    ("class_balanced", edited("rows.y", lambda y: y - 1), "more rows of a class are stored"),
    ("class_balanced", edited("seen_counts", lambda n: n * 0), "seen_counts must be positive"),
    ("class_balanced", edited("seen_labels", lambda y: y.flip(0)), "seen_labels must be distinct"),
]


@pytest.mark.parametrize(("policy", "tamper", "reason"), TAMPERED)
def test_parts_that_do_not_fit_together_are_refused(
    path: Path, policy: str, tamper: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    buffer = filled(20, policy=policy)
    state = buffer.state_dict()
    tamper(state)
    message = f"ReplayBuffer.load_state_dict: .*{reason}"
    with unchanged(buffer), pytest.raises(ValueError, match=message):
        buffer.load_state_dict(state)
    storage.write(path, state, "a tampered file")
    refuses_to_load(path, reason, policy)


def test_rows_that_are_no_tensors_are_refused() -> None:
    buffer = filled()
    for rows, reason in (
        ([1.0], "Tensor, got list"),
        (torch.ones(8).to_sparse(), "dense, got torch.sparse"),
    ):
        state = {**buffer.state_dict(), "rows.x": rows}
        with unchanged(buffer), pytest.raises(ValueError, match=rf"rows\.x must be .*{reason}"):
            buffer.load_state_dict(state)


def test_a_state_that_is_no_mapping_is_refused() -> None:
    wrong: Any = [1]
    with pytest.raises(TypeError, match=r"ReplayBuffer\.load_state_dict: state must be a mapping"):
        filled().load_state_dict(wrong)
