"""Cases of `clfast.ops.exemplars`."""

from __future__ import annotations

from . import _exemplar_losses

CASES = [*_exemplar_losses.CASES]
