"""Mammoth's models made of clfast, against plain loops, on a stub with Mammoth's signatures."""

from __future__ import annotations

import copy
import runpy
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mammoth_checkout import STUB, checkout
from torch import Tensor, nn

from clfast import plugins
from clfast.integrations import mammoth
from clfast.memory import KeyValueMemory, ReplayBuffer
from clfast.methods import ARM, attach, attached
from clfast.optim import protect

Batch = tuple[Tensor, ...]
Make = Callable[[nn.Module], plugins.Plugin]
PLUGINS: dict[str, tuple[dict[str, Any], Make]] = {
    "clfast-ewc": ({"strength": 2.0}, lambda net: plugins.EWC(net, strength=2.0)),
    "clfast-online-ewc": ({"strength": 2.0}, lambda net: plugins.OnlineEWC(net, strength=2.0)),
    "clfast-si": ({"strength": 2.0}, lambda net: plugins.SI(net, strength=2.0)),
    "clfast-mas": ({"strength": 2.0}, lambda net: plugins.MAS(net, strength=2.0)),
    "clfast-rwalk": ({"strength": 2.0}, lambda net: plugins.RWalk(net, strength=2.0)),
    "clfast-lwf": ({"temperature": 1.0}, lambda net: plugins.LwF(net, temperature=1.0)),
    "clfast-gem": ({"per_task": 20}, lambda net: plugins.GEM(net, per_task=20)),
    "clfast-agem": ({"capacity": 30}, lambda net: plugins.AGEM(net, ReplayBuffer(30))),
    "clfast-er-mir": (
        {"capacity": 30, "lr": 0.1, "replay": 5},
        lambda net: plugins.ERMIR(net, ReplayBuffer(30), lr=0.1, replay=5),
    ),
}


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    checkout(monkeypatch)
    return mammoth.register()


def tasks() -> list[list[Batch]]:
    """Two tasks of two classes each, as images that are not normalised besides."""
    rng = torch.Generator().manual_seed(0)
    found = []
    for first in (0, 2):
        batches = []
        for _ in range(6):
            y = torch.randint(first, first + 2, (10,), generator=rng)
            x = torch.randn(10, 1, 4, 4, generator=rng)
            x[:, 0, :, :] += 1.5 * F.one_hot(y, 4)[:, None, :]
            batches.append((x, y, x / 2 + 1))
        found.append(batches)
    return found


def network() -> Any:
    torch.manual_seed(0)
    return module("backbone").MammothBackbone(16, 8, 4)


def make(kind: Any, **options: Any) -> Any:
    args = Namespace(lr=0.1, clfast=options)
    return kind(network(), F.cross_entropy, args, None, dataset=None)


def module(name: str) -> Any:
    return sys.modules[name]


def training() -> Any:
    return module("utils.training")


