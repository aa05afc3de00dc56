"""`Parametric`: the base classifier, and the plumbing of the methods that add a memory to it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._modes import evaluating
from ..memory import KeyValueMemory
from . import checks
from .modes import as_before_if_it_fails
from .output_network import last_layer
from .protocol import Batches, Learner, pairs


class Parametric(Learner):
    """The base classifier softmax(W g(x) + b), fine-tuned on the stream without using a memory.

    "Parametric" of the Hebb paper's section 4.2. `features`, `head`, `memory` and `base_optimizer`
    are attributes that may be replaced between calls, as growing heads need it. Nothing is copied:
    learners made from the same modules and memory share them.

    Args:
        features: g, any module that maps x [B, ...] to [B, d], or to [B, ...] with d numbers a
            sample, which are flattened.
        head: the output layer, ``nn.Linear`` with weight [C, d], with or without bias; or an output
            network, ``nn.Sequential`` that takes [B, d] and ends in such a layer. Its other modules
            must treat samples one by one in eval mode.
        memory: ``observe`` writes to it, and this class never reads it: that costs what the methods
            with a memory pay, and keeps a memory that they share up to date. None: no memory.
        base_optimizer: takes one step of cross-entropy in each ``observe``, on the parameters it
            was made with. None: the model stays as it is.

    Raises:
        TypeError, ValueError: head is not linear; memory and head differ in d.
    """

    features: nn.Module
    head: nn.Linear | nn.Sequential
    memory: KeyValueMemory | None
    base_optimizer: torch.optim.Optimizer | None

    def __init__(
        self,
        features: nn.Module,
        head: nn.Linear | nn.Sequential,
        memory: KeyValueMemory | None = None,
        *,
        base_optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        name = type(self).__name__
        checks.check_modules(features, head, memory, name)
        checks.check_optimizer(base_optimizer, name)
        self.features = features
        self.head = head
        self.memory = memory
        self.base_optimizer = base_optimizer

    @property
    def num_classes(self) -> int:
        """C, the head's outputs now."""
        return len(last_layer(self.head).weight)

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class of every sample: [B, ...] -> [B] int64.

        The modules run in eval mode and are put back as they were.

        Raises:
            TypeError, ValueError: x that the features module cannot take; features that are NaN or
                Inf, or of another size than head takes; a head with fewer outputs than the memory
                has classes.
        """
        return self._predict_scores(x, f"{type(self).__name__}.predict").argmax(1)

    def predict_log_proba(self, x: Tensor) -> Tensor:
        """Log-probabilities [B, C] of every sample; float64 for a float64 model, else float32.

        Raises as `predict`.
        """
        return self._predict_scores(x, f"{type(self).__name__}.predict_log_proba").log_softmax(1)

    def observe(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Take one step of the base optimizer on a batch, and write the batch to the memory.

        The keys are h_x of Algorithm 1, line 14: the features in eval mode, by the parameters
        before the step, as ``predict`` saw them. Works under ``no_grad`` and ``inference_mode``.

        Args:
            x: [B, ...], B may be 0.
            y: [B] int64 in [0, C).

        Returns:
            ``{"loss": ...}``, the base model's mean cross-entropy on the batch before the step: in
            the mode the modules are in, as the step minimises it; without an optimizer in eval
            mode.

        Raises:
            TypeError, ValueError: as `predict`; y of another dtype, shape, range or device; a loss,
                gradients or keys that are not finite. Model and memory are as before, less the
                gradients. (What an optimizer's own step raises passes through: it may have changed
                some parameters by then.)
        """
        where = f"{type(self).__name__}.observe"
        checks.check_samples(x, where)
        with torch.inference_mode(False), torch.enable_grad():
            # Autograd may not keep inference tensors.
            x, y = (t.clone() if _is_inference(t) else t for t in (x, y))
            features, logits = self._encode(x, where)
            checks.check_labels(y, len(x), self.num_classes, logits.device, where)
            if not len(x):
                return {"loss": 0.0}
            checks.check_finite(features, where)
            write = self._staged(features, y, where)
            if self.base_optimizer is None:
                loss = _loss(logits, y, where)
            else:
                self._check_optimizer(self.base_optimizer, where)
                with as_before_if_it_fails(self.features, self.head):
                    self.base_optimizer.zero_grad(set_to_none=True)
                    trained = self._features(x, "features in train mode", where)
                    loss = _loss(self.head(trained.flatten(1)), y, where)
                    loss.backward()
                    checks.check_gradients(self.base_optimizer, where)
                    self.base_optimizer.step()
            write()
            return {"loss": loss.item()}

    def fit_memory(self, loader: Batches, *, progress: bool = False) -> None:
        """Write all samples of a loader to the memory (Algorithm 1, lines 3-5); learn nothing.

        Args:
            loader: gives pairs (x [B, ...], y [B] int64); they are moved to the head's device.
            progress: show a progress bar.

        Raises:
            TypeError, ValueError: as `observe`. Batches before the bad one stay written.
        """
        where = f"{type(self).__name__}.fit_memory"
        device = last_layer(self.head).weight.device
        for x, y in pairs(loader, where, progress=progress):
            checks.check_samples(x, where)
            x, y = x.to(device), y.to(device) if isinstance(y, Tensor) else y
            features, _ = self._encode(x, where)
            checks.check_labels(y, len(x), self.num_classes, device, where)
            checks.check_finite(features, where)
            self._staged(features, y, where)()

    def on_task_end(self, loader: Batches | None = None) -> None:
        """Write the samples of `loader`, if given, to the memory; see `fit_memory`.

        Leave it out where ``observe`` has written them already.
        """
        if loader is not None:
            self.fit_memory(loader)

    def state_dict(self) -> dict[str, Any]:
        """Copies of the states of features, head, base optimizer and memory (None without one)."""
        return {
            name: None if part is None else copy.deepcopy(part.state_dict())
            for name, part in self._parts().items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` of a learner made alike returned, bit for bit.

        A head that has grown is grown again by whoever loads: C must agree.

        Raises:
            TypeError: not a mapping.
            ValueError: a part is missing, unknown or does not fit; nothing was loaded.
        """
        where = f"{type(self).__name__}.load_state_dict"
        parts = self._parts()
        checks.check_mapping(state_dict, where)
        if state_dict.keys() != parts.keys():
            raise ValueError(
                f"{where}: state must have the parts {', '.join(parts)}, "
                f"got {', '.join(map(str, state_dict))}; nothing was loaded"
            )
        for name, part in parts.items():
            if (part is None) != (state_dict[name] is None):
                has, had = ("no ", "one") if part is None else ("a ", "none")
                raise ValueError(
                    f"{where}: this learner has {has}{name}, the saved one had {had}; "
                    "nothing was loaded"
                )
        # A memory takes a state as a whole or not at all, so it comes last and needs no way back.
        memory = parts.pop("memory")
        before = {name: copy.deepcopy(p.state_dict()) for name, p in parts.items() if p is not None}
        name = ""
        try:
            for name in before:
                # An optimizer would keep the tensors it is given, and write to them.
                parts[name].load_state_dict(copy.deepcopy(state_dict[name]))
            name = "memory"
            if memory is not None:
                memory.load_state_dict(state_dict[name])
        except Exception as error:
            for part_name, state in before.items():
                parts[part_name].load_state_dict(state)
            raise ValueError(f"{where}: {name}: {error}; nothing was loaded") from error

    def _parts(self) -> dict[str, Any]:
        return {
            "features": self.features,
            "head": self.head,
            "base_optimizer": self.base_optimizer,
            "memory": self.memory,
        }

    @torch.no_grad()
    def _predict_scores(self, x: Tensor, where: str) -> Tensor:
        checks.check_samples(x, where)
        features, logits = self._encode(x, where)
        checks.check_finite(features, where)
        checks.check_outputs(logits, where)
        return self._scores(features, logits, where)

    def _scores(self, features: Tensor, logits: Tensor, where: str) -> Tensor:
        """Log-probabilities [B, C] up to a constant a sample, from h_x [B, d] and base logits."""
        del features, where
        return logits

    @torch.no_grad()
    def _encode(self, x: Tensor, where: str) -> tuple[Tensor, Tensor]:
        """h_x [B, d] and the base logits [B, C], widened to float32 at least, in eval mode."""
        checks.check_modules(self.features, self.head, self.memory, where)
        last = last_layer(self.head)
        first = self.head if isinstance(self.head, nn.Linear) else self.head[0]
        dim = first.in_features if isinstance(first, nn.Linear) else None
        if dim is None and self.memory is not None:
            dim = self.memory.dim
        if not len(x):  # modules that reshape fail on an empty batch
            empty = last.weight.new_empty(0, dim or 0)
            return empty, _widened(empty.new_empty(0, last.out_features))
        with evaluating(self.features, self.head):
            features = self._features(x, "features", where)
            checks.check_features(features, len(x), dim, self.memory, where)
            features = features.flatten(1)
            try:
                return features, _widened(self.head(features))
            except RuntimeError as error:
                if type(error) is not RuntimeError:
                    raise
                raise ValueError(
                    f"{where}: head cannot take the features of x, {features.dtype} "
                    f"{list(features.shape)}: {error}"
                ) from error

    def _features(self, x: Tensor, what: str, where: str) -> Tensor:
        try:
            features: Tensor = self.features(x)
        except (RuntimeError, IndexError, ValueError) as error:
            # Subclasses of RuntimeError tell of the machine: out of memory, a device's fault.
            if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
                raise
            raise ValueError(
                f"{where}: {what} cannot take x, {x.dtype} {list(x.shape)}: {error}"
            ) from error
        return features

    def _staged(self, features: Tensor, y: Tensor, where: str) -> Callable[[], None]:
        """Checks the samples now; the returned call writes them to the memory, if there is one."""
        if self.memory is None:
            return lambda: None
        return self.memory.staged(features, y, where=where)

    def _check_optimizer(self, optimizer: torch.optim.Optimizer, where: str) -> None:
        checks.check_optimizer(optimizer, where)
        own = {id(p) for module in (self.features, self.head) for p in module.parameters()}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        if any(id(p) not in own for p in held):
            raise ValueError(
                f"{where}: base_optimizer holds parameters of neither features nor head; after "
                "replacing a module make a new optimizer for what is there now"
            )


def _widened(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _is_inference(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_inference()


def _loss(logits: Tensor, y: Tensor, where: str) -> Tensor:
    loss = F.cross_entropy(_widened(logits), y)
    if not bool(loss.isfinite()):
        raise ValueError(
            f"{where}: the loss on x is {loss.item()}; look at the parameters of features and head"
        )
    return loss
