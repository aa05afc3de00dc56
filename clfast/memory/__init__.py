"""Memories that keep what a stream has shown."""

from __future__ import annotations

from .key_value import KeyValueMemory
from .replay_buffer import ReplayBatch, ReplayBuffer

__all__ = ["KeyValueMemory", "ReplayBatch", "ReplayBuffer"]
