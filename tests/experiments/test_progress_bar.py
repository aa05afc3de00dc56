"""track: a bar on a terminal, one plain line elsewhere."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator

import pytest

from clfast.experiments.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def numbers() -> Iterator[int]:
    yield from range(3)


def test_one_line_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(4), "pre-training [a]")) == [0, 1, 2, 3]
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"pre-training \[a\]: 4 in \d+\.\d s\n", err)


def test_silent_until_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    iterator = track(numbers(), "stream", total=3)
    assert next(iterator) == 0
    assert capfd.readouterr().err == ""
    assert list(iterator) == [1, 2]
    assert capfd.readouterr().err.startswith("stream: 3 in ")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    cases = ((range(3), None, "3/3"), (numbers(), 3, "3/3"), (numbers(), None, "3/?"))
    for items, total, count in cases:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert list(track(items, "stream [b]", total)) == [0, 1, 2]
        shown = terminal.getvalue()
        assert "stream [b]" in shown
        assert count in shown
        assert "\x1b[" in shown


def test_errors_and_breaks_pass_through(capfd: pytest.CaptureFixture[str]) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise RuntimeError("loader died")

    with pytest.raises(RuntimeError, match="loader died"):
        list(track(broken(), "stream"))
    for item in track(range(5), "stream"):
        if item == 2:
            break
    assert capfd.readouterr().err == ""
