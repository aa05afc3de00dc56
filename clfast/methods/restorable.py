"""`Restorable`: a learner that takes a state over whole, or not at all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from . import checks
from .protocol import Predictor


class Restorable(Predictor):
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` of a learner made alike returned, bit for bit.

        Raises:
            TypeError: not a mapping.
            ValueError: a part is missing, unknown or does not fit; nothing was loaded.
        """
        where = f"{type(self).__name__}.load_state_dict"
        checks.check_mapping(state_dict, where)
        before = self.state_dict()
        if state_dict.keys() != before.keys():
            raise ValueError(
                f"{where}: state must have the parts {', '.join(before)}, "
                f"got {', '.join(map(str, state_dict))}; nothing was loaded"
            )
        try:
            self._check_state(state_dict)
            self._load(state_dict)
        except Exception as error:
            self._load(before)
            raise ValueError(f"{where}: {error}; nothing was loaded") from error

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for a state with all its parts that `_load` would take, but that does
        not fit."""

    @abstractmethod
    def _load(self, state: Mapping[str, Any]) -> None:
        """Take over a state with all its parts; what is raised means that one does not fit."""
