"""Tables of results for the terminal, for markdown and for JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import rich.box
import rich.table
from rich.console import Console
from rich.text import Text


@dataclass(frozen=True)
class MeanStd:
    """A mean and the sample standard deviation (n - 1) around it; no deviation for one value."""

    mean: float
    std: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> MeanStd:
        """Of one value a seed, say. ValueError for no values."""
        numbers = [float(value) for value in values]
        if not numbers:
            raise ValueError("MeanStd.of: values is empty")
        std = statistics.stdev(numbers) if len(numbers) > 1 else None
        return cls(statistics.fmean(numbers), std)


Cell: TypeAlias = "str | int | float | MeanStd | None"


class Table:
    """Rows of cells under named columns.

    A cell is text, a whole number (printed as it is), a float or a `MeanStd` (printed with
    `digits` decimals, one number for all columns or one a column), or None (left empty).
    """

    def __init__(
        self, title: str, columns: Sequence[str], *, digits: int | Sequence[int] = 2
    ) -> None:
        self.title, self.columns = title, list(columns)
        if not self.columns:
            raise ValueError("Table: columns is empty")
        self._digits = [digits] * len(self.columns) if isinstance(digits, int) else list(digits)
        if len(self._digits) != len(self.columns):
            raise ValueError(
                f"Table: digits must be one number or {len(self.columns)}, got {len(self._digits)}"
            )
        self.rows: list[list[Cell]] = []

    def add_row(self, *cells: Cell) -> None:
        """Append a row; ValueError unless there is one cell a column, TypeError for other types."""
        if len(cells) != len(self.columns):
            raise ValueError(
                f"Table.add_row: {len(self.columns)} columns, but {len(cells)} cells were given"
            )
        for column, cell in zip(self.columns, cells, strict=True):
            if cell is not None and not isinstance(cell, str | int | float | MeanStd):
                raise TypeError(
                    f"Table.add_row: the cell of column {column!r} must be text, a number, "
                    f"MeanStd or None, got {type(cell).__name__}"
                )
        self.rows.append(list(cells))

    def print(self, console: Console | None = None) -> None:
        """Print through rich on a terminal, as markdown into a pipe or file."""
        console = console or Console()
        if not console.is_terminal:
            console.file.write(self.to_markdown())
            return
        table = rich.table.Table(
            title=Text(self.title, style="bold"), box=rich.box.SIMPLE_HEAD, title_justify="left"
        )
        for column, is_text in zip(self.columns, self._text_columns(), strict=True):
            table.add_column(Text(column), justify="left" if is_text else "right")
        for row in self._formatted():
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)

    def to_markdown(self) -> str:
        """The title as a bold line and a GitHub table under it."""
        rules = ["---" if is_text else "---:" for is_text in self._text_columns()]
        body = [[_escaped(cell) for cell in row] for row in self._formatted()]
        lines = [[_escaped(column) for column in self.columns], rules, *body]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"**{self.title}**\n\n{table}\n"

    def to_json(self) -> str:
        """{"title", "columns", "rows"} with unrounded numbers; MeanStd as {"mean", "std"}."""
        rows = [
            [vars(cell) if isinstance(cell, MeanStd) else cell for cell in row] for row in self.rows
        ]
        return json.dumps({"title": self.title, "columns": self.columns, "rows": rows}, indent=2)

    def _formatted(self) -> list[list[str]]:
        return [
            [_format(cell, digits) for cell, digits in zip(row, self._digits, strict=True)]
            for row in self.rows
        ]

    def _text_columns(self) -> list[bool]:
        columns = zip(*self.rows, strict=True) if self.rows else [("",) for _ in self.columns]
        return [any(isinstance(cell, str) for cell in column) for column in columns]


def _format(cell: Cell, digits: int) -> str:
    if isinstance(cell, MeanStd):
        mean = f"{cell.mean:.{digits}f}"
        return mean if cell.std is None else f"{mean} ± {cell.std:.{digits}f}"
    if isinstance(cell, float):
        return f"{cell:.{digits}f}"
    return "" if cell is None else str(cell)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
