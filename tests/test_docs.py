"""Code in the documentation runs as it is printed."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def write_mnist(folder: Path) -> None:
    """Two images of each digit under MNIST's names."""
    folder.mkdir()
    for part in ("train", "t10k"):
        head = struct.pack(">4i", 0x803, 20, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + bytes(20 * 28 * 28))
        head = struct.pack(">2i", 0x801, 20)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + bytes(range(10)) * 2)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/exemplars.md",
        "docs/hebb.md",
        "docs/integrations.md",
        "docs/masks.md",
        "docs/plugins.md",
        "docs/recall.md",
        "docs/replay.md",
        "docs/retrieval.md",
        "docs/streams.md",
    ],
)
def test_the_python_of_a_page_runs(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_mnist(tmp_path / "mnist")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    names: dict[str, Any] = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    capsys.readouterr()


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))],
)
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
