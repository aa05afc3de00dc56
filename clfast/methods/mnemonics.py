"""Mnemonics (Liu et al., "Mnemonics Training", CVPR 2020): exemplars that are trained."""

from __future__ import annotations

from .unrolled import unrolled_sgd

__all__ = ["unrolled_sgd"]
