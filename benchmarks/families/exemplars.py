"""Cases of `clfast.ops.exemplars`."""

from __future__ import annotations

from . import _exemplar_losses, _herding, _softmax_descent

CASES = [*_herding.CASES, *_softmax_descent.CASES, *_exemplar_losses.CASES]
