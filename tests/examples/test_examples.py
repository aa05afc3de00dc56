"""Every example runs, and shows what it promises. Those of other libraries are run with these."""

from __future__ import annotations

import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
# Of each the row that must be better in the mean than another, and arguments that make it quick.
EXPECTED = {
    "plain_loop_ewc": ("EWC", "without", ["--tasks=2", "--epochs=4"]),
    "plain_loop_replay": ("ER, 100 samples", "without", ["--epochs=2"]),
    "plain_loop_masks": ("masks, at the end", "no masks, at the end", []),
    "hat": ("at the end", "", []),
    "hebb_head": ("with hebb", "the network alone", ["--epochs=3"]),
    "arm": ("ARM", "fine-tuning", []),
    "herding_exemplars": ("nearest mean", "", ["--epochs=2"]),
    "lightning_penalty": ("EWC", "without", ["--tasks=2"]),
}
NEEDS = {"lightning_penalty": "lightning"}
ELSEWHERE = ("avalanche_", "mammoth_")


def rows(text: str) -> dict[str, list[float]]:
    """The table that an example prints, in percent."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {
        name: [float(value) for value in values]
        for name, *values in lines
        if values and all(re.fullmatch(r"\d+\.\d", value) for value in values)
    }


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        sys.modules.pop("digits", None)


def test_every_example_is_run() -> None:
    found = {path.stem for path in EXAMPLES.glob("*.py")} - {"digits"}
    assert {name for name in found if not name.startswith(ELSEWHERE)} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning's, of torch 2.13
def test_an_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = NEEDS.get(name)
    if needs and not find_spec(needs):
        pytest.skip(f"{needs} is not installed")
    better, worse, arguments = EXPECTED[name]
    run(name, arguments, monkeypatch)
    table = rows(capsys.readouterr().out)
    assert table[better][-1] > (table[worse][-1] + 5 if worse else 60)
    if name == "hat":  # nothing is forgotten
        assert table["at the end"] == table["when the task ended"]
    if name == "plain_loop_masks":
        assert table["masks, at the end"] == table["masks, task ended"]
