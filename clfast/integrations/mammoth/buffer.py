"""`patch_buffer`: Mammoth's reservoir buffer stores a batch in one pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checkout import of_mammoth

_COLUMNS = ("examples", "labels", "logits", "task_labels", "true_labels")
_PARAMETERS = (
    *("self", "examples", "labels", "logits", "task_labels", "attention_maps", "true_labels"),
    "sample_selection_scores",
)


def patch_buffer(buffer: type | None = None) -> BufferPatch:
    """Replace ``Buffer.add_data`` of Mammoth by one that stores a whole batch at once.

    Buffers of the strategy 'reservoir' then draw all slots of a batch in one call and write every
    attribute with one scatter, in place of a loop over samples. They draw from numpy's global
    generator what the loop would have drawn, so that a seed gives the same buffer as without the
    patch, to the bit. Buffers of other strategies run the original.

    The method of the class is replaced, so that the order of imports does not matter, for buffers
    that are there already, too.

    Args:
        buffer: the class; None: ``utils.buffer.Buffer``.

    Returns:
        What ends it, by :meth:`BufferPatch.undo` or as a context manager.

    Raises:
        ImportError: there is no Mammoth here.
        TypeError: no class that has an ``add_data`` of its own as Mammoth 0.2.2 has it.
        RuntimeError: the class is patched already. Nothing has changed.
    """
    where = "patch_buffer"
    if buffer is None:
        buffer = of_mammoth("utils.buffer", "Buffer", where)
    if not isinstance(buffer, type):
        raise TypeError(f"{where}: buffer must be a class, got {type(buffer).__name__}")
    original = vars(buffer).get("add_data")
    if original is None:
        raise TypeError(
            f"{where}: {buffer.__qualname__} has no add_data of its own; pass Mammoth's "
            "utils.buffer.Buffer"
        )
    if isinstance(getattr(original, "patch", None), BufferPatch):
        raise RuntimeError(
            f"{where}: {buffer.__qualname__} is patched already; undo() that patch first, or keep "
            "it"
        )
    taken = tuple(inspect.signature(original).parameters)
    if taken != _PARAMETERS:
        raise TypeError(
            f"{where}: {buffer.__qualname__}.add_data must take ({', '.join(_PARAMETERS)}), as in "
            f"Mammoth 0.2.2, but takes ({', '.join(taken)})"
        )
    return BufferPatch(buffer, original)


class BufferPatch:
    """From :func:`patch_buffer`.

    Attributes:
        buffer: the class that is patched.
        original: its ``add_data`` of before.
    """

    def __init__(self, buffer: type[Any], original: Callable[..., None]) -> None:
        self.buffer, self.original = buffer, original
        self._fast = _fast_add_data(original)
        self._fast.patch = self
        buffer.add_data = self._fast

    def undo(self) -> None:
        """Put the original back. A second time changes nothing.

        Raises:
            RuntimeError: somebody else has replaced the method since.
        """
        now = vars(self.buffer).get("add_data")
        if now is self.original:
            return
        if now is not self._fast:
            raise RuntimeError(
                f"BufferPatch.undo: {self.buffer.__qualname__}.add_data has been replaced since, "
                f"by {now!r}; undo that first"
            )
        self.buffer.add_data = self.original

    def __enter__(self) -> BufferPatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        kind, active = self.buffer, vars(self.buffer).get("add_data") is self._fast
        return (
            f"<{'patch' if active else 'undone patch'} of {kind.__module__}.{kind.__qualname__}"
            f".add_data, in place of {self.original!r}>"
        )


def _fast_add_data(original: Callable[..., None]) -> Any:
    @torch.no_grad()
    def add_data(
        self: Any,
        examples: Tensor,
        labels: Tensor | None = None,
        logits: Tensor | None = None,
        task_labels: Tensor | None = None,
        attention_maps: Sequence[Tensor] | None = None,
        true_labels: Tensor | None = None,
        sample_selection_scores: Tensor | None = None,
    ) -> None:
        """In one pass where the strategy is 'reservoir'; else as before."""
        tensors = dict(
            zip(_COLUMNS, (examples, labels, logits, task_labels, true_labels), strict=True)
        )
        if self.sample_selection_strategy.lower() != "reservoir":
            original(
                self,
                **tensors,
                attention_maps=attention_maps,
                sample_selection_scores=sample_selection_scores,
            )
            return
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        _check(self, given, attention_maps, sample_selection_scores)
        if not hasattr(self, "examples"):
            self.init_tensors(**tensors)
        drawn = _slots(self.num_seen_examples, len(examples), self.buffer_size)
        self.num_seen_examples += len(examples)
        # Of samples with the same slot the last one stays.
        last = {slot: row for row, slot in enumerate(drawn) if slot >= 0}
        if not last:
            return
        slots, rows = (torch.tensor(list(n), device="cpu") for n in (last.keys(), last.values()))
        for name, tensor in given.items():
            column = getattr(self, name)
            column[slots.to(column.device)] = tensor[rows.to(tensor.device)].to(column)
        if attention_maps is not None:
            for slot, row in last.items():
                maps = [of_layer[row].byte().to(self.device) for of_layer in attention_maps]
                self.attention_maps[slot] = maps
        if sample_selection_scores is not None:
            scores = sample_selection_scores[rows.to(sample_selection_scores.device)]
            self.sample_selection_fn.update(slots.to(scores.device), scores)

    return add_data


def _slots(seen: int, count: int, capacity: int) -> list[int]:
    """Slots of ``count`` samples seen, seen + 1, ... of a stream; -1 for those not stored.

    Algorithm R of Vitter 1985. While there is room, nothing is drawn. One call of numpy with many
    bounds draws what one call a bound draws.
    """
    free = min(max(capacity - seen, 0), count)
    drawn = np.random.randint(0, np.arange(seen + free + 1, seen + count + 1))
    drawn[drawn >= capacity] = -1
    return [*range(seen, seen + free), *drawn.tolist()]


def _check(
    buffer: Any,
    given: dict[str, Tensor],
    attention_maps: Sequence[Tensor] | None,
    scores: Tensor | None,
) -> None:
    """Of what the loop would have found in its middle."""
    where, count = "Buffer.add_data", len(given["examples"])
    stored = [name for name in _COLUMNS if hasattr(buffer, name)]
    parts = dict(given)
    if scores is not None:
        parts["sample_selection_scores"] = scores
    for index, of_layer in enumerate(attention_maps or ()):
        parts[f"attention_maps[{index}]"] = of_layer
    for name, tensor in parts.items():
        if len(tensor) != count:
            raise ValueError(
                f"{where}: {name} must have {count} rows, as examples have, got {len(tensor)}"
            )
        if not stored or name not in _COLUMNS:
            continue
        if name not in stored:
            raise ValueError(
                f"{where}: {name} were not given with the first samples, which had "
                f"{', '.join(stored)}; give them from the start, or empty() the buffer"
            )
        held = getattr(buffer, name).shape[1:]
        if tensor.shape[1:] != held:
            raise ValueError(
                f"{where}: {name} must have rows of shape {list(held)}, as those stored, got "
                f"{list(tensor.shape[1:])}"
            )
