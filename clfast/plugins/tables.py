"""`ParameterTables`: numbers that are kept of every parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter, is_
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..ops import _check

Table: TypeAlias = "dict[str, Tensor]"


class Group(NamedTuple):
    """Trainable parameters that an op takes at once, and what is kept of them: lists of one
    order."""

    names: list[str]
    parameters: list[nn.Parameter]
    kept: dict[str, list[Tensor]]  # by table


class ParameterTables:
    """Tables of tensors like the trainable parameters of a network, by their names, float32 of
    parameters in 16 bits; of a parameter that was frozen when it was first seen there are none.

    They follow the network. A parameter may be another object of its name, and may have grown in
    dimension 0, as heads do: new entries are 0 in every table but "anchors", where they have their
    present value. So do parameters of new names. What else has changed is refused.
    """

    def __init__(self, network: nn.Module, zeros: Sequence[str], where: str) -> None:
        self._network = network
        self._seen: _Seen | None = None  # of `_groups`
        self._groups: list[Group] = []
        self._tables: dict[str, Table] = {name: {} for name in ("anchors", *zeros)}
        for name, parameter in network.named_parameters():
            if is_lazy(parameter):
                raise TypeError(
                    f"{where}: parameter {name} of model has no size yet; pass a batch through "
                    "the model first"
                )
        self.fit(where)

    @property
    def names(self) -> list[str]:
        return list(self._tables)

    def __getitem__(self, table: str) -> Table:
        return self._tables[table]

    def replace(self, **tables: Table) -> None:
        self._tables.update(tables)
        self._seen = None

    def fit(self, where: str) -> list[Group]:
        """Makes the tables fit the network as it is, and returns its trainable parameters.

        Raises:
            RuntimeError: a parameter is gone, or has another shape; nothing has changed.
        """
        if self._seen is None or not self._seen.is_now():
            self._seen = None
            parameters = dict(self._network.named_parameters())
            self._fit_to(parameters, where)
            trainable = {name: p for name, p in parameters.items() if p.requires_grad}
            self._groups = [
                Group(
                    names,
                    [trainable[name] for name in names],
                    {key: [table[name] for name in names] for key, table in self._tables.items()},
                )
                for names in grouped(trainable)
            ]
            self._seen = _Seen(self._network)
        return self._groups

    @torch.inference_mode(False)
    def _fit_to(self, now: Mapping[str, nn.Parameter], where: str) -> None:
        anchors = self._tables["anchors"]
        for name in anchors:
            if name not in now:
                raise RuntimeError(
                    f"{where}: model has no parameter {name} any more, which this plugin was "
                    "anchored to; make a new plugin for another model"
                )
        for name, held in anchors.items():
            _check_grown(held.shape, now[name], name, where)
        for name, parameter in now.items():
            if name in anchors or parameter.requires_grad:
                self._follow(name, parameter.detach())

    def _follow(self, name: str, value: Tensor) -> None:
        dtype, held = _check.compute_dtype(value), self._tables["anchors"].get(name)
        like = (value.shape, value.device, dtype)
        if held is not None and (held.shape, held.device, held.dtype) == like:
            return
        for key, table in self._tables.items():
            table[name] = _extended(table.get(name), value, key)

    def state(self) -> dict[str, Table]:
        return {
            key: {name: tensor.clone() for name, tensor in table.items()}
            for key, table in self._tables.items()
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Tables as of :meth:`state`, perhaps of a network before it has grown.

        Raises:
            ValueError: a table does not fit; nothing has changed.
        """
        now = dict(self._network.named_parameters())
        made: dict[str, Table] = {key: {} for key in self._tables}
        for key in self._tables:
            for name, tensor in _tensors(state[key], key):
                if name not in now:
                    raise ValueError(f"{key} has {name}, which is no parameter of model")
                if name not in state["anchors"]:
                    raise ValueError(f"{key} has {name}, which anchors has not")
                held = state["anchors"][name].shape
                if tensor.shape != held:
                    raise ValueError(
                        f"{key} of {name} has shape {list(tensor.shape)}, its anchor {list(held)}"
                    )
                try:
                    _check_grown(tensor.shape, now[name], name, key)
                except RuntimeError as error:
                    raise ValueError(str(error)) from None
                if not bool(tensor.isfinite().all()):
                    raise ValueError(f"{key} of {name} holds NaN or infinities")
                made[key][name] = _extended(tensor, now[name].detach(), key)
            if missing := state["anchors"].keys() - made[key].keys():
                raise ValueError(f"{key} has no {min(missing)}, which anchors has")
        for name, parameter in now.items():
            if parameter.requires_grad and name not in made["anchors"]:
                for key, table in made.items():
                    table[name] = _extended(None, parameter.detach(), key)
        self._tables, self._seen = made, None


def grouped(parameters: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names of those that an op takes at once: on one device, and in float64 or in none."""
    groups: dict[tuple[torch.device, bool], list[str]] = {}
    for name, p in parameters.items():
        groups.setdefault((p.device, p.dtype == torch.float64), []).append(name)
    yield from groups.values()


class _Seen:
    """A network at some moment: which modules and parameters it has under which names, and what
    the parameters are like. To look at it again takes a fraction of ``named_parameters()``."""

    def __init__(self, network: nn.Module) -> None:
        self._modules = list(network.modules())
        self._parameters = list(network.parameters())
        self._held, self._forms = self._now()

    def is_now(self) -> bool:
        held, forms = self._now()
        # Objects are compared: == of parameters is one of their values.
        same = len(held) == len(self._held) and all(map(is_, held, self._held))
        return same and forms == self._forms

    def _now(self) -> tuple[list[object], list[object]]:
        # Modules that hold what they held, from the root on, are all modules that there are.
        held: list[object] = []
        for module in self._modules:
            held.append(module)
            for part in (module._parameters, module._modules):
                if part:
                    held += part.keys()
                    held += part.values()
        # A parameter may be given other values by its `data`.
        return held, list(map(_form, self._parameters))


_form = attrgetter("requires_grad", "dtype", "device", "shape")


def _tensors(table: object, key: str) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(table, Mapping):
        raise ValueError(f"{key} must be a mapping, got {type(table).__name__}")
    for name, tensor in table.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(f"{key} of {name} must be a floating-point tensor")
        yield name, tensor


def _extended(held: Tensor | None, value: Tensor, table: str) -> Tensor:
    """What is held of a parameter, with what its new entries have."""
    dtype = _check.compute_dtype(value)
    fresh = torch.zeros_like(value, dtype=dtype)
    if table == "anchors":
        fresh.copy_(value)
    if held is not None:
        (fresh[: len(held)] if held.dim() else fresh).copy_(held)
    return fresh


def may_become(before: torch.Size, now: torch.Size) -> bool:
    """Whether a parameter is as it was, or has grown in dimension 0, as heads do."""
    grown = len(now) == len(before) > 0 and now[1:] == before[1:] and now[0] > before[0]
    return grown or now == before


def _check_grown(held: torch.Size, parameter: Tensor, name: str, where: str) -> None:
    shape = parameter.shape
    if not may_become(held, shape):
        raise RuntimeError(
            f"{where}: {name} has shape {list(held)}, but the parameter of model has "
            f"{list(shape)}; only dimension 0 may grow. Make a new plugin for another model"
        )
