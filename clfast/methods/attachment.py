"""`attach`: any model predicts through Hebb, MbPA or Mixture, without a change to its code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .. import _arguments
from .._modes import evaluating
from ..memory import KeyValueMemory
from ..plugins.base import in_own_pass
from . import checks
from .hebb import Hebb, MbPA, Mixture
from .neighbours import NeighbourLearner
from .protocol import Batches, pairs

_METHODS: dict[str, type[NeighbourLearner]] = {"hebb": Hebb, "mbpa": MbPA, "mixture": Mixture}

# Whose head's input a forward pass is after, and where it is put; of this thread alone.
_captured: ContextVar[tuple[Attachment, list[Tensor]] | None] = ContextVar(
    "_captured", default=None
)


def attach(
    model: nn.Module,
    head: str = "fc",
    memory: KeyValueMemory | None = None,
    *,
    method: str = "hebb",
    **options: Any,
) -> Attachment:
    """Make a model predict through a method with a memory.

    From then on, in eval mode, the logits that the model's output layer gives are adapted to the
    neighbours of its input; the input of the layer is h_x. In train mode nothing changes, so that
    the model is trained by whatever loop trains it. Nothing is adapted while the memory is empty.

    Args:
        model: any module.
        head: name of its output layer, an ``nn.Linear``, as ``model.get_submodule`` takes it. It
            may be replaced by another one later: the name counts.
        memory: written to by the attachment's `write` and `fit_memory`, or by yourself. None: a new
            one without bound on the head's device.
        method: ``"hebb"``, ``"mbpa"`` or ``"mixture"``.
        options: of `Hebb`, `MbPA` or `Mixture`, as ``k=200``; less ``base_optimizer``.

    Returns:
        The attachment; its ``detach()`` undoes everything.

    Raises:
        TypeError, ValueError: the model has no such layer or it is not linear; memory and layer
            differ in d; the model or the layer has an attachment already; an option is wrong. The
            model is as before.
    """
    where = "attach"
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where}: model must be an nn.Module, got {type(model).__name__}")
    _arguments.one_of(method, _METHODS, "method", where)
    if attached(model) is not None:
        raise ValueError(f"{where}: model has an attachment already; detach() that one first")
    layer = _head_of(model, head, where)
    for hook in layer._forward_hooks.values():
        if isinstance(hook, _HeadHook) and hook.attachment is not None:
            raise ValueError(
                f"{where}: head {head!r} has an attachment already, of a model that shares it; "
                "detach() that one first"
            )
    if memory is None:
        memory = KeyValueMemory(layer.in_features, device=layer.weight.device)
    return Attachment(model, head, _learner(method, layer, memory, options, where))


def _learner(
    method: str, layer: nn.Linear, memory: KeyValueMemory, options: dict[str, Any], where: str
) -> NeighbourLearner:
    kind = _METHODS[method]
    if "base_optimizer" in options:
        raise TypeError(f"{where}: base_optimizer is not taken: the model is trained by your loop")
    taken = [p.name for p in signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY]
    taken.remove("base_optimizer")
    for name in options:
        if name not in taken:
            raise TypeError(
                f"{where}: method {method!r} has no option {name!r}; it takes {', '.join(taken)}"
            )
    try:
        return kind(nn.Identity(), layer, memory, **options)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from error


def attached(model: nn.Module) -> Attachment | None:
    """The attachment of a model, or of a deep copy of one that had one; None without."""
    for hook in model._forward_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Attachment):
            return owner
    return None


class Attachment:
    """What `attach` returns: the memory's way in, and the way out.

    A deep copy of the model has an attachment of its own, see `attached`, with the same memory; a
    deep copy of the head alone has none. The adapted logits are new tensors without a gradient.
    Under autocast the adaptation itself is in float32; the logits have the type that the head gave.

    Attributes:
        model: the model.
        learner: `Hebb`, `MbPA` or `Mixture`, whose options may be changed.
    """

    def __init__(self, model: nn.Module, head: str, learner: NeighbourLearner) -> None:
        self.model = model
        self.learner = learner
        self._name = head
        self._hooked: nn.Module | None = None
        self._head_hook: RemovableHandle | None = None
        self._model_hook: RemovableHandle | None = model.register_forward_pre_hook(self._follow)
        self._follow(model, ())

    @property
    def memory(self) -> KeyValueMemory:
        """Where the neighbours come from."""
        return self.learner.memory

    def detach(self) -> None:
        """Let the model predict as before; the memory stays. A second call does nothing."""
        for hook in (self._model_hook, self._head_hook):
            if hook is not None:
                hook.remove()
        self._model_hook = self._head_hook = self._hooked = None

    def write(self, x: Any, y: Tensor) -> None:
        """Write a batch to the memory: the head's input, in eval mode, with its labels.

        Args:
            x: what the model takes.
            y: [B] int64 in [0, C).

        Raises:
            TypeError, ValueError: as `Hebb.observe`; the attachment is detached. The memory is as
                before.
        """
        self._write(x, y, "Attachment.write")

    def fit_memory(self, loader: Batches, *, progress: bool = False) -> None:
        """Write all pairs (x, y) of a loader to the memory, moved to the head's device.

        Raises as `write`; batches before the bad one stay written.
        """
        where = "Attachment.fit_memory"
        device = self._head(where).weight.device
        for x, y in pairs(loader, where, progress=progress):
            checks.check_samples(x, where)
            self._write(x.to(device), y.to(device) if isinstance(y, Tensor) else y, where)

    def on_task_end(self, loader: Batches | None = None) -> None:
        """Write the samples of `loader`, if given; then see `Hebb.on_task_end`.

        Raises as `fit_memory`.
        """
        if loader is not None:
            self.fit_memory(loader)
        self.learner.head = self._head("Attachment.on_task_end")
        self.learner.on_task_end()

    def _head(self, where: str) -> nn.Linear:
        if self._model_hook is None:
            raise ValueError(f"{where}: this attachment is detached; attach the model again")
        return _head_of(self.model, self._name, where)

    def _write(self, x: Any, y: Tensor, where: str) -> None:
        head = self._head(where)
        with evaluating(self.model), torch.no_grad(), _capturing(self) as inputs:
            try:
                self.model(x)
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
                    raise  # of the machine: out of memory, a device's fault
                raise ValueError(f"{where}: the model cannot take x: {error}") from error
        if not inputs:
            raise ValueError(f"{where}: the model's forward pass does not call {self._name!r}")
        features = inputs[-1].float() if inputs[-1].dtype != torch.float64 else inputs[-1]
        features = features.reshape(-1, head.in_features)
        checks.check_labels(y, len(features), len(head.weight), features.device, where)
        checks.check_finite(features, where)
        self.memory.staged(features, y, where=where)()

    def _follow(self, model: nn.Module, args: Any) -> None:
        """Before each pass: the head may have been replaced."""
        del args
        head = _head_of(model, self._name, "Attachment")
        if head is self._hooked:
            return
        if self._head_hook is not None:
            self._head_hook.remove()
        self._hooked, self._head_hook = (
            head,
            head.register_forward_hook(_HeadHook(self), with_kwargs=True),
        )

    def _adapt(
        self, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], logits: Tensor
    ) -> Tensor | None:
        captured = _captured.get()
        if captured is not None and captured[0] is self:
            captured[1].append(_input_of(args, kwargs).detach())
            return None
        # Plugins ask what the network itself says: of its importances, or as a teacher.
        if self.model.training or in_own_pass() or not len(self.memory):
            return None
        where = "Attachment"
        head = self._head(where)
        checks.check_head(head, self.memory, where)
        self.learner.head = head
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
            features = _input_of(args, kwargs).detach().to(wide).reshape(-1, head.in_features)
            checks.check_finite(features, where)
            base = logits.detach().to(wide).reshape(-1, logits.shape[-1])
            scores = self.learner._scores(features, base, where)
            # Never the head's own output: callers write into what they are given.
            return scores.to(logits.dtype).reshape(logits.shape).clone()


class _HeadHook:
    """The forward hook of a head, which belongs to an attachment's model."""

    def __init__(self, attachment: Attachment | None) -> None:
        self.attachment = attachment

    def __call__(
        self, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], logits: Tensor
    ) -> Tensor | None:
        return None if self.attachment is None else self.attachment._adapt(args, kwargs, logits)

    def __deepcopy__(self, memo: dict[int, Any]) -> _HeadHook:
        """Of the copy's attachment, which is there before its head; of none if only the head, or a
        part of the model with it, is copied."""
        return _HeadHook(memo.get(id(self.attachment)))


@contextmanager
def _capturing(attachment: Attachment) -> Iterator[list[Tensor]]:
    inputs: list[Tensor] = []
    token = _captured.set((attachment, inputs))
    try:
        yield inputs
    finally:
        _captured.reset(token)


def _input_of(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    return args[0] if args else kwargs["input"]


def _head_of(model: nn.Module, name: str, where: str) -> nn.Linear:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        raise ValueError(
            f"{where}: model has no layer {name!r}; its linear layers are {', '.join(linear)}"
        ) from None
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"{where}: head {name!r} must be an nn.Linear, got {type(layer).__name__}")
    return layer
