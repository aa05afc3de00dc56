"""Learners that keep samples of the stream: `ER` and `ERMIR` train on them again, `AGEM` and `GEM`
take no step against them."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import cpu_generator, integer, real
from ..memory import ReplayBuffer
from ..ops import gem_project, mir_scores, project_gradients_
from . import checks
from .classifier import Classifier
from .protocol import Batches


class Rehearsal(Classifier):
    """One step on the batch, in which past samples have a say; then the batch is stored.

    Tasks are told apart by ``on_task_end``: samples of the task that is being learnt are not
    rehearsed, so before its first call nothing is.
    """

    task: int
    """How many tasks have ended."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self.task = 0

    def on_task_end(self, loader: Batches | None = None) -> None:
        """What was stored so far is of the past."""
        del loader
        self.task += 1

    @abstractmethod
    def _rehearse(self) -> dict[str, Tensor]:
        """Change the gradients of the batch, which are in ``.grad``; losses by name."""

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        loss, _ = self._cross_entropy(x, y, where)
        self._backward(loss, where)
        losses = {"loss": loss.detach(), **self._rehearse()}
        checks.check_gradients(self.optimizer, where)
        self.optimizer.step()
        return losses

    def _loss_on(self, samples: Mapping[str, Tensor]) -> Tensor:
        device = next(self.model.parameters()).device
        x, y = (samples[name].to(device) for name in ("x", "y"))
        return F.cross_entropy(self._logits(x, f"{type(self).__name__}, of stored samples"), y)

    def _weights(self) -> list[nn.Parameter]:
        """Which the step is about to change: those of the optimizer that have a gradient."""
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        return [p for p in held if p.grad is not None]

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._weights() if p.grad is not None]

    def _gradients_on(self, samples: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The loss, and gradients in the order of `_gradients`; ``.grad`` stays."""
        loss = self._loss_on(samples)
        slopes = torch.autograd.grad(loss, self._weights(), materialize_grads=True)
        return loss.detach(), list(slopes)

    def _own_state(self) -> dict[str, Any]:
        return {"task": self.task}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self.task = integer(state["task"], "task", type(self).__name__, least=0)


class BufferRehearsal(Rehearsal):
    """Rehearsal from one buffer for all tasks.

    Args:
        model, optimizer: see `Classifier`.
        memory: a `ReplayBuffer` that is empty, or holds x, y and task as the learner stores them;
            then the tasks that are in it are past.
        replay: samples of a step, drawn without replacement.
        generator: on the CPU, draws them; None: one of the learner's own with seed 0.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        memory: ReplayBuffer,
        *,
        replay: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, optimizer)
        name = type(self).__name__
        given: object = memory
        if not isinstance(given, ReplayBuffer):
            raise TypeError(f"{name}: memory must be a ReplayBuffer, got {type(given).__name__}")
        if len(memory) and memory.rows.keys() != {"x", "y", "task"}:
            raise ValueError(
                f"{name}: memory must be empty or hold x, y and task, got {', '.join(memory.rows)}"
            )
        if generator is None:
            generator = torch.Generator("cpu").manual_seed(0)
        if len(memory):
            self.task = int(memory.rows["task"].max()) + 1
        self.memory = memory
        self.replay = integer(replay, "replay", name, least=1)
        self.generator = cpu_generator(generator, name)

    def _past(self, count: int) -> Mapping[str, Tensor] | None:
        """So many samples of past tasks; None where there are none."""
        if not self.task or not len(self.memory):
            return None
        of_past = self.memory.rows["task"] != self.task
        batch = self.memory.sample(count, self.generator, where=of_past)
        return batch if len(batch["y"]) else None

    def _store(self, x: Tensor, y: Tensor) -> None:
        self.memory.add(x=x, y=y, task=torch.full_like(y, self.task))

    def _undo(self) -> Callable[[], None]:
        state = self.generator.get_state()

        def undo() -> None:
            self.generator.set_state(state)

        return undo

    def _own_state(self) -> dict[str, Any]:
        return {
            **super()._own_state(),
            "memory": self.memory.state_dict(),
            "generator": self.generator.get_state(),
        }

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        super()._load_own_state(state)
        self.memory.load_state_dict(state["memory"])
        self.generator.set_state(state["generator"])


class ER(BufferRehearsal):
    """Experience replay: cross-entropy of the batch plus that of past samples, one step on both.

    Chaudhry et al., "On Tiny Episodic Memories in Continual Learning"; the two losses are means,
    from two passes, as in the code of Aljundi et al. that the ARM paper compares to.

    Args:
        model, optimizer, memory, replay, generator: see `BufferRehearsal`.

    Raises:
        TypeError, ValueError: as `Classifier`; options out of range.
    """

    def _rehearse(self) -> dict[str, Tensor]:
        samples = self._chosen()
        if samples is None:
            return {}
        loss = self._loss_on(samples)
        loss.backward()
        return {"replay": loss.detach()}

    def _chosen(self) -> Mapping[str, Tensor] | None:
        return self._past(self.replay)


