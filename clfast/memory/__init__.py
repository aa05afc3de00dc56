"""Memories that keep what a stream has shown."""

from __future__ import annotations

from .key_value import KeyValueMemory

__all__ = ["KeyValueMemory"]