def parameters(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def test_all_are_registered_continual_models(models: dict[str, Any]) -> None:
    base = module("models.utils.continual_model").ContinualModel
    registered = module("models").REGISTERED_MODELS
    assert registered == models
    for name, model in models.items():
        assert issubclass(model, base)
        assert name == model.NAME
        assert "class-il" in model.COMPATIBILITY
        assert model.__doc__
    with pytest.raises(ValueError, match="clfast-hebb is registered"):
        mammoth.register()


@pytest.mark.parametrize("name", PLUGINS)
def test_plugins_against_a_plain_loop(models: dict[str, Any], name: str) -> None:
    """With an optimiser that is made anew for each task."""
    options, make_plugin = PLUGINS[name]
    model = make(models[name], **options)
    losses = training().train(model, tasks(), epochs=2)
    net, free = network(), network()
    for plugin, trained in ((make_plugin(net), net), (None, free)):
        wanted = plain_loop(trained, plugin, in_loss=name == "clfast-lwf")
        if plugin is not None:
            assert losses == wanted
    torch.testing.assert_close(parameters(model.net), parameters(net), rtol=0, atol=0)
    assert not torch.allclose(free.classifier.weight, net.classifier.weight)


def plain_loop(net: nn.Module, plugin: plugins.Plugin | None, in_loss: bool) -> list[float]:
    losses = []
    for batches in tasks():
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x, y, _ in batches * 2:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            losses.append(loss.item())
            if plugin is None:
                loss.backward()
                optimizer.step()
                continue
            (plugin.before_backward(loss) if in_loss else loss).backward()
            plugin.after_backward()
            optimizer.step()
            plugin.after_step()
        if plugin is not None:
            plugin.on_task_end(batches)
    return losses


@pytest.mark.parametrize("method", ["hebb", "mbpa", "mixture"])
def test_memories_against_attach(models: dict[str, Any], method: str) -> None:
    model = make(models[f"clfast-{method}"], k=5)
    training().train(model, tasks())
    net = network()
    attachment = attach(net, "classifier", method=method, k=5)
    for batches in tasks():
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x, y, _ in batches:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        attachment.on_task_end((x, y) for x, y, _ in batches)
    x, y = tasks()[0][0][:2]
    assert len(model.attachment.memory) == 120
    plain = model.net.train()(x)
    with torch.no_grad():
        wanted, got = net.eval()(x), model.eval()(x)
    assert torch.equal(got, wanted)
    assert not torch.allclose(got, plain)


def test_logits_may_be_masked_in_place(models: dict[str, Any]) -> None:
    model = make(models["clfast-hebb"], k=5)
    training().train(model, tasks())
    x, y = tasks()[0][0][:2]
    evaluate = training().evaluate
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            before = model.eval()(x)
            assert before.shape == (10, 4)
            assert evaluate(model, x, y, masked=slice(0, 4)) == float((y == 0).float().mean())
            assert torch.equal(model(x), before)
    assert evaluate(model, x, y, masked=slice(2, 4)) >= evaluate(model, x, y)


def test_predictions_before_the_first_task_ends_are_the_network_s(models: dict[str, Any]) -> None:
    model = make(models["clfast-hebb"], k=5)
    x = tasks()[0][0][0]
    with torch.no_grad():
        wanted = network()(x)
        assert torch.equal(model.eval()(x), wanted)
        model.meta_begin_task(training().Dataset(tasks()[0]))
        assert torch.equal(model.eval()(x), wanted)


def test_a_memory_of_a_capacity(models: dict[str, Any]) -> None:
    model = make(models["clfast-hebb"], k=5, capacity=30)
    training().train(model, tasks())
    assert len(model.attachment.memory) == 30
    assert int(model.attachment.memory.seen(4).sum()) == 120


def test_deep_copies_have_the_memory_and_an_attachment_of_their_own(models: dict[str, Any]) -> None:
    model = make(models["clfast-hebb"], k=5)
    training().train(model, tasks())
    teacher = copy.deepcopy(model.net)
    x = tasks()[0][0][0]
    with torch.no_grad():
        before = model.eval()(x)
        assert torch.equal(teacher.eval()(x), before)
        teacher.classifier.weight.zero_()
        teacher(x)
        assert torch.equal(model(x), before)
    assert attached(teacher) is not model.attachment
    copied = attached(teacher)
    assert copied is not None
    assert copied.memory is model.attachment.memory


def test_arm_against_the_learner(models: dict[str, Any]) -> None:
    """Whose optimiser follows Mammoth's."""
    options: dict[str, Any] = {"images": 4, "steps": 2, "lr": 1.0}
    model, net = make(models["clfast-arm"], **options), network()
    torch.manual_seed(1)
    losses = training().train(model, tasks())
    torch.manual_seed(1)
    learner = ARM(net, torch.optim.SGD(net.parameters(), lr=0.1), **options)
    wanted = []
    for batches in tasks():
        wanted += [learner.observe(x, y)["loss"] for x, y, _ in batches]
        learner.on_task_end()
    assert losses == wanted
    assert model.learner.optimizer is model.opt
    torch.testing.assert_close(parameters(model.net), parameters(net), rtol=0, atol=0)


def test_samples_without_a_label_teach_nothing(models: dict[str, Any]) -> None:
    model, other = (make(models["clfast-ewc"], strength=2.0) for _ in range(2))
    with_some = [
        [
            (torch.cat([x, x]), torch.cat([y, y.new_full((10,), -1)]), torch.cat([r, r])),
            (x, y.new_full((10,), -1), r),
        ]
        for ((x, y, r), *_) in tasks()
    ]
    training().train(model, with_some)
    training().train(other, [batches[:1] for batches in tasks()])
    torch.testing.assert_close(parameters(model.net), parameters(other.net), rtol=0, atol=0)


def test_protected_weights_outlive_mammoth_s_optimizers(models: dict[str, Any]) -> None:
    """Which are made anew for each task."""
    model = make(models["clfast-mas"], strength=0.5)
    weight = model.net.classifier.weight
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:2] = True
    before = weight.detach().clone()
    with protect(model.opt, {weight: mask}):
        training().train(model, tasks())
    assert torch.equal(weight[:2], before[:2])
    assert not torch.equal(weight[2:], before[2:])


def test_a_plugin_of_one_s_own(models: dict[str, Any]) -> None:
    base = module("models.utils.continual_model").ContinualModel

    class Mine(mammoth.PluginModel, base):
        NAME = "mine"
        COMPATIBILITY = ("class-il",)

        def make_plugin(self) -> plugins.Plugin:
            return plugins.MAS(self.net, strength=3.0)

    model = make(Mine)
    training().train(model, tasks())
    assert isinstance(model.plugin, plugins.MAS)
    assert model.plugin.tasks == 2


