"""What README.md shows was run: its files, tables and outputs are compared with the real ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cloudformation import load
from conftest import VARIABLES, Scene

from lambda_traffic_mirror import OUTCOMES

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def blocks(marker: str) -> list[tuple[str, str]]:
    """What is behind `<!-- marker: … -->`, with the fenced block that follows."""
    pattern = rf"^( *)<!-- {marker}:? ?([^>\n]*?) ?-->\n\1```\w*\n(.*?)^\1```$"
    found = re.findall(pattern, README, re.MULTILINE | re.DOTALL)
    return [
        (name, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)) for indent, name, text in found
    ]


def column(header: str, number: int = 0) -> list[str]:
    """The code-quoted first words of a column of the table with this header."""
    rows = README.split(f"\n{header}\n", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    return [row.split("|")[number + 1].strip().strip("`") for row in rows]


@pytest.mark.parametrize(("name", "text"), blocks("file"))
def test_a_file_that_is_shown_is_the_file(name: str, text: str) -> None:
    assert json.loads(text) == json.loads((PROJECT / name).read_text(encoding="utf-8"))


def test_every_file_for_the_console_is_shown() -> None:
    assert {name for name, _ in blocks("file")} == {
        "deploy/dry-run-sweep.json",
        "deploy/permissions.json",
        "deploy/event-pattern.json",
        "deploy/test-event.json",
    }


def test_the_demonstration_prints_what_is_shown() -> None:
    """Lines that are left out stand as `…`."""
    ((name, text),) = blocks("run")
    assert name == "tests/demo.sh"
    run = subprocess.run(
        [sys.executable, "tests/simulations/demo.py"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    rest = iter(run.stdout.splitlines())
    missing = [line for line in text.splitlines() if line.strip() != "…" and line not in rest]
    assert missing == []


def test_the_result_that_is_shown_has_the_form_of_a_real_one(scene: Scene) -> None:
    ((_, text),) = blocks("result")
    shown = json.loads(text)
    targets = [scene.sensor(groups=[scene.group()]), scene.sensor(zone="b")]
    scene.configure(targets)
    real = scene.run(scene.instance()).body
    assert shown.keys() == real.keys()
    (entry,), (real_entry,) = shown["interfaces"], real["interfaces"]
    assert (list(entry), entry["outcome"]) == (list(real_entry), real_entry["outcome"])
    names = [sensor["target_id"] for sensor in entry["sensors"]]
    real_names = [sensor["target_id"] for sensor in real_entry["sensors"]]
    assert [(list(row), row["verdict"], row["stage"]) for row in entry["sensors"]] == [
        (list(row), row["verdict"], row["stage"]) for row in real_entry["sensors"]
    ]
    # The sentences are the real ones, but for the IDs.
    in_words = re.compile(r"\b(?:tmt|sg|eni|i)-[0-9a-f]{17}|\b10(?:\.\d+){3}")
    assert in_words.sub("ID", entry["reason"]) == in_words.sub("ID", real_entry["reason"])
    assert len(names) == len(real_names) == 2


def test_the_table_of_variables_is_complete() -> None:
    assert tuple(column("| variable | default | meaning |")) == VARIABLES


def test_the_table_of_outcomes_is_complete() -> None:
    assert sorted(column("| outcome | meaning | status |")) == sorted(OUTCOMES)


def test_the_table_of_parameters_is_complete() -> None:
    shown = column("| option or parameter | default | meaning |")
    parameters = load()["Parameters"].keys() - {"CodeBucket", "CodeKey", "FilterId", "Targets"}
    assert {name for name in shown if not name.startswith("--")} == parameters


def test_the_tables_of_permissions_is_complete() -> None:
    policy = json.loads((PROJECT / "deploy" / "permissions.json").read_text(encoding="utf-8"))
    allowed = {"ec2:GetManagedPrefixListEntries"}
    for statement in policy["Statement"]:
        action = statement["Action"]
        allowed |= {action} if isinstance(action, str) else set(action)
    assert set(column("| permission | why |")) == allowed


def test_every_link_within_the_project_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    broken = [
        link
        for link in links
        if not link.startswith("https://")
        and not (link[1:] in headings if link.startswith("#") else (PROJECT / link).exists())
    ]
    assert broken == []
