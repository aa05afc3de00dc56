"""Lightning's own Trainer with the callbacks, against plain loops. Where it is not installed,
`test_lightning_hooks.py` has a Trainer that calls the same hooks in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from lightning_cases import PLUGINS, Batch, network, parameters, plain_loop, tasks, tasks_ended
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),  # its own, of torch 2.13
]
lightning = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402

from clfast.integrations.lightning import PluginCallback, ProtectCallback  # noqa: E402
from clfast.plugins import LwF  # noqa: E402


class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or network()
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x).float(), y)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def loaded(batches: list[Batch]) -> DataLoader[Batch]:
    return DataLoader(cast("Dataset[Batch]", batches), batch_size=None)


def trainer(*callbacks: Any, **options: Any) -> Any:
    return lightning.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"max_epochs": 1, "enable_checkpointing": False} | options),
    )


@pytest.mark.parametrize("name", PLUGINS)
def test_plugins(name: str) -> None:
    module, plain = Module(), network()
    callback = PluginCallback(PLUGINS[name])
    for batches in tasks():
        trainer(callback, max_epochs=2).fit(module, loaded(batches))
    plain_loop(plain, [PLUGINS[name](plain)], epochs=2)
    assert tasks_ended(callback.plugins[0]) == 2
    torch.testing.assert_close(parameters(module.net), parameters(plain), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("name", ["EWC", "SI", "ER"])
def test_batches_that_are_left_out(name: str) -> None:
    """A training step may return None, and then takes none."""

    class LeavesOut(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    module, plain = LeavesOut(), Module()
    callback, other = (PluginCallback(PLUGINS[name], end_task=False) for _ in range(2))
    for batches in tasks():
        trainer(callback).fit(module, loaded(batches))
        trainer(other).fit(plain, loaded([*batches[:1], *batches[2:]]))
        for one in (callback, other):
            one.plugins[0].on_task_end(batches)
    torch.testing.assert_close(parameters(module), parameters(plain), rtol=0, atol=0)


def test_a_plugin_in_the_loss() -> None:
    """LwF is called in the training step, and the callback does the rest."""
    callback = PluginCallback(lambda module: LwF(module.net))

    class Taught(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return callback.plugins[0].before_backward(super().training_step(batch, batch_idx))

    module, plain = Taught(), network()
    lwf = LwF(plain)
    for batches in tasks():
        trainer(callback).fit(module, loaded(batches))
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
        for x, y in batches:
            optimizer.zero_grad()
            lwf.before_backward(F.cross_entropy(plain(x), y)).backward()
            optimizer.step()
        lwf.on_task_end(batches)
    torch.testing.assert_close(parameters(module.net), parameters(plain), rtol=0, atol=0)


def test_accumulated_and_clipped_gradients() -> None:
    """The penalty is added once a step, and clipped with the rest."""
    module, plain = Module(), network()
    callback = PluginCallback(PLUGINS["SI"], PLUGINS["EWC"])
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    for batches in tasks():
        trainer(callback, **options).fit(module, loaded(batches))
    plain_loop(plain, [PLUGINS["SI"](plain), PLUGINS["EWC"](plain)], accumulate=2, clip=0.5)
    torch.testing.assert_close(parameters(module.net), parameters(plain))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["EWC", "SI"])
def test_a_grad_scaler(name: str, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are those without one, whoever unscales them: fused optimisers do so themselves."""
    module, plain = Module(network().double()), Module(network().double())

    def scaled_sgd() -> Any:
        return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, fused=fused)

    monkeypatch.setattr(module, "configure_optimizers", scaled_sgd)
    callback, other = PluginCallback(PLUGINS[name]), PluginCallback(PLUGINS[name])
    for batches in [[(x.double(), y) for x, y in task] for task in tasks()]:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        precision = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
        monkeypatch.setattr(precision, "autocast_context_manager", torch.enable_grad)
        trainer(callback, plugins=[precision]).fit(module, loaded(batches))
        trainer(other).fit(plain, loaded(batches))
    torch.testing.assert_close(parameters(module), parameters(plain))
    torch.testing.assert_close(callback.plugins[0].state_dict(), other.plugins[0].state_dict())


def test_masks() -> None:
    module = Module()
    first = module.net[0].weight
    mask = torch.zeros(first.shape, dtype=torch.bool)
    mask[:3] = True
    before = parameters(module.net)
    trainer(ProtectCallback(lambda module: {module.net[0].weight: mask})).fit(
        module, loaded(tasks()[0])
    )
    assert torch.equal(first[mask], before["0.weight"][mask])
    assert not torch.equal(first[~mask], before["0.weight"][~mask])
    trainer().fit(module, loaded(tasks()[0]))
    assert not torch.equal(first[mask], before["0.weight"][mask])


