"""The way into an op, compiled or in its reference; gradients are the matter of `_derivative`.

The dispatcher's own messages on an argument of a wrong kind do not name it. To look at every
argument first would take longer than many a kernel, so tensors and strings, which the dispatcher
never takes for one another, are looked at once a call has failed. Numbers, which it converts, come
through `_check.integer`, `number` and `boolean`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _check

_CHECK_OF_KIND = {
    "Tensor": _check.tensors,
    "Optional[Tensor]": _check.optional_tensors,
    "List[Tensor]": _check.lists_of_tensors,
    "List[Optional[Tensor]]": _check.lists_of_optional_tensors,
    "Optional[List[Tensor]]": _check.optional_lists_of_tensors,
    "str": _check.strings,
}
# Arguments of the schemas that are parts of one of the public functions.
_PUBLIC_NAME = {
    "sq_distances": "neighbors.sq_distances",
    "indices": "neighbors.indices",
    "rounded_rows": "rounded.rows",
    "rounded_offset": "rounded.offset",
    # PyTorch cannot trace an op with an argument called mode.
    "compensation": "mode",
}


def compiled(op: str, *arguments: Any) -> Any:
    """``torch.ops.clfast.<op>(*arguments)``.

    Raises:
        TypeError: a tensor or string that is none.
        RuntimeError: what the op refuses, and :func:`refuse_grad`.
    """
    refuse_grad(op, arguments)
    try:
        return getattr(torch.ops.clfast, op)(*arguments)
    except Exception:
        check_kinds(op, arguments)
        raise


def check_for_reference(
    op: str, fake: Callable[..., Any], *arguments: Any, differentiable: bool = False
) -> None:
    """Refuses what the compiled op would; shapes and values are checked by its fake kernel."""
    check_kinds(op, arguments)
    if not differentiable:
        refuse_grad(op, arguments)
    fake(*arguments)


def check_kinds(op: str, arguments: tuple[Any, ...]) -> None:
    """Raises TypeError for a tensor, list of tensors or string of the schema that is none."""
    for declared, argument in zip(_declared(op), arguments, strict=True):
        check = _CHECK_OF_KIND.get(str(declared.type))
        if check is not None:
            check(op, **{_public_name(declared): argument})


def refuse_grad(op: str, arguments: tuple[Any, ...], first: int = 0) -> None:
    """Raises when an input, from the argument ``first`` on, is to be differentiated through.

    That is: it requires grad while grad mode is on, or carries a tangent of forward-mode AD. Lists
    are taken as they are, parameters and their gradients, but not from a transform of torch.func,
    which would differentiate as if nothing had happened to them.
    """
    grad_mode, forward_mode = _modes()
    if not grad_mode and not forward_mode:
        return
    for at, argument in enumerate(arguments[first:], first):
        if isinstance(argument, Tensor):
            if _is_differentiated(argument, grad_mode, forward_mode):
                _refuse(op, _public_name(_declared(op)[at]))
        elif isinstance(argument, list | tuple) and (forward_mode or in_transform()):
            for i, entry in enumerate(argument):
                if isinstance(entry, Tensor) and _is_differentiated(entry, grad_mode, forward_mode):
                    _refuse(op, f"{_public_name(_declared(op)[at])}[{i}]")


def refuse_grad_of(op: str, **lists: Sequence[Tensor]) -> None:
    """Raises when an entry is to be differentiated through, for an op that is differentiable in
    other arguments."""
    grad_mode, forward_mode = _modes()
    for name, tensors in lists.items():
        for i, entry in enumerate(tensors):
            if isinstance(entry, Tensor) and _is_differentiated(entry, grad_mode, forward_mode):
                _refuse(op, f"{name}[{i}]")


def _modes() -> tuple[bool, bool]:
    """Whether gradients are recorded, and whether tensors may carry tangents."""
    forward_mode = not torch.compiler.is_compiling() and forward_ad._current_level >= 0
    return torch.is_grad_enabled(), forward_mode


def _is_differentiated(tensor: Tensor, grad_mode: bool, forward_mode: bool) -> bool:
    required = grad_mode and tensor.requires_grad
    return required or (forward_mode and forward_ad.unpack_dual(tensor).tangent is not None)


def in_transform() -> bool:
    """Whether a transform of torch.func is at work."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def _refuse(op: str, name: str) -> NoReturn:
    raise RuntimeError(
        f"clfast::{op}: {name} requires grad, but {op} has no gradient by it; "
        f"call it under torch.no_grad() or pass {name}.detach()"
    )


def _declared(op: str) -> Any:
    return getattr(torch.ops.clfast, op).default._schema.arguments


def _public_name(declared: Any) -> str:
    name: str = declared.name
    return _PUBLIC_NAME.get(name, name)
