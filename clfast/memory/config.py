"""What kind of memory one is: fixed when it is made, and saved with its content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

import torch

from .._arguments import integer, one_of
from .policies import POLICIES

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

C = TypeVar("C", bound="Config")


@dataclass(frozen=True)
class Config:
    """The arguments of a memory's constructor that decide what may be loaded into it, by name.

    FORMAT: of its files and state dictionaries.
    """

    FORMAT: ClassVar[str]
    VERSION: ClassVar[int] = 1

    def to_plain(self) -> dict[str, Any]:
        """As strings and numbers."""
        return {
            name: str(entry).removeprefix("torch.") if isinstance(entry, torch.dtype) else entry
            for name, entry in asdict(self).items()
        }

    @classmethod
    def from_plain(cls: type[C], plain: object, where: str) -> C:
        """Back from `to_plain`; ValueError, opening with `where`, for anything else."""
        try:
            if not isinstance(plain, Mapping):
                raise TypeError(f"it is a {type(plain).__name__}")
            entries = dict(plain)
            if "dtype" in entries:
                entries["dtype"] = _DTYPES[entries["dtype"]]
            return cls(**entries)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: config {plain!r} describes no memory ({error})") from error

    def difference(self, other: Config) -> str:
        """Where `other` differs, as `capacity is 5, not None`; empty where it does not."""
        own, others = self.to_plain(), other.to_plain()
        return ", ".join(
            f"{name} is {others[name]!r}, not {own[name]!r}"
            for name in own
            if own[name] != others[name]
        )


@dataclass(frozen=True)
class KeyValueConfig(Config):
    """Of a `KeyValueMemory`.

    Raises TypeError or ValueError, naming the argument, if one is not as its docstring says.
    """

    FORMAT = "clfast.KeyValueMemory"

    dim: int
    capacity: int | None
    policy: str
    index: str
    dtype: torch.dtype
    index_parameters: str = ""
    candidates: int = 4

    def __post_init__(self) -> None:
        where = "KeyValueMemory"
        # Numbers of other integer types, numpy's for one, would not go into a file.
        object.__setattr__(self, "dim", integer(self.dim, "dim", where, least=1))
        if self.capacity is not None:
            capacity = integer(self.capacity, "capacity", where, least=1)
            object.__setattr__(self, "capacity", capacity)
        one_of(self.policy, POLICIES, "policy", where)
        for name in ("index", "index_parameters"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(f"{where}: {name} must be a string, got {type(value).__name__}")
        if self.index in ("exact", "bf16") and self.index_parameters:
            raise ValueError(
                f"{where}: index_parameters are for an index of faiss, not {self.index!r}"
            )
        candidates = integer(self.candidates, "candidates", where, least=1)
        object.__setattr__(self, "candidates", candidates)
        one_of(self.dtype, _DTYPES.values(), "dtype", where)
        if self.index == "bf16" and self.dtype == torch.float64:
            raise ValueError(
                f"{where}: index 'bf16' is for keys of float32 or 16 bits, got dtype "
                "torch.float64; use index='exact'"
            )


@dataclass(frozen=True)
class ReplayConfig(Config):
    """Of a `ReplayBuffer`.

    Raises TypeError or ValueError, naming the argument, if one is not as its docstring says.
    """

    FORMAT = "clfast.ReplayBuffer"

    capacity: int
    policy: str

    def __post_init__(self) -> None:
        where = "ReplayBuffer"
        capacity = integer(self.capacity, "capacity", where, least=1)
        object.__setattr__(self, "capacity", capacity)
        one_of(self.policy, POLICIES, "policy", where)
