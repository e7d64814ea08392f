"""What a command shows while it works: a bar for each stage on a terminal, plain lines in a log, tables at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from ..evaluation import report

QUIET = 10.0  # seconds between two lines of a stage, where there is no terminal


class Stage:
    """A stage under way: told of each step of its work."""

    def __init__(self, screen: Screen, title: str, total: int | None, bar: Progress | None) -> None:
        self.screen, self.title, self.total, self.bar = screen, title, total, bar
        self.done, self.said, self.note = 0, time.monotonic(), ""
        self.task = bar.add_task(escape(title), total=total, note="") if bar else None

    def __call__(self, done: int | None = None, note: str = "", *, total: int | None = None) -> None:
        """So much is done (None: one more), of so much in total; `note` says how it goes."""
        self.done = self.done + 1 if done is None else done
        self.note, self.total = note or self.note, total or self.total
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done, total=self.total, note=escape(self.note))
        elif time.monotonic() - self.said > QUIET:
            self.said = time.monotonic()
            self.screen.say(f"  {self.title}: {self.done}{f' of {self.total}' if self.total else ''}  {self.note}")


class Screen:
    """The terminal. A silent one, for all processes but the first, shows nothing."""

    def __init__(self, *, silent: bool = False) -> None:
        self.console = Console(quiet=silent, highlight=False, soft_wrap=True, emoji=False)
        if not self.console.is_terminal:  # rich would take a log for 80 columns wide
            self.console.width = 120

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        """Show that this stage runs, how far it is, and at its end how long it took."""
        began = time.monotonic()
        if self.console.is_terminal and not self.console.quiet:
            with self._bar() as bar:
                stage = Stage(self, title, total, bar)
                yield stage
        else:
            self.say(f"{title} …")
            stage = Stage(self, title, total, None)
            yield stage
        self.console.print(
            f"[green]✓[/] {escape(title)} [dim]{time.monotonic() - began:.1f} s  {escape(stage.note)}[/]"
        )

    def _bar(self) -> Progress:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        return Progress(*columns, TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"), console=self.console,
                        transient=True)  # fmt: skip

    def say(self, text: str) -> None:
        """A line."""
        self.console.print(escape(text))

    def warn(self, text: str) -> None:
        """A line that should be read."""
        self.console.print(f"[yellow]![/] {escape(text)}")

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
        """A table of plain text, with a sentence on how to read it."""
        self._print(title, header, [[escape(cell) for cell in row] for row in rows], note)

    def _print(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> None:
        made = Table(
            title=escape(title),
            title_justify="left",
            title_style="bold",
            header_style="dim",
            pad_edge=False,
            box=box.SIMPLE_HEAD,
            show_header=any(header),
        )
        for name in header:
            made.add_column(escape(name), overflow="fold")
        for row in rows:
            made.add_row(*row)
        self.console.print()
        self.console.print(made)
        if note:
            self.console.print(f"[dim]{escape(note)}[/]")

    def show(self, table: report.Table) -> None:
        """A table of a report."""
        tones = {"good": "[green]{}[/]", "bad": "[red]{}[/]", "": "{}"}
        rows = [[tones[cell.tone].format(escape(cell.text)) for cell in row] for row in table.cells()]
        self._print(table.title, table.header, rows, table.note)
