"""Table and MeanStd: rounding, markdown, JSON, terminal."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from rich.console import Console

from clfast.experiments.tables import MeanStd, Table


def table() -> Table:
    result = Table("Online adaptation", ["method", "new", "ms"], digits=[0, 1, 3])
    result.add_row("MbPA|5", MeanStd.of([38.0, 39.0, 40.0]), 2.00049)
    result.add_row("Hebb [b]", MeanStd.of([41.46]), None)
    return result


def test_mean_and_standard_deviation() -> None:
    assert MeanStd.of([1.0, 2.0, 4.0]) == MeanStd(7 / 3, math.sqrt(7 / 3))
    assert MeanStd.of([3]) == MeanStd(3.0, None)
    assert MeanStd.of(torch.tensor([1.0, 3.0])) == MeanStd(2.0, math.sqrt(2))
    with pytest.raises(ValueError, match=r"MeanStd\.of: values is empty"):
        MeanStd.of([])


def test_markdown() -> None:
    assert table().to_markdown() == (
        "**Online adaptation**\n"
        "\n"
        "| method | new | ms |\n"
        "| --- | ---: | ---: |\n"
        "| MbPA\\|5 | 39.0 ± 1.0 | 2.000 |\n"
        "| Hebb [b] | 41.5 |  |\n"
    )


def test_numbers_round_by_digits_and_whole_numbers_do_not() -> None:
    result = Table("t", ["a", "b", "c"])
    result.add_row(7, 0.125001, "x\ny")
    assert result.to_markdown().splitlines()[-1] == "| 7 | 0.13 | x<br>y |"


def test_json_is_not_rounded() -> None:
    assert json.loads(table().to_json()) == {
        "title": "Online adaptation",
        "columns": ["method", "new", "ms"],
        "rows": [
            ["MbPA|5", {"mean": 39.0, "std": 1.0}, 2.00049],
            ["Hebb [b]", {"mean": 41.46, "std": None}, None],
        ],
    }


def test_terminal_and_pipe() -> None:
    screen = io.StringIO()
    table().print(Console(file=screen, force_terminal=True, width=60))
    for text in ("Online adaptation", "MbPA|5", "39.0 ± 1.0", "Hebb [b]", "\x1b["):
        assert text in screen.getvalue()
    pipe = io.StringIO()
    table().print(Console(file=pipe, force_terminal=False))
    assert pipe.getvalue() == table().to_markdown()


def test_an_empty_table_prints() -> None:
    empty = Table("none", ["a"])
    empty.print(Console(file=io.StringIO(), force_terminal=True))
    assert empty.to_markdown().endswith("| a |\n| --- |\n")
    assert json.loads(empty.to_json())["rows"] == []


def test_bad_rows_are_not_added() -> None:
    result = table()
    with pytest.raises(ValueError, match=r"Table\.add_row: 3 columns, but 2 cells"):
        result.add_row("a", 1)
    with pytest.raises(TypeError, match=r"Table\.add_row: the cell of column 'new' must be"):
        result.add_row("a", [1, 2], 3)
    assert len(result.rows) == 2
    with pytest.raises(ValueError, match="Table: columns is empty"):
        Table("t", [])
    with pytest.raises(ValueError, match="Table: digits must be one number or 2, got 3"):
        Table("t", ["a", "b"], digits=[1, 2, 3])
