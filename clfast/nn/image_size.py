"""Which sizes of images the generators and critics of GANs have."""

from __future__ import annotations

from .._arguments import integer


def doublings(size: object, where: str) -> int:
    """How often the sides of 4 x 4 double until they are `size`.

    Raises:
        TypeError, ValueError: size is no power of two from 16 on.
    """
    size = integer(size, "size", where, least=16)
    if size & (size - 1):
        raise ValueError(
            f"{where}: size must be a power of two, got {size}; resize the images to "
            f"{1 << (size.bit_length() - 1)} or {1 << size.bit_length()}"
        )
    return size.bit_length() - 3
