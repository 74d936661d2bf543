"""Every page: links, commands and blocks; what docs/ shows of the commands, the console and AWS."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name
from cloudformation import DEPLOY, load
from commands import deploy
from commands.__main__ import parser_of
from commands.aws import Exit
from conftest import Scene
from pages import PAGES, PROJECT, blocks, column, commands, page

import lambda_traffic_mirror

every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
SHOWN = {path.stem: commands(path.read_text(encoding="utf-8")) for path in PAGES}
# Also those that stand in a sentence or a table.
OURS = [words for found in SHOWN.values() for words in found if "deploy/" in words[0]]
OURS += [
    shlex.split(text)
    for path in PAGES
    for text in re.findall(r"`(deploy/\w+\.sh [^`]+)`", path.read_text(encoding="utf-8"))
]


def anchors(path: Path) -> set[str]:
    """What a link may name behind #: the headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@every_page
def test_every_link_within_the_project_leads_somewhere(path: Path) -> None:
    # A call behind a subscript in code looks like a link.
    text = re.sub(r"```.*?```|`[^`]+`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(((?!https://)[^)]+)\)", text):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert target.is_relative_to(PROJECT), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_within_reach() -> None:
    for path in PAGES[1:]:
        assert f"](docs/{path.name})" in page("README"), path.name


@every_page
def test_every_block_can_be_read_and_is_the_file_that_it_shows(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    shell = "\n".join(block for _, block in blocks(text, "sh"))
    done = subprocess.run(["bash", "-n"], check=False, input=shell, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for mark, block in blocks(text, "json"):
        shown = json.loads(block)
        if mark.startswith("file: "):
            file = PROJECT / mark.removeprefix("file: ")
            assert shown == json.loads(file.read_text(encoding="utf-8")), mark


@pytest.mark.parametrize("words", OURS, ids=lambda words: " ".join(words)[:60])
def test_every_command_of_ours_is_understood(words: list[str]) -> None:
    command = Path(words[0]).stem
    options = parser_of(command).parse_intermixed_args(words[1:])
    if command == "deploy":
        assert deploy.given_by(options)


def test_the_options_of_deploying_are_in_the_readme() -> None:
    known = set(re.findall(r"^ +(--[a-z][a-z-]*)", parser_of("deploy").format_help(), re.MULTILINE))
    rows = " ".join(column(page("README"), "| option or parameter |"))
    assert set(re.findall(r"--[a-z][a-z-]*", rows)) == known


def test_every_command_of_aws_is_one() -> None:
    """Its options follow from the models of the services. `deploy` is the CLI's own."""
    found = [words for each in SHOWN.values() for words in each if words[0] == "aws"]
    assert len(found) > 4
    for _, service, operation, *arguments in found:
        if operation == "deploy":
            continue
        model = botocore.session.get_session().get_service_model(service.replace("s3api", "s3"))
        names = {xform_name(name, "-"): name for name in model.operation_names}
        shape = model.operation_model(names[operation]).input_shape
        given = {word[2:] for word in arguments if word.startswith("--")}
        members = {xform_name(name, "-") for name in shape.members}
        assert given <= members | {"query", "output", "region", "template-url"}
        assert {xform_name(name, "-") for name in shape.required_members} <= given


def test_the_exit_statuses_are_those_of_the_program() -> None:
    statuses, meanings = (
        column(page("operations"), "| status | meaning |", number) for number in (0, 1)
    )
    assert list(zip(statuses, meanings, strict=True)) == [(str(int(one)), one.text) for one in Exit]


def test_each_alarm_has_a_paragraph() -> None:
    alarms = [key for key, row in load()["Resources"].items() if row["Type"].endswith("::Alarm")]
    assert re.findall(r"^### (\w+Alarm)$", page("operations"), re.MULTILINE) == alarms


def test_the_changes_begin_with_the_version_of_the_module() -> None:
    versions = re.findall(r"^## ([0-9.]+)", page("changes"), re.MULTILINE)
    assert versions[0] == lambda_traffic_mirror.VERSION


def test_the_console_page_shows_the_files_and_mirrors_nothing_before_the_dry_run() -> None:
    text = page("console")
    steps = ["EXCLUDE_TAGS", "dry-run-sweep.json", "test-event.json", "event-pattern.json"]
    assert sorted(steps, key=text.index) == steps
    for name in steps[1:]:
        assert f"<!-- file: deploy/{name} -->" in text
    # What the policy leaves open is named, and nothing else.
    policy = (DEPLOY / "permissions.json").read_text(encoding="utf-8")
    placeholders = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", policy))
    assert placeholders == set(re.findall(r"in\s+place\s+of\s+`([A-Z_]+)`", text))


def test_the_event_of_scheduler_is_a_sweep(scene: Scene, sensor: str) -> None:
    (text,) = (text for mark, text in blocks(page("console"), "json") if mark == "event: sweep")
    instance = scene.instance()
    scene.run(json.loads(text))
    assert scene.sessions_of(instance) == [1]


def test_the_rights_are_rights_and_cover_the_template_and_the_calls_of_the_program() -> None:
    rights = {
        right
        for cell in column(page("operations"), "| service | actions | for |", 1)
        for right in re.findall(r"`(\w+:\w+)`", cell)
    }
    session = botocore.session.get_session()
    services = {right.partition(":")[0] for right in rights}
    operations = {
        f"{service}:{name}"
        for service in services
        for name in session.get_service_model(service).operation_names
    }
    # Rights that are not named after an operation.
    others = {"iam:PassRole", "lambda:InvokeFunction", "s3:ListBucket"}
    assert rights - others <= operations
    types = {resource["Type"].split("::")[1].lower() for resource in load()["Resources"].values()}
    assert types <= services
    text = "".join(path.read_text("utf-8") for path in (DEPLOY / "commands").glob("*.py"))
    called = set(re.findall(r"\b(?:describe|delete|get|list|create|execute)_[a-z_]+\b", text))
    written = {xform_name(right.partition(":")[2]) for right in rights}
    known = called & {xform_name(name.partition(":")[2]) for name in operations}
    assert len(known) > 8
    # S3 names the right to list otherwise.
    assert known - written - {"list_objects_v2", "get_template"} == set()
