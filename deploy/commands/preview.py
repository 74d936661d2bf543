"""Stands in for the preview, which is written elsewhere, with what the other commands use of it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple


class Item(NamedTuple):
    """An interface, and what would become of it."""

    interface_id: str
    instance_id: str
    outcome: str
    target_id: str | None
    reason: str = ""
    fate: str = ""


class Survey(NamedTuple):
    """What would become of every interface; `unread`: why a part could not be looked at."""

    interfaces: list[Item]
    unread: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None yet."""


def survey(session: Any, environment: Mapping[str, str]) -> Survey:
    """Run the function's flow over the account."""
    raise NotImplementedError


def run(options: argparse.Namespace) -> int:
    """Look at the account."""
    raise NotImplementedError
