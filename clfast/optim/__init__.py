"""Optimisers for networks of which earlier tasks reserved a part.

* :class:`MaskedSGD`, :class:`MaskedAdam`: ``torch.optim``'s, in one pass with the masks.
* :func:`protect`: keeps what is reserved in steps of any other optimiser.
"""

from .masked import MaskedAdam, MaskedSGD
from .protect import Protection, protect

__all__ = ["MaskedAdam", "MaskedSGD", "Protection", "protect"]
