"""Mammoth 0.2.2 (https://github.com/aimagelab/mammoth): methods of clfast as its models, and its
reservoir buffer in one pass a batch.

    from clfast.integrations import mammoth

    mammoth.register()  # --model clfast-hebb, clfast-ewc, clfast-arm, ...
    mammoth.patch_buffer()  # for any of Mammoth's own models with a buffer

in a checkout of Mammoth, before its command line is read. Nothing of Mammoth is imported before one
of the two is called, and nothing of it is changed but what `patch_buffer` says.
"""

from .buffer import BufferPatch, patch_buffer
from .models import LearnerModel, MemoryModel, PluginModel
from .registry import continual_models, register

__all__ = [
    "BufferPatch",
    "LearnerModel",
    "MemoryModel",
    "PluginModel",
    "continual_models",
    "patch_buffer",
    "register",
]
