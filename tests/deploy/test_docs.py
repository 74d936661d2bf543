"""docs/: every command is run, or held to what the AWS CLI takes; what is shown is so."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name
from checkout import Checkout
from cloudformation import DEPLOY, load
from conftest import Scene
from fake_aws import FakeAws, check_call, parsed

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


@pytest.mark.parametrize("script", ["deploy.sh", "remove.sh"])
def test_every_option_that_is_named_exists(script: str) -> None:
    """Also where it stands in a sentence, behind the name of the script."""
    shown = subprocess.run(
        [str(DEPLOY / script), "--help"], capture_output=True, text=True, check=True
    ).stdout
    known = set(re.findall(r"--[a-z][a-z-]*", shown))
    named = {
        option
        for page in PAGES
        for call in re.findall(rf"deploy/{script}([^`|]*)", page.read_text(encoding="utf-8"))
        for option in re.findall(r"--[a-z][a-z-]*", re.split(r"\n\n| -- |\n\S*/", call)[0])
    }
    assert named <= known
    assert named


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """A stack with what the pages name, and somebody who says yes."""
    (tmp_path / "bin").mkdir()
    with FakeAws(tmp_path / "bin") as aws:
        targets = ("tmt-0123456789abcdef0", "tmt-0fedcba9876543210")
        aws.targets = dict.fromkeys(targets, aws.account)
        aws.filters = ["tmf-0123456789abcdef0"]
        aws.queues = {"https://sqs/dead", "https://sqs/sweeps"}
        aws.buckets["my-bucket"].keys = {f"lambda_traffic_mirror/1.0.0-{'0' * 64}.zip"}
        aws.deployed(FilterId=aws.filters[0], Targets=targets[0], TargetAccounts="")
        for number in range(42):
            aws.add_session(f"eni-{number:08x}", targets[0], aws.filters[0])
        yield Checkout(tmp_path, aws)


OURS = [words for words in commands(OPERATORS) if words[0].startswith("deploy/")]


@pytest.mark.parametrize("words", OURS, ids=lambda words: " ".join(words)[:60])
def test_every_command_of_ours_does_what_it_is_shown_for(
    checkout: Checkout, words: list[str]
) -> None:
    if "--filter" in words:
        checkout.aws.stack = None  # that is what this is shown for
    checkout.run(words[0].removeprefix("deploy/"), *words[1:], answer="yes\n")
    if words[0] == "deploy/remove.sh":
        assert len(checkout.aws.sessions) == (40 if "--above" in words else 0)


def test_every_command_of_aws_is_one() -> None:
    found = [words for words in commands(OPERATORS) if words[0] == "aws"]
    assert len(found) >= 3
    for words in found:
        check_call(parsed(["", *words[1:]]))


def test_the_other_commands_are_known() -> None:
    others = {words[0] for words in commands(OPERATORS)} - {"aws"} - {words[0] for words in OURS}
    assert others == {"git", "./build_zip.sh"}


def test_the_exit_codes_are_those_of_the_scripts() -> None:
    page = PROJECT / "docs" / "operations.md"
    codes, meanings = (column(page, "| status | meaning |", number) for number in (0, 1))
    text = (DEPLOY / "common.sh").read_text(encoding="utf-8")
    listed = re.search(r"^EXIT_CODES='(.*?)'$", text, re.MULTILINE | re.DOTALL)
    assert listed
    rows = list(zip(codes, meanings, strict=True))
    assert rows == re.findall(r"^ +(\d+)  (.*)$", listed[1], re.MULTILINE)


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
NOT_OPERATIONS = {"iam:PassRole", "s3:ListBucket"}


def test_the_rights_are_rights() -> None:
    session = botocore.session.get_session()
    operations = {
        f"{service}:{name}"
        for service in {right.partition(":")[0] for right in rights()}
        for name in session.get_service_model(service).operation_names
    }
    assert rights() - NOT_OPERATIONS - operations == set()


def test_the_rights_cover_the_services_of_the_template_and_the_calls_of_the_scripts() -> None:
    services = {right.partition(":")[0] for right in rights()}
    types = {resource["Type"].split("::")[1].lower() for resource in load()["Resources"].values()}
    assert types <= services
    called = {
        f"{service}:{operation}"
        for script in (DEPLOY / name for name in ("common.sh", "deploy.sh", "remove.sh"))
        for service, operation in re.findall(
            r"\b(ec2|cloudformation|lambda|sqs) ((?:describe|delete|get)-[a-z-]+)\b",
            script.read_text(encoding="utf-8"),
        )
    }
    written = {
        f"{service}:{xform_name(name, '-')}"
        for service, _, name in (r.partition(":") for r in rights())
    }
    assert called <= written
    assert len(called) > 8
