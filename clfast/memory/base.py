"""What all memories have in common: how they are copied, saved and loaded."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from .. import _arguments
from . import state, storage
from .config import Config
from .content import Content

M = TypeVar("M", bound="Memory")


class Memory(ABC):
    """A config, which is fixed, and a content; the arguments of the constructor are those of the
    config, a device, and a CPU generator or None for one of the memory's own with seed 0.
    """

    _KIND: ClassVar[type[Config]]
    _config: Config
    _content: Content

    def __init__(
        self, config: Config, device: torch.device | str, generator: torch.Generator | None
    ) -> None:
        where = type(self).__name__
        if generator is None:
            generator = torch.Generator("cpu").manual_seed(0)
        else:
            _arguments.cpu_generator(generator, where)
        self._config = config
        self._content = self._empty(_arguments.device(device, where), generator)

    @abstractmethod
    def _empty(self, device: torch.device, generator: torch.Generator) -> Content:
        """A content without rows, as the config says."""

    @property
    def device(self) -> torch.device:
        """Where the rows live."""
        return self._content.rows.device

    def __len__(self) -> int:
        return len(self._content.rows)

    def __repr__(self) -> str:
        kind = ", ".join(f"{name}={value!r}" for name, value in self._config.to_plain().items())
        return f"{type(self).__name__}({kind}, device='{self.device}', len={len(self)})"

    def clear(self) -> None:
        """Forget all rows and how many were ever added; the generator goes on where it is."""
        self._content = self._empty(self.device, self._content.generator)

    def to(self: M, device: torch.device | str) -> M:
        """Move the rows to a device, in place; returns the memory itself.

        Raises TypeError or ValueError for what is no usable device, as any but the CPU for an
        index of faiss; the memory is as before.
        """
        self._content.to(_arguments.device(device, f"{type(self).__name__}.to"))
        return self

    def clone(self: M) -> M:
        """An independent copy, with a generator of its own in the same state."""
        return self._from_state(self._state(), self.device, f"{type(self).__name__}.clone")

    def __copy__(self: M) -> M:
        return self

    def __deepcopy__(self: M, memo: dict[int, Any]) -> M:
        """The memory itself; `clone` makes a copy.

        Training loops deep-copy models all the time, as teachers or for a trial step. Such a copy
        means the same past: were the memory copied with it, each copy would cost the whole memory,
        and would miss what the model stores from then on.
        """
        return self

    def __reduce__(self) -> tuple[Callable[..., Memory], tuple[Any, ...]]:
        # A tensor tells the device, not its name: torch.load may map both elsewhere.
        place = torch.empty(0, device=self.device)
        return _unpickle, (type(self), self.state_dict(), place)

    def state_dict(self) -> dict[str, Any]:
        """Copies of all that the memory knows: tensors, and what kind of memory it is.

        Counts, the policy's knowledge and the generator's state are part of it: a memory that loads
        it goes on bit for bit as this one would. An index of faiss is not: it is trained anew.
        """
        return {
            name: entry.clone() if isinstance(entry, Tensor) else entry
            for name, entry in self._state().items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Replace everything by what `state_dict` of a memory of the same kind returned.

        All arguments of the constructor must agree but the device. A generator that was given to
        the constructor is set to the saved state.

        Raises TypeError if the state is no mapping, or ValueError if it is of another kind or its
        parts do not fit together; the memory is as before.
        """
        self._restore(state_dict, f"{type(self).__name__}.load_state_dict")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically.

        A kill or a crash at any moment leaves the old file or the new one. The content is that of
        `state_dict`: a memory that loads it goes on bit for bit.

        Raises OSError, naming the path, if it cannot be written; no half-written file remains.
        """
        where = f"{type(self).__name__}.save"
        file = _arguments.path(path, where)
        storage.write(file, self._state(), f"{where}: {file}")

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replace everything by what a memory of the same kind saved, as `load_state_dict` does.

        `from_file` makes a memory of whatever kind was saved.

        Raises FileNotFoundError or another OSError if no file can be read, or ValueError if it is
        truncated, damaged, foreign, of another kind, or inconsistent, naming the path; the
        memory is as before.
        """
        where = f"{type(self).__name__}.load"
        file = _arguments.file(path, where)
        where = f"{where}: {file}"
        self._restore(storage.read(file, self._KIND.FORMAT, where), where)

    @classmethod
    def from_file(
        cls: type[M], path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
    ) -> M:
        """The memory that was saved at `path`, on `device`; raises as `load` does."""
        where = f"{cls.__name__}.from_file"
        file = _arguments.file(path, where)
        where = f"{where}: {file}"
        return cls._from_state(storage.read(file, cls._KIND.FORMAT, where), device, where)

    @classmethod
    def _from_state(
        cls: type[M], saved: Mapping[str, Any], device: torch.device | str, where: str
    ) -> M:
        config, _ = state.unpack(saved, cls._KIND, where)
        try:
            memory = cls(**vars(config), device=device)
        except (TypeError, ValueError, ModuleNotFoundError) as error:
            raise type(error)(f"{where}: {error}") from error
        memory._restore(saved, where)
        return memory

    def _state(self) -> dict[str, Any]:
        return state.pack(self._config, self._content.state())

    def _restore(self, saved: Mapping[str, Any], where: str) -> None:
        config, parts = state.unpack(saved, self._KIND, where)
        difference = self._config.difference(config)
        if difference:
            raise ValueError(
                f"{where}: saved by a memory of another kind: {difference}; "
                f"make one of that kind, or use {type(self).__name__}.from_file"
            )
        content = self._empty(self.device, self._content.generator)
        content.restore(parts, where)
        self._content = content


def _unpickle(kind: type[M], saved: Mapping[str, Any], place: Tensor) -> M:
    return kind._from_state(saved, place.device, kind.__name__)