def test_checkpoints_have_the_plugins(tmp_path: Path) -> None:
    """The second task after a fresh start is the second task."""
    first, second = tasks()
    module, callback = Module(), PluginCallback(PLUGINS["SI"], PLUGINS["EWC"])
    done = trainer(callback)
    done.fit(module, loaded(first))
    done.save_checkpoint(tmp_path / "task.ckpt")
    trainer(callback).fit(module, loaded(second))

    again, restored = Module(), PluginCallback(PLUGINS["SI"], PLUGINS["EWC"])
    saved = torch.load(tmp_path / "task.ckpt", weights_only=True)
    again.load_state_dict(saved["state_dict"])
    restored.load_state_dict(saved["callbacks"]["PluginCallback"])
    trainer(restored).fit(again, loaded(second))
    torch.testing.assert_close(parameters(again), parameters(module), rtol=0, atol=0)

    resumed, callback = Module(), PluginCallback(PLUGINS["SI"], PLUGINS["EWC"], end_task=False)
    trainer(callback, max_epochs=2).fit(
        resumed, loaded(second), ckpt_path=tmp_path / "task.ckpt", weights_only=True
    )
    assert [plugin.tasks for plugin in callback.plugins] == [1, 1]


@pytest.mark.parametrize("name", ["EWC", "ER"])
def test_ends_of_tasks_read_what_was_trained_on(name: str) -> None:
    """Through the hooks of a batch's transfer, and no more batches than the Trainer takes."""

    class Shifting(Module):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] - 2, batch[1]

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] / 2, batch[1]

    shifting, module = Shifting(), Module()
    callback, other = PluginCallback(PLUGINS[name]), PluginCallback(PLUGINS[name])
    for batches in tasks():
        raw = [(x * 2 + 2, y) for x, y in batches]
        trainer(callback, limit_train_batches=2).fit(shifting, loaded(raw))
        trainer(other).fit(module, loaded([((x * 2 + 2 - 2) / 2, y) for x, y in batches[:2]]))
    torch.testing.assert_close(parameters(shifting), parameters(module))
    assert [tasks_ended(held.plugins[0]) for held in (callback, other)] == [2, 2]
    if name == "ER":
        stored, expected = (held.plugins[0].memory.rows for held in (callback, other))
        torch.testing.assert_close(stored, expected)


def test_ends_of_tasks_in_the_precision_of_the_trainer() -> None:
    callback = PluginCallback(PLUGINS["EWC"], PLUGINS["ER"])
    for batches in tasks():
        trainer(callback, precision="64-true").fit(module := Module(), loaded(batches))
        break
    assert module.net[0].weight.dtype == torch.float64
    assert [tasks_ended(plugin) for plugin in callback.plugins] == [1, 1]


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
def test_the_checkpoint_of_a_fit_at_its_end(tmp_path: Path) -> None:
    """Lightning trains nothing then, and the end of the task would never come."""
    first, second = tasks()
    module, callback = Module(), PluginCallback(PLUGINS["EWC"])
    keeper = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    trainer(callback, keeper, enable_checkpointing=True).fit(module, loaded(first))
    again, restored = Module(), PluginCallback(PLUGINS["EWC"])
    options = {"ckpt_path": tmp_path / "last.ckpt", "weights_only": False}
    with pytest.raises(RuntimeError, match=r"^PluginCallback: the checkpoint is of a fit that was"):
        trainer(restored).fit(again, loaded(first), **options)
    (ewc,) = restored.plugins
    assert ewc.tasks == 0
    ewc.on_task_end(first)
    for one, held in ((module, callback), (again, restored)):
        trainer(held).fit(one, loaded(second))
    torch.testing.assert_close(parameters(again), parameters(module), rtol=0, atol=0)


def test_two_optimizers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module()
    monkeypatch.setattr(module, "automatic_optimization", False)
    two = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (module.net[0], module.net[2])]
    monkeypatch.setattr(module, "configure_optimizers", lambda: two)
    before = parameters(module)
    with pytest.raises(RuntimeError, match="must have one optimizer, got 2; call the plugins in"):
        trainer(PluginCallback(PLUGINS["EWC"])).fit(module, loaded(tasks()[0]))
    torch.testing.assert_close(parameters(module), before, rtol=0, atol=0)


def test_a_fit_that_fails_leaves_no_hook() -> None:
    class Fails(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise KeyError("batch")

    module = Fails()
    mask = torch.ones(6, dtype=torch.bool)
    callbacks = [
        PluginCallback(PLUGINS["SI"]),
        ProtectCallback(lambda module: {module.net[0].bias: mask}),
    ]
    with pytest.raises(KeyError, match="batch"):
        trainer(*callbacks).fit(module, loaded(tasks()[0]))
    assert callbacks[0].plugins[0].state_dict()["tasks"] == 0
    trainer().fit(other := Module(module.net), loaded(tasks()[0]))
    assert len(other.losses) == 4
    assert not torch.equal(module.net[0].bias, network()[0].bias)