def test_the_command_line(models: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    parser = models["clfast-ewc"].get_parser(ArgumentParser())
    assert parser.parse_args([]).clfast == {}
    given = parser.parse_args(["--clfast", '{"strength": 3, "targets": "sample"}']).clfast
    assert given == {"strength": 3, "targets": "sample"}
    for wrong in ("strength=3", "[1]"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--clfast", wrong])
        assert "must be a JSON object, as '{\"k\": 10}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        (
            "clfast-hebb",
            {"head": "fc"},
            ValueError,
            "no layer 'fc'; its linear layers are body.0, ",
        ),
        ("clfast-hebb", {"head": "body"}, TypeError, "'body' must be an nn.Linear"),
        ("clfast-hebb", {"kk": 3}, TypeError, "has no option 'kk'"),
        ("clfast-hebb", {"capacity": 0}, ValueError, "capacity must be at least 1"),
        ("clfast-ewc", {}, TypeError, "missing .* 'strength'; options are strength, targets"),
        ("clfast-ewc", {"strength": -1}, ValueError, "strength must be finite and in"),
        ("clfast-si", {"strength": 1, "x": 1}, TypeError, "'x'; options are strength, damping"),
        ("clfast-arm", {"image": 1}, TypeError, "there is no option image"),
        ("clfast-gem", {}, TypeError, "options are per_task, margin"),
        ("clfast-agem", {}, TypeError, "missing .* 'capacity'"),
    ],
)
def test_options_that_a_method_does_not_take(
    models: dict[str, Any], name: str, options: Any, kind: type[Exception], message: str
) -> None:
    model = make(models[name], **options)
    dataset = training().Dataset(tasks()[0])
    with pytest.raises(kind, match=f"^{name}: --clfast: .*{message}"):
        model.meta_begin_task(dataset)
    assert attached(model.net) is None
    assert not model.net.classifier._forward_hooks
    model.args.clfast = "strength=1"
    with pytest.raises(TypeError, match="must be a mapping of options, got str"):
        model.meta_begin_task(dataset)


def test_a_second_attachment_is_refused(models: dict[str, Any]) -> None:
    model = make(models["clfast-hebb"])
    first = attach(model.net, "classifier", KeyValueMemory(8))
    with pytest.raises(ValueError, match=r"has an attachment already; detach\(\) that one first"):
        model.meta_begin_task(training().Dataset(tasks()[0]))
    assert attached(model.net) is first


def test_a_network_that_was_replaced_is_refused(models: dict[str, Any]) -> None:
    model = make(models["clfast-ewc"], strength=1.0)
    batches = tasks()[0]
    model.meta_begin_task(training().Dataset(batches))
    model.net.classifier = nn.Linear(8, 2)
    with pytest.raises(
        RuntimeError, match=r"classifier.weight has shape \[4, 8\], but .* \[2, 8\]"
    ):
        model.meta_end_task(training().Dataset(batches))


@pytest.mark.parametrize("name", ["clfast-ewc", "clfast-hebb"])
@pytest.mark.parametrize("batch", [torch.zeros(3, 1, 4, 4), (torch.zeros(3, 1, 4, 4),), (1, 2, 3)])
def test_loaders_of_odd_batches(models: dict[str, Any], name: str, batch: Any) -> None:
    options = {"strength": 1.0} if name == "clfast-ewc" else {}
    model = make(models[name], **options)
    dataset = training().Dataset([batch])
    model.meta_begin_task(dataset)
    message = f"{name}: dataset.train_loader must give batches .inputs, labels, ..."
    with pytest.raises(TypeError, match=message):
        model.meta_end_task(dataset)


@pytest.mark.parametrize("name", ["clfast-ewc", "clfast-hebb", "clfast-arm"])
def test_no_task_has_begun(models: dict[str, Any], name: str) -> None:
    model = make(models[name], strength=1.0)
    with pytest.raises(RuntimeError, match=rf"{name}: no task has begun; call meta_begin_task"):
        model.meta_end_task(training().Dataset(tasks()[0]))


def test_another_base_is_refused() -> None:
    wrong: list[Any] = [nn.Module, "ContinualModel"]
    for base in wrong:
        with pytest.raises(TypeError, match="base must be Mammoth's ContinualModel"):
            mammoth.continual_models(base)


def test_no_mammoth_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "models", None)
    with pytest.raises(
        ImportError, match="register: there is no ContinualModel in a module models"
    ):
        mammoth.register()


def test_the_script_to_run_by_hand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout(monkeypatch)
    script = Path(__file__).parents[2] / "examples" / "mammoth_digits.py"
    arguments = ["--model", "clfast-ewc", "--clfast", '{"strength": 1}', "--lr", "0.1"]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit, match=r"run it in the folder of Mammoth's main.py"):
        runpy.run_path(str(script), run_name="__main__")
    monkeypatch.chdir(STUB)
    runpy.run_path(str(script), run_name="__main__")
    out = capsys.readouterr().out
    assert "models of clfast: clfast-hebb, " in out
    assert "<patch of utils.buffer.Buffer.add_data, in place of <function Buffer.add_data" in out
    assert "accuracy of clfast-ewc: 0." in out
