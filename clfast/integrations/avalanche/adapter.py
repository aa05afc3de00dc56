"""`Adapter`: a plugin for any loop in Avalanche's, and those of :mod:`clfast.plugins` by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any, ClassVar

from torch import Tensor, nn

from ... import plugins
from ..._arguments import integer
from ...plugins import Plugin, QuadraticPlugin, RehearsalPlugin
from .strategy import (
    OfModel,
    Often,
    Stores,
    Strategy,
    check_one_head,
    samples,
    trained_on,
)


class Adapter(OfModel):
    """A :class:`clfast.plugins.Plugin` as a plugin of Avalanche.

    It is made for ``strategy.model`` when the first experience begins. Penalties that are
    quadratic add their gradient without a graph, so that ``strategy.loss`` is the loss of the task
    alone; what other plugins have to say is a part of it.

    Args:
        kind: makes the plugin, called with the model and the options.
        mb_size: samples of a batch when an experience has ended; None: the strategy's of training.
        options: of the plugin, by keyword; what may be refused of their values is refused when the
            plugin is made.

    Attributes:
        plugin: None before the first experience.

    Raises:
        TypeError: an option that the plugin has not, or one that is missing.
        RuntimeError: when an experience begins, for a model that wants task labels, a
            MultiTaskModule; but SI has no passes of its own.
    """

    supports_distributed = False
    plugin: Plugin | None

    _passes: ClassVar[bool] = True  # Whether the plugin has passes of its own through the model.

    def __init__(
        self, kind: Callable[..., Plugin], *, mb_size: int | None = None, **options: Any
    ) -> None:
        super().__init__()
        where = type(self).__name__
        self._mb_size = None if mb_size is None else integer(mb_size, "mb_size", where, least=1)
        check_options(kind, options, where, beside=("mb_size",))
        self._kind, self._options = kind, options
        self._saved: Mapping[str, Any] | None = None  # to be loaded into the plugin
        self.plugin = None

    def before_training_exp(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        if self._passes:
            check_one_head(strategy.model, type(self).__name__)
        self.plugin = self.of(strategy, self._make, self.plugin)

    def before_backward(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        plugin = self._begun(self.plugin)
        if not isinstance(plugin, QuadraticPlugin):
            strategy.loss = plugin.before_backward(strategy.loss)

    def after_backward(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del strategy, args, kwargs
        self._begun(self.plugin).after_backward()

    def after_update(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del strategy, args, kwargs
        self._begun(self.plugin).after_step()

    def after_training_exp(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        self._begun(self.plugin).on_task_end(samples(strategy, trained_on(strategy), self._mb_size))

    def state_dict(self) -> dict[str, Any]:
        """The plugin's; before the first experience what was loaded, or nothing."""
        return dict(self._saved or {}) if self.plugin is None else self.plugin.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over a state, now or when the first experience begins, of a model whose parameters
        were loaded before. Raises then what the plugin raises."""
        if self.plugin is None:
            self._saved = dict(state_dict) or None
        else:
            self.plugin.load_state_dict(state_dict)

    def _make(self, model: nn.Module) -> Plugin:
        plugin = self._kind(model, **self._options)
        if self._saved is not None:
            plugin.load_state_dict(self._saved)
            self._saved = None
        return plugin


class Rehearsal(Stores, Adapter):
    """A :class:`clfast.plugins.RehearsalPlugin` in a strategy, see `Adapter`.

    Args:
        store: ``"experience"``: when one has ended its samples are stored; ``"iteration"``: each
            mini-batch after its step, for streams that are seen once.

    Raises:
        RuntimeError: before the forward pass, where each mini-batch is to be stored and a replay
            plugin has put past samples into it.
    """

    def __init__(
        self,
        kind: Callable[..., RehearsalPlugin],
        *,
        store: Often = "experience",
        mb_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(kind, mb_size=mb_size, **options)
        self._store_every(store, "store")

    def _keep(self, x: Tensor, y: Tensor) -> None:
        plugin = self._begun(self.plugin)
        assert isinstance(plugin, RehearsalPlugin)
        plugin.store(x, y)


class EWC(Adapter):
    """:class:`clfast.plugins.EWC` in a strategy, with its options, and ``mb_size`` of `Adapter`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(plugins.EWC, **options)


class OnlineEWC(Adapter):
    """:class:`clfast.plugins.OnlineEWC` in a strategy, as `EWC`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(plugins.OnlineEWC, **options)


class SI(Adapter):
    """:class:`clfast.plugins.SI` in a strategy, as `EWC`."""

    _passes = False

    def __init__(self, **options: Any) -> None:
        super().__init__(plugins.SI, **options)


class MAS(Adapter):
    """:class:`clfast.plugins.MAS` in a strategy, as `EWC`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(plugins.MAS, **options)


class RWalk(Adapter):
    """:class:`clfast.plugins.RWalk` in a strategy, as `EWC`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(plugins.RWalk, **options)


class LwF(Adapter):
    """:class:`clfast.plugins.LwF` in a strategy, as `EWC`.

    Its term is in ``strategy.loss`` as soon as the strategy has made its forward pass, so that it
    is of that one, whatever passes other plugins make later.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(plugins.LwF, **options)

    def after_forward(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        super().before_backward(strategy, *args, **kwargs)

    def before_backward(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        """Nothing: it has been added."""


class ER(Rehearsal):
    """:class:`clfast.plugins.ER` in a strategy, with its options, as ``memory=ReplayBuffer(200)``,
    and those of `Rehearsal`. The loss of past samples is a mean of its own, from a pass of its own;
    `Replay` joins them to the mini-batch."""

    def __init__(self, **options: Any) -> None:
        super().__init__(plugins.ER, **options)


class ERMIR(Rehearsal):
    """:class:`clfast.plugins.ERMIR` in a strategy, as `ER`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(plugins.ERMIR, **options)


class AGEM(Rehearsal):
    """:class:`clfast.plugins.AGEM` in a strategy, as `ER`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(plugins.AGEM, **options)


class GEM(Rehearsal):
    """:class:`clfast.plugins.GEM` in a strategy, as `ER`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(plugins.GEM, **options)


def check_options(
    kind: Callable[..., Any],
    options: Mapping[str, Any],
    where: str,
    *,
    without: tuple[str, ...] = (),
    beside: tuple[str, ...] = (),
) -> None:
    """TypeError for an option that ``kind``, a call with a model and options, does not take, or
    needs and was not given. Where it takes any, as ``**options``, the rest is its own to check.
    """
    _, *parameters = signature(kind).parameters.values()
    own = [p for p in parameters if p.kind is not Parameter.VAR_KEYWORD and p.name not in without]
    known = [*(p.name for p in own), *beside]
    open_end = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)
    for name in options:
        if name in without or not (open_end or name in known):
            raise TypeError(f"{where}: there is no option {name}; there are {', '.join(known)}")
    for p in own:
        if p.default is Parameter.empty and p.name not in options:
            raise TypeError(f"{where}: {p.name} is missing; pass {p.name}=")
