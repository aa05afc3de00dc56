"""Every op of :mod:`clfast.ops` in plain PyTorch: specification, test oracle and fallback.

Same modules, same names, same signatures. Written from the papers' equations, for reading; the
compiled ops are checked against these in float64. ``clfast.backend("reference")`` runs them
behind the public functions, which check their arguments first; called directly, they do not.
"""

from . import adaptation, consolidation, exemplars, masks, optimizers, recall, retrieval

__all__ = ["adaptation", "consolidation", "exemplars", "masks", "optimizers", "recall", "retrieval"]
