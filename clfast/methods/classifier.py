"""`Classifier`: a learner that is one model and its optimizer, and what goes back when it fails."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._logits import logits_of
from .._modes import evaluating
from ..nn.buffers import saved_buffers
from . import checks
from .protocol import Learner
from .restorable import Restorable


class Classifier(Restorable, Learner):
    """A model from x [B, ...] to logits [B, C], trained by an optimizer of its parameters.

    Subclasses say how to learn from a batch in ``_learn``; ``model`` and ``optimizer`` are
    attributes that may be replaced between calls.

    Raises:
        TypeError, ValueError: no module, no optimizer, a model without parameters, an optimizer of
            another model.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model = model
        self.optimizer = optimizer
        self._check(type(self).__name__)

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class of every sample: [B, ...] -> [B] int64, in eval mode.

        Raises:
            TypeError, ValueError: x that the model cannot take; outputs that hold NaN.
        """
        return self._scores(x, f"{type(self).__name__}.predict").argmax(1)

    def predict_log_proba(self, x: Tensor) -> Tensor:
        """Log-probabilities [B, C], float64 for a float64 model, else float32.

        Raises as `predict`.
        """
        return self._scores(x, f"{type(self).__name__}.predict_log_proba").log_softmax(1)

    def observe(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Learn from a batch, in train mode; afterwards every module has the mode it had.

        Args:
            x: [B, ...].
            y: [B] int64 in [0, C).

        Returns:
            The losses by name.

        Raises:
            TypeError, ValueError: as `predict`; an empty batch, of which no loss is the mean; y of
                another dtype, shape, range or device; a loss
                that is not finite. Model, optimizer and the rest of the learner are as before.
        """
        return self._learnt(x, y, self._learn, f"{type(self).__name__}.observe")

    def _learnt(
        self,
        x: Tensor,
        y: Tensor,
        learn: Callable[[Tensor, Tensor, str], dict[str, Tensor]],
        where: str,
    ) -> dict[str, float]:
        """What ``learn`` makes of a batch that is looked at first; all is as before if it fails."""
        self._check(where)
        checks.check_samples(x, where)
        if not len(x):
            raise ValueError(f"{where}: x is an empty batch")
        with self._guarded(where):
            # Autograd may not keep inference tensors.
            x, y = (t.clone() if isinstance(t, Tensor) and t.is_inference() else t for t in (x, y))
            losses = learn(x, y, where)
            values = torch.stack(list(losses.values())).tolist() if losses else []
            found = dict(zip(losses, values, strict=True))
            for name, loss in found.items():
                _check_finite(name, loss, where)
            self._store(x, y)
        return found

    @contextmanager
    def _guarded(self, where: str) -> Iterator[None]:
        """Train mode and gradients inside; when the block raises, all is as before, and what torch
        or an op has to say is said in the name of `where`."""
        undo = self._undo()
        try:
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                _training(self.model),
                _undone_if_it_fails(self.model, self._modules(), self.optimizer),
            ):
                yield
        except BaseException as error:
            undo()
            # Subclasses tell of other things: of memory that is out, of a device's fault.
            plain = type(error) in (RuntimeError, ValueError, IndexError)
            if plain and not str(error).startswith(type(self).__name__):
                raise ValueError(f"{where}: {error}") from error
            raise

    @abstractmethod
    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        """Take the steps; scalars by name."""

    def _store(self, x: Tensor, y: Tensor) -> None:
        """Keep of the batch, which has been learnt, what is to be kept."""

    def _undo(self) -> Callable[[], None]:
        """A call that puts back what is kept beside modules and optimizer, after a failure."""
        return lambda: None

    def _cross_entropy(self, x: Tensor, y: Tensor, where: str) -> tuple[Tensor, Tensor]:
        """The loss of the model on a batch that is looked at first, and its logits."""
        logits = self._logits(x, where)
        checks.check_labels(y, len(x), logits.shape[1], logits.device, where)
        loss = F.cross_entropy(logits, y)
        _check_finite("loss", loss.item(), where)
        return loss, logits

    def _step(self, loss: Tensor, where: str) -> None:
        self._backward(loss, where)
        self.optimizer.step()

    def _backward(self, loss: Tensor, where: str) -> None:
        """Gradients of this loss alone, also of parameters that the optimizer does not have."""
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        checks.check_gradients(self.optimizer, where)

    def _modules(self) -> list[nn.Module]:
        """Whose buffers are put back when learning fails: the model, and networks that are not
        trained."""
        return [self.model]

    def _logits(self, x: Tensor, where: str, network: nn.Module | None = None) -> Tensor:
        """Of the model, or of another network like it."""
        return logits_of(network or self.model, x, where)

    @torch.no_grad()
    def _scores(self, x: Tensor, where: str) -> Tensor:
        checks.check_samples(x, where)
        with evaluating(self.model):
            logits = self._logits(x, where)
        checks.check_outputs(logits, where)
        return logits

    def _check(self, where: str) -> None:
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"{where}: model must be an nn.Module, got {type(self.model).__name__}")
        parameters = list(self.model.parameters())
        if not parameters:
            raise ValueError(f"{where}: model has no parameters")
        if not any(p.requires_grad for p in parameters):
            raise ValueError(f"{where}: no parameter of model requires grad")
        if self.optimizer is None:
            raise TypeError(f"{where}: optimizer must be a torch optimizer, got NoneType")
        checks.check_optimizer(self.optimizer, where, "optimizer")
        own = set(map(id, parameters))
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        if not own.issuperset(map(id, held)):
            raise ValueError(f"{where}: optimizer holds parameters of another model than model")

    def state_dict(self) -> dict[str, Any]:
        """Copies of the states of model and optimizer, and of what the method keeps beside them."""
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                **self._own_state(),
            }
        )

    def _load(self, state: Mapping[str, Any]) -> None:
        # An optimizer would keep the tensors it is given, and write to them.
        parts = copy.deepcopy(dict(state))
        self.model.load_state_dict(parts.pop("model"))
        self.optimizer.load_state_dict(parts.pop("optimizer"))
        self._load_own_state(parts)

    def _own_state(self) -> dict[str, Any]:
        return {}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        del state


def _check_finite(name: str, loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise ValueError(
            f"{where}: the {name} on x is {loss}; look at x, the parameters of model and the "
            "learning rates"
        )


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Train mode inside; afterwards every submodule has the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _undone_if_it_fails(
    model: nn.Module, modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer
) -> Iterator[None]:
    """Puts the parameters and gradients of the model, the buffers of the modules and the
    optimizer's state back when the block raises."""
    live = list(model.parameters())
    put_back = saved_buffers(*modules)
    gradients = [(parameter, parameter.grad) for parameter in live]
    with torch.no_grad():
        saved = [parameter.detach().clone() for parameter in live]
        state = {
            parameter: {k: v.clone() if isinstance(v, Tensor) else v for k, v in values.items()}
            for parameter, values in optimizer.state.items()
        }
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for parameter, before in zip(live, saved, strict=True):
                parameter.copy_(before)
        put_back()
        for parameter, gradient in gradients:
            parameter.grad = gradient
        optimizer.state.clear()
        optimizer.state.update(state)
        raise
