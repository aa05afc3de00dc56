"""`LwF`: learning without forgetting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .. import _arguments
from .._wrapped import distributed, unwrapped
from .base import (
    Batches,
    Plugin,
    batches,
    check_loss,
    check_model,
    check_parts,
    in_own_pass,
    own_pass,
)
from .processes import together
from .step import Step, trains
from .tables import may_become
from .teacher import distilled, teacher_of

Classes: TypeAlias = Literal["seen"] | None


class LwF(Plugin):
    """Learning without forgetting: held to what the network before says of the same samples.

    Li & Hoiem, "Learning without Forgetting": loss + strength KL(softmax(teacher / T) ||
    softmax(student / T)), see :func:`clfast.ops.distillation_loss`; no factor T^2. The teacher is a
    frozen copy of the network in eval mode, made when a task ends.

    ``before_backward`` alone adds something, once for each forward pass: it distils the inputs of
    the last one, which a hook on the model has seen. That is a pass in training mode with
    gradients; passes that other plugins make do not count. Accumulated losses are each given to
    ``before_backward``. The teacher runs under the autocast that the call is under.

    * ``torch.compile``, DistributedDataParallel: pass the model that the loop calls. The one inside
      of a compiled model does, too, unless it is compiled with ``fullgraph=True``, or has run.
    * Heads may grow: the teacher has the outputs that the network had, and the first of the
      student's are compared to them.
    * A deep copy of the model, a pickled one included, has no hook that does anything; a copy of
      the plugin has one on its own model.

    Args:
        model: from whatever it takes to logits [N, C].
        strength: finite and >= 0.
        temperature: T > 0.
        classes: "seen": of the classes that the loaders of ``on_task_end`` have shown so far, as
            where a head has outputs for all classes from the start; None: of all outputs that the
            teacher has, for which no loader is needed.

    Raises:
        TypeError, ValueError: an argument of a wrong kind or out of range.

    Example:
        >>> lwf = LwF(model, strength=1.0)
        >>> for loader in tasks:
        ...     for x, y in loader:
        ...         optimizer.zero_grad()
        ...         lwf.before_backward(F.cross_entropy(model(x), y)).backward()
        ...         optimizer.step()
        ...     lwf.on_task_end(loader)
    """

    teacher: nn.Module | None
    """The network as it was; None before the first task has ended."""

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: float = 1.0,
        temperature: float = 2.0,
        classes: Classes = "seen",
    ) -> None:
        where = type(self).__name__
        check_model(model, where)
        _arguments.one_of(classes, (None, "seen"), "classes", where)
        self.strength = _arguments.real(strength, "strength", where, least=0)
        self.temperature = _arguments.real(
            temperature, "temperature", where, least=0, open_ends="("
        )
        self.teacher = None
        self.seen: set[int] = set()
        """Classes that the loaders so far have shown."""
        self._model, self._classes = model, classes
        self._pass: _Pass | None = None
        self._passed = self._taught = False  # in this task: with a teacher; distilled
        self._step = Step()
        self._hook: RemovableHandle | None = self._hooked()

    def _hooked(self) -> RemovableHandle:
        # Inside of DistributedDataParallel, which moves inputs to the network's device.
        ddp = distributed(self._model)
        self._watched = self._model if ddp is None else ddp.module
        from .passes import PassHook  # which loads the compiler, and should not at every import

        return self._watched.register_forward_hook(PassHook(self), with_kwargs=True)

    def close(self) -> None:
        """Takes the hook off the model; nothing is distilled any more. A second call does
        nothing."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._pass = None

    def __enter__(self) -> LwF:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _saw(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        if module is not self._watched or self.teacher is None:
            return
        if module.training and torch.is_grad_enabled() and not in_own_pass():
            # Loops write into what they are given, as -inf for classes that are masked.
            own = output.clone() if isinstance(output, Tensor) else output
            self._pass = _Pass(args, kwargs, own, _versions(args, kwargs))
            self._passed = True

    # A step

    def before_backward(self, loss: Tensor) -> Tensor:
        """The loss with the distillation of the last forward pass.

        Raises:
            RuntimeError: there was no forward pass since the last call, or what the model gave then
                does not go with what the teacher gives; its inputs were written to since; the
                plugin was closed.
            TypeError, ValueError: ``loss`` is no tensor of one number.
        """
        where = f"{type(self).__name__}.before_backward"
        check_loss(loss, where)
        if self.teacher is None:
            return loss
        if self._hook is None:
            raise RuntimeError(f"{where}: this plugin was closed; make a new one for the model")
        if not loss.requires_grad and not torch.is_grad_enabled():
            return loss
        if self._pass is None:
            trains(loss, where)
            raise RuntimeError(
                f"{where}: model has made no forward pass in training mode, with gradients, since "
                "the last call; call it once after each pass, and make the plugin for the model "
                "that the loop calls"
            )
        if _versions(self._pass.args, self._pass.kwargs) != self._pass.versions:
            raise RuntimeError(
                f"{where}: what went into the forward pass has been written to since; call it "
                "before an input buffer is filled again"
            )
        student = _logits(self._pass.output, where)
        with own_pass(), torch.no_grad():
            target = _logits(self.teacher(*self._pass.args, **self._pass.kwargs), where)
        with torch.enable_grad():
            taught = loss + self.strength * self._distilled(student, target, where)
        self._pass, self._taught = None, True
        return self._step.watched(taught, self._model.parameters())

    def _distilled(self, student: Tensor, target: Tensor, where: str) -> Tensor:
        outputs = target.shape[1]
        if student.shape[1] < outputs:
            raise RuntimeError(
                f"{where}: model gives {student.shape[1]} logits, but gave {outputs} when the last "
                "task ended; heads may grow, not shrink. Make a new plugin for another model"
            )
        classes = range(outputs) if self._classes is None else sorted(self.seen)
        if classes[-1] >= outputs:
            raise RuntimeError(
                f"{where}: a loader has shown class {classes[-1]}, but model gave {outputs} logits "
                "when that task ended; pass labels that are numbers of its outputs, or classes=None"
            )
        wide = torch.promote_types(torch.promote_types(student.dtype, target.dtype), torch.float32)
        return distilled(student.to(wide), target.to(wide), classes, self.temperature)

    def after_backward(self, *, scale: float = 1.0) -> None:
        """Adds nothing: a gradient of the distillation takes the graph of the loss.

        Raises:
            RuntimeError: ``before_backward`` was not called in this step.
        """
        where = f"{type(self).__name__}.after_backward"
        _arguments.real(scale, "scale", where, least=0, open_ends="(")
        if self._pass is not None and not self._step.in_loss():
            raise RuntimeError(
                f"{where}: the last forward pass was not distilled; call "
                "loss = plugin.before_backward(loss) before loss.backward()"
            )
        self._pass = None
        self._step.forget()

    # Between tasks

    @torch.inference_mode(False)
    def on_task_end(self, loader: Batches | None = None) -> None:
        """The network as it is becomes the teacher.

        Args:
            loader: the task's samples, batches (x, y, ...), of which labels are looked at if
                ``classes`` is "seen"; else none is needed.

        Raises:
            TypeError, ValueError: what the loader gives is of a wrong kind, or nothing.
            RuntimeError: the network cannot be copied; or ``before_backward`` was called of no
                forward pass of the task, though there was a teacher.
            In each case all is as before.
        """
        where = f"{type(self).__name__}.on_task_end"
        if self._passed and not self._taught:
            raise RuntimeError(
                f"{where}: no forward pass of this task was distilled; call "
                "loss = plugin.before_backward(loss) before loss.backward()"
            )
        shown = set() if self._classes is None else self._shown(loader, where)
        try:
            teacher = teacher_of(unwrapped(self._model))
        except (RuntimeError, TypeError) as error:
            if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
                raise  # of the machine: memory that is out
            raise RuntimeError(f"{where}: model cannot be copied: {error}") from error
        self.seen |= shown
        self.teacher, self._pass = teacher, None
        self._passed = self._taught = False
        self._step.forget()

    def _shown(self, loader: Batches | None, where: str) -> set[int]:
        """Classes of the samples, over all processes."""
        device = next(self._model.parameters()).device
        found: set[int] = set()
        with together(self._model, where):
            for _, y in batches(loader, torch.device("cpu"), where, labels=True):
                assert y is not None
                found.update(y.tolist())
        if (ddp := distributed(self._model)) is not None:
            highest = torch.tensor(max(found, default=-1), device=device)
            dist.all_reduce(highest, dist.ReduceOp.MAX, ddp.process_group)
            shown = torch.zeros(int(highest) + 1, device=device)
            shown[sorted(found)] = 1
            dist.all_reduce(shown, dist.ReduceOp.MAX, ddp.process_group)
            found = set(shown.nonzero().flatten().tolist())
        if not found:
            raise ValueError(
                f"{where}: loader gave no samples; pass the samples of the task that ended"
            )
        return found

    # State

    def state_dict(self) -> dict[str, Any]:
        teacher = None
        if self.teacher is not None:
            teacher = {name: t.clone() for name, t in _tensors(self.teacher).items()}
        return {"seen": sorted(self.seen), "teacher": teacher}

    @torch.inference_mode(False)
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As of :class:`Plugin`. A head that has grown since may be the teacher's head before;
        modules that are new must be added later.
        """
        where = f"{type(self).__name__}.load_state_dict"
        check_parts(state_dict, ("seen", "teacher"), where)
        seen, given = state_dict["seen"], state_dict["teacher"]
        try:
            seen = {_arguments.integer(label, "seen", where, least=0) for label in seen}
        except TypeError as error:
            raise ValueError(f"{where}: seen must be class labels; nothing was loaded") from error
        teacher = None
        if given is not None:
            teacher = teacher_of(unwrapped(self._model))
            try:
                _fill(teacher, given)
            except ValueError as error:
                raise ValueError(f"{where}: {error}; nothing was loaded") from None
        self.seen, self.teacher, self._pass = seen, teacher, None
        self._passed = self._taught = False
        self._step.forget()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_hook": self._hook is not None, "_pass": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._hook = self._hooked() if state["_hook"] else None


class _Pass(NamedTuple):
    """A forward pass: what went in and what came out, with its graph."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: object
    versions: list[int]  # of the tensors that went in


def _versions(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    given = (*args, *kwargs.values())
    return [x._version for x in given if isinstance(x, Tensor) and not x.is_inference()]


def _logits(output: object, where: str) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2:
        came = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise RuntimeError(f"{where}: model must give logits [N, C], got {came}")
    return output


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those included that a state dict leaves out."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _fill(network: nn.Module, given: object) -> None:
    """Gives a network other parameters and buffers, which may be smaller in dimension 0."""
    if not isinstance(given, Mapping):
        raise ValueError(f"teacher must be a mapping or None, got {type(given).__name__}")
    own = _tensors(network)
    if differing := sorted(map(str, own.keys() ^ given.keys())):
        raise ValueError(
            f"{differing[0]} is not in both, teacher and model; load the state when model has the "
            "modules that it had when the last task ended, and add others after it"
        )
    for name, tensor in own.items():
        value = given[name]
        if not isinstance(value, Tensor) or value.dtype != tensor.dtype:
            raise ValueError(f"teacher's {name} must be a tensor of {tensor.dtype}")
        if not may_become(value.shape, tensor.shape):
            raise ValueError(
                f"teacher's {name} has shape {list(value.shape)}, but that of model "
                f"{list(tensor.shape)}; only dimension 0 may have grown"
            )
    for name, tensor in own.items():
        tensor.data = given[name].to(tensor.device, copy=True)
