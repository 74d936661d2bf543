"""docs/: every command is run, or held to what the AWS CLI takes; what is shown is so."""

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

PROJECT = DEPLOY.parent
PAGES = sorted((PROJECT / "docs").glob("*.md"))
# What a page shows of AWS's or of the project's own: these are checked line by line.
OPERATORS = [PROJECT / "docs" / name for name in ("changes.md", "console.md", "operations.md")]


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Fenced blocks of a language, each with the comment before it (`<!-- file: … -->`)."""
    pattern = rf"(?:^ *<!-- ([^\n]*) -->\n)?^( *)```{language}\n(.*?)^\2```$"
    found = re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [
        (mark, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)) for mark, indent, text in found
    ]


def commands(pages: list[Path]) -> list[list[str]]:
    """The commands in blocks of shell, each as its words."""
    texts = [text.replace("\\\n", " ") for page in pages for _, text in blocks(page, "sh")]
    return [shlex.split(line) for text in texts for line in text.splitlines() if line.strip()]


def column(page: Path, header: str, number: int = 0) -> list[str]:
    """A column of the table with this header."""
    table = page.read_text(encoding="utf-8").split(f"\n{header}\n", 1)[1].split("\n\n", 1)[0]
    return [row.split("|")[number + 1].strip() for row in table.splitlines()[1:]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_shell_can_be_read(page: Path) -> None:
    for _, text in blocks(page, "sh"):
        done = subprocess.run(
            ["bash", "-n"], check=False, input=text, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_json_can_be_read_and_is_the_file_that_it_shows(page: Path) -> None:
    for mark, text in blocks(page, "json"):
        shown = json.loads(text)
        if mark.startswith("file: "):
            name = mark.removeprefix("file: ")
            assert shown == json.loads((PROJECT / name).read_text(encoding="utf-8")), name


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    # A call behind a subscript in code looks like a link.
    text = re.sub(r"```.*?```|`[^`]+`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("command", ["deploy", "remove"])
def test_every_option_that_is_named_exists(command: str) -> None:
    """Also where it stands in a sentence, behind the name of the script."""
    known = set(re.findall(r"--[a-z][a-z-]*", parser_of(command).format_help()))
    named = {
        option
        for page in PAGES
        for call in re.findall(rf"deploy/{command}.sh([^`|]*)", page.read_text(encoding="utf-8"))
        for option in re.findall(r"--[a-z][a-z-]*", re.split(r"\n\n|\n\S*/", call)[0])
    }
    assert named <= known
    assert named


OURS = [words for words in commands(OPERATORS) if words[0].startswith("deploy/")]


@pytest.mark.parametrize("words", OURS, ids=lambda words: " ".join(words)[:60])
def test_every_command_of_ours_is_understood(words: list[str]) -> None:
    command = words[0].removeprefix("deploy/").removesuffix(".sh")
    options = parser_of(command).parse_intermixed_args(words[1:])
    if command == "deploy":
        assert deploy.given_by(options)


def test_every_command_of_aws_is_one() -> None:
    """Its options follow from the models of the services."""
    found = [words for words in commands(OPERATORS) if words[0] == "aws"]
    for _, service, operation, *arguments in found:
        model = botocore.session.get_session().get_service_model(service.replace("s3api", "s3"))
        names = {xform_name(name, "-"): name for name in model.operation_names}
        shape = model.operation_model(names[operation]).input_shape
        given = {word[2:] for word in arguments if word.startswith("--")}
        members = {xform_name(name, "-") for name in shape.members}
        assert given <= members | {"query", "output", "region"}
        assert {xform_name(name, "-") for name in shape.required_members} <= given


def test_the_other_commands_are_known() -> None:
    others = {words[0] for words in commands(OPERATORS)} - {"aws"} - {words[0] for words in OURS}
    assert others == {"git", "./build_zip.sh"}


def test_the_exit_codes_are_those_of_the_program() -> None:
    page = PROJECT / "docs" / "operations.md"
    codes, meanings = (column(page, "| status | meaning |", number) for number in (0, 1))
    rows = list(zip(codes, meanings, strict=True))
    assert rows == [(str(int(one)), one.text) for one in Exit]


def test_the_changes_begin_with_the_version_of_the_module() -> None:
    module = (PROJECT / "lambda_traffic_mirror.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^VERSION = "(.*)"$', module, re.MULTILINE)
    changes = (PROJECT / "docs" / "changes.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ([0-9.]+)", changes, re.MULTILINE)[:1] == [version]


def test_the_console_page_shows_the_files_for_the_console() -> None:
    page = PROJECT / "docs" / "console.md"
    marks = {mark for mark, _ in blocks(page, "json")}
    assert marks >= {
        "file: deploy/dry-run-sweep.json",
        "file: deploy/test-event.json",
        "file: deploy/event-pattern.json",
    }
    text = page.read_text(encoding="utf-8")
    assert "deploy/permissions.json" in text
    # What has to be filled in is said, and nothing else.
    policy = (DEPLOY / "permissions.json").read_text(encoding="utf-8")
    placeholders = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", policy))
    assert placeholders == set(re.findall(r"in\s+place\s+of\s+`([A-Z_]+)`", text))
    assert placeholders


def test_nothing_is_charged_before_the_dry_run() -> None:
    text = (PROJECT / "docs" / "console.md").read_text(encoding="utf-8")
    assert 0 < text.index("EXCLUDE_TAGS") < text.index("dry_run") < text.index("test-event.json")
    assert text.index("test-event.json") < text.index("event-pattern.json")


def test_the_event_of_scheduler_is_a_sweep(scene: Scene, sensor: str) -> None:
    page = PROJECT / "docs" / "console.md"
    (text,) = [text for mark, text in blocks(page, "json") if mark == "event: sweep"]
    (interface,) = scene.interfaces_of(scene.instance())
    scene.run(json.loads(text))
    assert len(scene.sessions(interface)) == 1


def rights() -> set[str]:
    page = PROJECT / "docs" / "operations.md"
    cells = column(page, "| service | actions | for |", 1)
    return {action for cell in cells for action in re.findall(r"`(\w+:\w+)`", cell)}


# Rights that are not named after an operation.
NOT_OPERATIONS = {"iam:PassRole", "lambda:InvokeFunction", "s3:ListBucket"}


def test_the_rights_are_rights() -> None:
    session = botocore.session.get_session()
    operations = {
        f"{service}:{name}"
        for service in {right.partition(":")[0] for right in rights()}
        for name in session.get_service_model(service).operation_names
    }
    assert rights() - NOT_OPERATIONS - operations == set()


def test_the_rights_cover_the_services_of_the_template_and_the_calls_of_the_program() -> None:
    services = {right.partition(":")[0] for right in rights()}
    types = {resource["Type"].split("::")[1].lower() for resource in load()["Resources"].values()}
    assert types <= services
    text = "".join(path.read_text("utf-8") for path in (DEPLOY / "commands").glob("*.py"))
    called = set(re.findall(r"\b((?:describe|delete|get|list|create|execute)_[a-z_]+)\b", text))
    written = {xform_name(right.partition(":")[2]) for right in rights()}
    # S3 names the right to list otherwise, and everybody may ask who he is.
    known = {"list_objects_v2", "get_caller_identity", "get_template"}
    operations = {
        xform_name(name)
        for service in ("cloudformation", "ec2", "lambda", "logs", "s3", "sqs", "sts")
        for name in botocore.session.get_session().get_service_model(service).operation_names
    }
    assert called & operations - written - known == set()
    assert len(called & operations) > 8