class ERMIR(ER):
    """Experience replay of the samples that the step would interfere with most.

    Aljundi et al., "Online Continual Learning with Maximally Interfered Retrieval": of
    ``candidates`` past samples the ``replay`` whose loss a step on the batch alone would raise
    most, see :func:`clfast.ops.mir_scores`. The model is in train mode, as in their code.

    Args:
        model, optimizer, memory, replay, generator: see `BufferRehearsal`.
        candidates: drawn to choose from.
        lr: of that step; None: what the optimizer's first group has.

    Raises:
        TypeError, ValueError: as `Classifier`; options out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        memory: ReplayBuffer,
        *,
        replay: int = 10,
        candidates: int = 50,
        lr: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, optimizer, memory, replay=replay, generator=generator)
        self.candidates = integer(candidates, "candidates", "ERMIR", least=1)
        self.lr = None if lr is None else real(lr, "lr", "ERMIR", least=0)

    def _chosen(self) -> Mapping[str, Tensor] | None:
        samples = self._past(self.candidates)
        if samples is None:
            return None
        lr = float(self.optimizer.param_groups[0]["lr"]) if self.lr is None else self.lr
        moving = {id(weight) for weight in self._weights()}
        weights = list(self.model.parameters())
        grads = [weight.grad if id(weight) in moving else None for weight in weights]
        x, y = (samples[name].to(weights[0].device) for name in ("x", "y"))
        scores = mir_scores(self.model, x, y, grads, lr)
        worst = scores.topk(min(self.replay, len(scores))).indices
        return {"x": x[worst], "y": y[worst]}


class AGEM(BufferRehearsal):
    """A step that, to first order, does not raise the mean loss on past samples.

    Chaudhry et al., "Efficient Lifelong Learning with A-GEM", see
    :func:`clfast.ops.project_gradients_`.

    Args:
        model, optimizer, memory, replay, generator: see `BufferRehearsal`.

    Raises:
        TypeError, ValueError: as `Classifier`; options out of range.
    """

    def _rehearse(self) -> dict[str, Tensor]:
        samples = self._past(self.replay)
        if samples is None:
            return {}
        loss, reference = self._gradients_on(samples)
        project_gradients_(self._gradients(), reference)
        return {"memory": loss}


class GEM(Rehearsal):
    """A step that, to first order, does not raise the loss on the memory of any past task.

    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", see
    :func:`clfast.ops.gem_project`. Each task has a ring of its last samples, and every step takes a
    gradient on all of each past one.

    Args:
        model, optimizer: see `Classifier`.
        per_task: samples stored of a task.
        margin: gamma >= 0, by which gradients shall agree; 0.5 in the authors' experiments.

    Raises:
        TypeError, ValueError: as `Classifier`; options out of range.
    """

    memories: dict[int, ReplayBuffer]
    """Of the tasks so far, by their number."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        per_task: int,
        margin: float = 0.5,
    ) -> None:
        super().__init__(model, optimizer)
        self.per_task = integer(per_task, "per_task", "GEM", least=1)
        self.margin = real(margin, "margin", "GEM", least=0)
        self.memories = {}

    def _rehearse(self) -> dict[str, Tensor]:
        past = [memory.rows for task, memory in self.memories.items() if task != self.task]
        if not past:
            return {}
        losses, grads = zip(*(self._gradients_on(rows) for rows in past), strict=True)
        own = self._gradients()
        of_memories = torch.stack([_vector(grad) for grad in grads])
        projected = gem_project(_vector(own), of_memories, self.margin)
        for grad, part in zip(own, projected.split([g.numel() for g in own]), strict=True):
            grad.copy_(part.view_as(grad))
        return {"memory": torch.stack(losses).mean()}

    def _store(self, x: Tensor, y: Tensor) -> None:
        memory = self.memories.get(self.task) or self._new_memory()
        memory.add(x=x, y=y)
        self.memories[self.task] = memory

    def _new_memory(self) -> ReplayBuffer:
        device = next(self.model.parameters()).device
        return ReplayBuffer(self.per_task, policy="ring", device=device)

    def __deepcopy__(self, memo: dict[int, Any]) -> GEM:
        """With memories of its own: nobody else has those of a learner."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        clones = {task: memory.clone() for task, memory in self.memories.items()}
        twin.__dict__ = copy.deepcopy({**self.__dict__, "memories": clones}, memo)
        return twin

    def _own_state(self) -> dict[str, Any]:
        memories = {task: memory.state_dict() for task, memory in self.memories.items()}
        return {**super()._own_state(), "memories": memories}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        super()._load_own_state(state)
        memories = {task: self._new_memory() for task in state["memories"]}
        for task, memory in memories.items():
            memory.load_state_dict(state["memories"][task])
        self.memories = memories


def _vector(grads: list[Tensor]) -> Tensor:
    return torch.cat([grad.flatten() for grad in grads])
