"""A survey as people see it: on a terminal (terminal.txt.j2, in rich's markup) and as a page
(page.html.j2). Both templates show the same in the same order."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from itertools import groupby
from typing import Any

import rich.markup
from jinja2 import Template
from markupsafe import Markup, escape
from rich.console import Console
from rich.table import Table

from .aws import templates
from .picture import MEANT, MOST_SOURCES, Survey, plural

WORDS = dict(zip(MEANT, ("now", "would be", "may not fit", "elsewhere", "dark"), strict=True))
COLOURS = dict(zip(MEANT, ("green", "cyan", "yellow", "bright_black", "red"), strict=True))
CELLS = dict(zip(MEANT, "█▓▚▒░", strict=True))
ASCII = str.maketrans({**dict(zip("█▓▚▒░·", "#=?~.|", strict=True)), "…": "..."})
COLUMN = "¦"  # ends a column in terminal.txt.j2
# IDs of resources, names of variables, and what stands between backticks.
CODE = re.compile(
    r"\b(?:[a-z]{1,6}-[0-9a-f]{8,17}|[a-z]{2}(?:-[a-z]+)+-\d[a-z]|[A-Z]+(?:_[A-Z]+)+(?:=\w+)?)\b|`[^`]+`"
)


def draw(survey: Survey, console: Console) -> None:
    """Show the survey on a terminal."""
    text = template("terminal.txt.j2", literal).render(survey=survey, width=console.width)
    if console.options.ascii_only:
        text = text.translate(ASCII).encode("ascii", "replace").decode()
    with console.capture() as drawn:
        # Lines that follow each other and have as many columns are rows of one table.
        for columns, lines in groupby(text.splitlines(), key=lambda line: line.count(COLUMN)):
            table = Table.grid(padding=(0, 2, 0, 0))
            for column in range(columns + 1):
                table.add_column(no_wrap=column < columns)
            for line in lines:
                table.add_row(*line.split(COLUMN))
            console.print(table)
    # Without the spaces that fill a table's last column.
    console.file.write(re.sub(r" +((?:\x1b\[[\d;]*m)*)$", r"\1", drawn.get(), flags=re.MULTILINE))


def console_for_output() -> Console:
    """A console on standard output: 60 to 100 columns; colours only on a terminal, and not where
    NO_COLOR is set."""
    columns = shutil.get_terminal_size((100, 24)).columns
    return Console(width=max(60, min(100, columns)), highlight=False, emoji=False)


def page(survey: Survey) -> Iterator[str]:
    """The survey as a page, piece by piece, so that it need not be in memory whole."""
    when = f"{datetime.now(timezone.utc):%d %B %Y, %H:%M} UTC"
    return template("page.html.j2", counted).generate(survey=survey, when=when)


def headline(survey: Survey) -> str:
    """The answer in one sentence."""
    module: Any = template("words.j2", counted).module
    return str(module.headline(survey)).strip()


def template(name: str, shown: Callable[[Any], Any]) -> Template:
    """A template, with the function through which each value goes that it shows: text of the
    account is never markup, neither on a page nor on a console."""
    # On a console `literal` escapes.
    made = templates(autoescape=shown is counted, finalize=shown)
    known = {"words": WORDS, "colours": COLOURS, "cells": CELLS, "most_sources": MOST_SOURCES}
    made.globals.update(known, bar=bar)
    made.filters.update(marked=marked, percent=percent, plural=plural)
    return made.get_template(name)


def counted(value: Any) -> Any:
    """A value as a page shows it: numbers with their thousands apart."""
    return f"{value:,}" if isinstance(value, int) else value


def literal(value: Any) -> Any:
    """A value as a console shows it: no markup, no control character, no end of a column."""
    if isinstance(value, Markup):
        return value
    text = str(counted(value)).replace(COLUMN, "|")
    return rich.markup.escape("".join(each if each.isprintable() else "?" for each in text))


def bar(fates: Mapping[str, int], scale: int, width: int) -> Markup:
    """Counts as a bar on a console; a part that is not nothing is at least a cell."""
    cells, filled, reached = [], 0, 0
    for fate in MEANT:
        count = fates.get(fate, 0)
        reached += count
        cells.append(max(round(width * reached / (scale or 1)) - filled, 1 if count else 0))
        filled += cells[-1]
    while filled > width:  # small parts were given a cell: the largest one pays for it
        cells[cells.index(max(cells))] -= 1
        filled -= 1
    drawn = zip(MEANT, cells, strict=True)
    text = "".join(f"[{COLOURS[fate]}]{CELLS[fate] * each}[/]" for fate, each in drawn)
    return Markup(text)  # noqa: S704  nothing of the account


def marked(text: object) -> Markup:
    """The text with what is code in it marked as such."""
    code = CODE.sub(lambda found: f"<code>{found[0].strip('`')}</code>", str(escape(str(text))))
    return Markup(code)  # noqa: S704  escaped just before


def percent(part: int, whole: int) -> str:
    """In whole percent, rounded down, so that 100 means all."""
    return f"{100 * part // whole} %" if whole else "-"
