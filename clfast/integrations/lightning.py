"""Lightning: callbacks that make any `LightningModule` learn continually, without a change to it.

    from clfast.integrations.lightning import PluginCallback
    from clfast.plugins import EWC

    holds = PluginCallback(lambda module: EWC(module, strength=100.0))
    for loader in tasks:
        Trainer(callbacks=[holds], max_epochs=5).fit(module, loader)

* `PluginCallback`: penalties and replay, any plugin of :mod:`clfast.plugins`.
* `ProtectCallback`: masks, :func:`clfast.optim.protect`.

Both names are subclasses of Lightning's ``Callback``, which are made when they are first asked for:
of ``lightning.pytorch`` or of ``pytorch_lightning``, whichever is imported, the former if both are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle

from ..optim import Protection, protect
from ..plugins import Plugin

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


class _PluginHooks:
    """Calls plugins around the steps of a Trainer, and at the end of a task.

    Gradients of penalties and of past samples are added when Lightning has all gradients of a step,
    has unscaled them and has not clipped them yet; losses that the module logs are the task's own.
    One ``Trainer.fit`` is one task; the same callback goes into the Trainer of each. At its end the
    plugins read the training batches as ``training_step`` had them: through the hooks of their
    transfer, in the Trainer's precision, and no more than ``limit_train_batches``.

    Plugins are in the checkpoints; what the end of a task brings is in those that are saved after
    ``fit``. A task that was interrupted goes on with ``fit(..., ckpt_path=...)``. The next task
    begins without: load the checkpoint's ``"state_dict"`` into the module, and
    ``checkpoint["callbacks"]["PluginCallback"]`` into the callback.

    Args:
        make_plugins: each makes a plugin for a network, when the first ``fit`` begins: for the
            `LightningModule`, whose ``forward`` gives logits, or for `DistributedDataParallel`
            around it. They are called in this order.
        end_task: False: the end of ``fit`` is not that of a task; call ``on_task_end(loader)`` of
            the ``plugins`` yourself.

    Raises:
        TypeError, ValueError: no function; none at all.
        RuntimeError: in ``fit``, for another module than in the first; for a module that has more
            than one optimiser, where it is not known which losses a step is of; at the end of a
            ``fit`` that went on from a checkpoint and trained nothing, whose task would be lost.
        TypeError: in ``fit``, for several training loaders, of which none is the task's.
    """

    plugins: tuple[Plugin, ...]
    """Empty before the first ``fit``."""

    def __init__(self, *make_plugins: Callable[[nn.Module], Plugin], end_task: bool = True) -> None:
        where = "PluginCallback"
        if not make_plugins:
            raise ValueError(
                f"{where}: give at least one function that makes a plugin for a network, as "
                "lambda module: EWC(module, strength=100.0)"
            )
        for make in make_plugins:
            if not callable(make):
                raise TypeError(
                    f"{where}: make_plugins must be functions that make a plugin for a network, "
                    f"got {type(make).__name__}"
                )
        self.plugins = ()
        self._make, self._end_task = make_plugins, end_task
        self._module: nn.Module | None = None
        self._loaded: list[Mapping[str, Any]] | None = None  # until there are plugins
        self._hook: RemovableHandle | None = None
        self._stepping = self._trained = False

    def on_fit_start(self, trainer: Any, pl_module: nn.Module) -> None:
        self._trained = False
        if self._module is None:
            made = tuple(make(trainer.strategy.model) for make in self._make)
            for plugin in made:
                if not isinstance(plugin, Plugin):
                    raise TypeError(
                        "PluginCallback: make_plugins must return plugins of clfast.plugins, got "
                        f"{type(plugin).__name__}"
                    )
            if self._loaded is not None:
                _load(made, self._loaded)
            self.plugins, self._module, self._loaded = made, pl_module, None
        if self._module is not pl_module:
            raise RuntimeError(
                "PluginCallback: it belongs to the module of its first fit; make a new callback "
                "for another module"
            )

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        self._trained = True
        optimizers = trainer.optimizers
        if len(optimizers) != 1:
            raise RuntimeError(
                f"PluginCallback: the module must have one optimizer, got {len(optimizers)}; call "
                "the plugins in its training_step instead"
            )
        if self._end_task and _several(trainer.train_dataloader):
            raise TypeError(
                "PluginCallback: the module has several training loaders, and a task's end wants "
                "batches (x, y) of one; use end_task=False, and call on_task_end(loader) of the "
                "plugins when fit has returned"
            )
        # Lightning has no hook behind the step, and this one knows of steps that a scaler skips.
        self._hook = optimizers[0].register_step_post_hook(self._after_step)

    def on_before_optimizer_step(
        self, trainer: Any, pl_module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        held = (p for group in optimizer.param_groups for p in group["params"])
        self._stepping = any(p.grad is not None for p in held)  # else training_step returned None
        if self._stepping:
            scale = _scale(trainer, optimizer)
            for plugin in self.plugins:
                plugin.after_backward(scale=scale)

    def _after_step(self, *_: Any) -> None:
        if self._stepping:
            for plugin in self.plugins:
                plugin.after_step()
        self._stepping = False

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        self._unhook()
        if self._end_task:
            for plugin in self.plugins:
                plugin.on_task_end(_Trained(trainer, pl_module))

    def on_fit_end(self, trainer: Any, pl_module: nn.Module) -> None:
        if self._end_task and not self._trained and trainer.ckpt_path is not None:
            raise RuntimeError(
                "PluginCallback: the checkpoint is of a fit that was at its end, so that nothing "
                "was trained and no task has ended. If the end of its task is not in it, call "
                "on_task_end(loader) of callback.plugins, or fit again from a checkpoint before; "
                'for the next task load its "state_dict" into the module and '
                'checkpoint["callbacks"]["PluginCallback"] into a new callback by '
                "load_state_dict, and fit without ckpt_path"
            )

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        self._unhook()

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def state_dict(self) -> dict[str, Any]:
        """Empty before there are plugins, unless a state waits for them."""
        if not self.plugins:
            return {} if self._loaded is None else {"plugins": list(self._loaded)}
        return {"plugins": [plugin.state_dict() for plugin in self.plugins]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """At once, or when the next ``fit`` has made the plugins; an empty one, of a callback that
        has not been in a ``fit``, asks for nothing then.

        Raises:
            ValueError: a state of something else, or of another number of plugins.
        """
        if not state_dict and not self.plugins:
            self._loaded = None
            return
        if state_dict.keys() != {"plugins"}:
            raise ValueError(
                "PluginCallback: state_dict must be that of a PluginCallback, with the part "
                f"plugins, got ({', '.join(map(str, state_dict))})"
            )
        states = list(state_dict["plugins"])
        if len(states) != len(self._make):
            raise ValueError(
                f"PluginCallback: the checkpoint is of {len(states)} plugins, but this callback "
                f"has {len(self._make)}"
            )
        if self.plugins:
            _load(self.plugins, states)
        else:
            self._loaded = states


class _ProtectHooks:
    """Keeps reserved entries of parameters as they are while a Trainer fits.

    Args:
        reserved: of the `LightningModule`, on its device, the masks by parameter that
            :func:`clfast.optim.protect` takes; asked at the start of every ``fit``.

    Raises:
        TypeError, ValueError: no function; in ``fit``, as `protect`, for parameters that no
            optimiser of the module has, too.
    """

    def __init__(self, reserved: Callable[[Any], Mapping[Tensor, Tensor]]) -> None:
        if not callable(reserved):
            raise TypeError(
                "ProtectCallback: reserved must be a function of the module that returns masks by "
                f"parameter, got {type(reserved).__name__}"
            )
        self._reserved = reserved
        self._protections: list[Protection] = []

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        masks = dict(self._reserved(pl_module))
        parts = []
        for optimizer in trainer.optimizers:
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            parts.append((optimizer, {p: m for p, m in masks.items() if id(p) in held}))
            masks = {p: m for p, m in masks.items() if id(p) not in held}
        if masks:
            names = {id(p): name for name, p in pl_module.named_parameters()}
            unknown = ", ".join(names.get(id(p), "a tensor of another module") for p in masks)
            raise ValueError(
                f"ProtectCallback: no optimizer of the module has {unknown}; leave it out of "
                "reserved"
            )
        try:
            self._protections += [protect(optimizer, own) for optimizer, own in parts if own]
        except BaseException:
            self._end()
            raise

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        self._end()

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        while self._protections:
            self._protections.pop().remove()


class _Trained:
    """The batches of an epoch, as Lightning hands them to ``training_step``."""

    def __init__(self, trainer: Any, module: Any) -> None:
        self._trainer, self._module = trainer, module

    def __iter__(self) -> Iterator[Any]:
        trainer, module = self._trainer, self._module
        count = trainer.num_training_batches  # inf where the loader does not know
        limit = None if count == float("inf") else count
        for batch in islice(trainer.train_dataloader, limit):
            converted = trainer.precision_plugin.convert_input(batch)
            converted = module._on_before_batch_transfer(converted, dataloader_idx=0)
            yield trainer.strategy.batch_to_device(converted, dataloader_idx=0)


def _several(loaders: Any) -> bool:
    """Whether they are a collection of loaders, as CombinedLoader takes it."""
    if isinstance(loaders, Mapping):
        return True
    return isinstance(loaders, list | tuple) and any(isinstance(x, DataLoader) for x in loaders)


def _load(plugins: Sequence[Plugin], states: Sequence[Mapping[str, Any]]) -> None:
    """Into all of them, or none."""
    before = [plugin.state_dict() for plugin in plugins]
    try:
        for plugin, state in zip(plugins, states, strict=True):
            plugin.load_state_dict(state)
    except BaseException:
        for plugin, state in zip(plugins, before, strict=True):
            plugin.load_state_dict(state)
        raise


def _scale(trainer: Any, optimizer: torch.optim.Optimizer) -> float:
    """Of the gradients: 1, except with optimisers that unscale in their step, as fused ones do."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return 1.0
    return float(scaler.get_scale())


_HOOKS: dict[str, type] = {"PluginCallback": _PluginHooks, "ProtectCallback": _ProtectHooks}

__all__ = ["PluginCallback", "ProtectCallback"]  # noqa: F822 - made by __getattr__


def __getattr__(name: str) -> Any:
    if name not in _HOOKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    hooks = _HOOKS[name]
    own = {"__doc__": hooks.__doc__, "__module__": __name__, "__qualname__": name}
    made = type(name, (hooks, _callback(name)), own)
    globals()[name] = made
    return made


def _callback(where: str) -> type:
    """Lightning's base class, without which its Trainer takes no callback."""
    found = [package for package in _PACKAGES if package in sys.modules]
    for package in found or _PACKAGES:
        try:
            base: type = import_module(package).Callback
        except ImportError:
            continue
        return base
    raise ImportError(f"{where}: there is no Lightning here; pip install lightning")
