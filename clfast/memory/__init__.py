"""Memories that keep what a stream has shown."""

from __future__ import annotations

from .exemplars import ExemplarMemory
from .key_value import KeyValueMemory
from .replay_buffer import ReplayBatch, ReplayBuffer

__all__ = ["ExemplarMemory", "KeyValueMemory", "ReplayBatch", "ReplayBuffer"]
