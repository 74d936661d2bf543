"""Reads the pages of the documentation: blocks, commands, tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def page(name: str) -> str:
    """The text of a page: `README` or the name of one in docs/."""
    (path,) = (path for path in PAGES if path.stem == name)
    return path.read_text(encoding="utf-8")


def blocks(text: str, language: str = r"\w*") -> list[tuple[str, str]]:
    """Fenced blocks of a language, each with the comment before it (`<!-- run: … -->`)."""
    pattern = rf"(?:^ *<!-- ([^\n]*) -->\n)?^( *)```{language}\n(.*?)^\2```$"
    found = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    return [
        (mark, re.sub(f"^{indent}", "", block, flags=re.MULTILINE)) for mark, indent, block in found
    ]


def commands(text: str) -> list[list[str]]:
    """The commands in blocks of shell, each as its words."""
    lines = "\n".join(block for _, block in blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def column(text: str, header: str, number: int = 0) -> list[str]:
    """A column of the table whose header begins so, without its ruler."""
    table = text.split(f"\n{header}", 1)[1].split("\n\n", 1)[0]
    return [row.split(" |")[number].removeprefix("|").strip() for row in table.splitlines()[2:]]


def quoted(cells: list[str]) -> list[str]:
    """What is quoted as code in these cells."""
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]
