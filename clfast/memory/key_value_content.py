"""What a key-value memory holds, with the index that searches it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .config import KeyValueConfig
from .content import Content
from .indexes import make_index
from .policies import POLICIES
from .rows import Rows, squared_norms
from .state import check_stream, check_tensors, require


class KeyValueContent(Content):
    """Keys, values, their index, and what is known of the stream."""

    rows: Rows

    def __init__(
        self, config: KeyValueConfig, device: torch.device, generator: torch.Generator
    ) -> None:
        rows = Rows(config.dim, config.dtype, device, limit=config.capacity)
        policy = (
            None if config.capacity is None else POLICIES[config.policy](config.capacity, generator)
        )
        super().__init__(rows, "values", policy, generator)
        self._config = config
        self.index = make_index(config, device, "KeyValueMemory")

    def add(self, rows: Mapping[str, Tensor]) -> Tensor:
        slots = super().add(rows)
        self.index.overwritten(slots)
        return slots

    def to(self, device: torch.device) -> None:
        self.index = make_index(self._config, device, "KeyValueMemory.to")
        super().to(device)

    def saved_rows(self) -> dict[str, Any]:
        # Norms are left out: they follow from the keys.
        return {"keys": self.rows.keys, "values": self.rows.values}

    def restore(self, saved: Mapping[str, Any], where: str) -> None:
        tensors = check_tensors(saved, self.state(), where)
        keys, values = tensors["keys"].contiguous(), tensors["values"]
        dim = self._config.dim
        require(keys.shape[1] == dim, f"keys have {keys.shape[1]} columns, not {dim}", where)
        require(len(values) == len(keys), f"{len(keys)} keys, but {len(values)} values", where)
        check_stream(tensors, len(keys), values, self._config.capacity, where)
        sq_norms = squared_norms(keys)
        require(bool(sq_norms.isfinite().all()), "keys must be finite", where)
        self.rows.append({"keys": keys, "values": values, "sq_norms": sq_norms})
        self.restore_stream(tensors)
