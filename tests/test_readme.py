"""README.md and docs/how-it-is-built.md show what is so: commands, outputs, tables, links."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import calls
import conftest
import pytest
import worlds
from aws.transport import Fault
from cloudformation import load
from commands import deploy
from commands.__main__ import parser_of
from conftest import VARIABLES, Scene, running_event
from picture import ADVICE

import lambda_traffic_mirror
from lambda_traffic_mirror import OUTCOMES, PIPELINE, Configuration

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BUILT = (PROJECT / "docs" / "how-it-is-built.md").read_text(encoding="utf-8")
MODULE = Path(lambda_traffic_mirror.__file__).read_text(encoding="utf-8")
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def blocks(text: str, marker: str) -> list[tuple[str, str]]:
    """What is behind `<!-- marker: … -->`, with the fenced block that follows."""
    pattern = rf"^( *)<!-- {marker}:? ?([^>\n]*?) ?-->\n\1```\w*\n(.*?)^\1```$"
    found = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    return [
        (name, re.sub(rf"^{indent}", "", block, flags=re.MULTILINE))
        for indent, name, block in found
    ]


def commands(text: str) -> list[list[str]]:
    """The commands in blocks of shell, each as its words."""
    shell = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(shell).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def column(text: str, header: str, number: int = 0) -> list[str]:
    """A column of the table with this header."""
    rows = text.split(f"\n{header}\n", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    return [row.split("|")[number + 1].strip() for row in rows]


def quoted(cells: list[str]) -> list[str]:
    """What is quoted as code in these cells."""
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def test_the_readme_is_no_longer_than_somebody_reads() -> None:
    assert len(README.splitlines()) <= 380


# --- Outputs


@cache
def demonstration() -> tuple[str, ...]:
    run = subprocess.run(
        [sys.executable, "tests/simulations/demo.py"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "100"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return tuple(run.stdout.splitlines())


@pytest.mark.parametrize(("name", "text"), blocks(README, "run"))
def test_the_demonstration_prints_what_is_shown(name: str, text: str) -> None:
    """Lines that are left out stand as `…`."""
    assert name == "tests/demo.sh"
    rest = iter(demonstration())
    missing = [line for line in text.splitlines() if line.strip() != "…" and line not in rest]
    assert missing == []


def test_both_pictures_of_the_demonstration_are_shown() -> None:
    assert len(blocks(README, "run")) == 2


def test_the_result_that_is_shown_has_the_form_of_a_real_one(scene: Scene) -> None:
    ((_, text),) = blocks(README, "result")
    shown = json.loads(text)
    targets = [scene.sensor(groups=[scene.group()]), scene.sensor(zone="b")]
    scene.configure(targets)
    real = scene.run(scene.instance()).body
    assert list(shown) == list(real)
    assert (shown["message"], shown["summary"]) == (real["message"], real["summary"])
    (entry,), (real_entry,) = shown["interfaces"], real["interfaces"]
    assert (list(entry), entry["outcome"]) == (list(real_entry), real_entry["outcome"])
    rows, real_rows = entry["sensors"], real_entry["sensors"]
    assert [(list(row), row["verdict"], row["stage"]) for row in rows] == [
        (list(row), row["verdict"], row["stage"]) for row in real_rows
    ]
    # The sentences are the real ones, but for the IDs.
    in_words = re.compile(r"\b(?:tmt|sg|eni|i)-[0-9a-f]{17}|\b10(?:\.\d+){3}")
    for ours, theirs in zip([entry, *rows], [real_entry, *real_rows], strict=True):
        assert in_words.sub("ID", ours["reason"]) == in_words.sub("ID", theirs["reason"])


# --- Commands and events


def options_in(words: list[str]) -> argparse.Namespace:
    """What a command that is shown says to the program."""
    name = words[0].removeprefix("deploy/").removesuffix(".sh")
    return parser_of(name).parse_intermixed_args(words[1:])


def test_the_commands_of_the_first_screen_come_to_something() -> None:
    shown = [shlex.split(cell.strip("`")) for cell in column(README, "| you want to | run |", 1)]
    assert [words[0] for words in shown] == [
        "tests/demo.sh",
        "tests/run.sh",
        "deploy/preview.sh",
        "deploy/deploy.sh",
    ]
    for words in shown:
        assert os.access(PROJECT / words[0], os.X_OK), words
    assert options_in(shown[2]).targets == "tmt-0123456789abcdef0"
    assert deploy.given_by(options_in(shown[3]))["Targets"] == "tmt-0123456789abcdef0"


def test_the_commands_that_deploy_do_so() -> None:
    found = [words for words in commands(README) if words[0] == "deploy/deploy.sh"]
    given = [deploy.given_by(options_in(words)) for words in found]
    assert [one["DryRun"] for one in given] == ["true", "false"]


def test_the_preview_understands_the_command_that_is_shown() -> None:
    (words,) = [words for words in commands(README) if words[0] == "deploy/preview.sh"]
    options = options_in(words)
    assert options.targets == "tmt-0123456789abcdef0 tmt-0fedcba9876543210"
    assert options.html == Path("preview.html")


def test_no_other_command_is_shown() -> None:
    assert {words[0] for words in commands(README)} == {"deploy/preview.sh", "deploy/deploy.sh"}


@pytest.mark.parametrize("command", ["deploy", "remove", "preview"])
def test_every_option_that_is_named_exists(command: str) -> None:
    """Also those that stand in a sentence behind the name of the script."""
    named = re.findall(rf"deploy/{command}.sh([^`|]*)", README)
    options = {option for text in named for option in re.findall(r"--[a-z][a-z-]*", text)}
    assert options <= options_of(command)


def options_of(command: str) -> set[str]:
    return set(re.findall(r"^ +(--[a-z][a-z-]*)", parser_of(command).format_help(), re.MULTILINE))


EVENTS = re.findall(r"`(\{[^`]*\})`", README)


@pytest.mark.parametrize("text", EVENTS)
def test_an_event_that_is_shown_works(scene: Scene, sensor: str, text: str) -> None:
    assert scene.run(json.loads(text)).status == 200


def test_events_by_hand_are_shown() -> None:
    assert len(set(EVENTS)) == 4


def test_whatever_else_is_answered_with_an_event_that_works(scene: Scene) -> None:
    answer = scene.run({"key1": "value1"})
    assert answer.status == 400
    assert EVENTS[1] in answer.body["message"]


def test_the_commands_of_the_page_for_builders_can_be_run() -> None:
    found = commands(BUILT)
    assert len(found) >= 9
    tests = "".join(path.read_text(encoding="utf-8") for path in PROJECT.glob("tests/test_*.py"))
    for words in found:
        while "=" in words[0]:
            name = words.pop(0).partition("=")[0]
            assert f'os.environ.get("{name}"' in tests
        if words[0].startswith(".venv"):
            words.pop(0)
        else:
            assert os.access(PROJECT / words[0], os.X_OK), words
        script, *arguments = words
        text = (PROJECT / script).read_text(encoding="utf-8")
        for argument in arguments:
            known = argument in ("-k", "-x") or argument in text or argument == "throttled"
            assert known or (PROJECT / argument).exists(), words


def test_the_test_that_is_shown_passes(request: pytest.FixtureRequest) -> None:
    ((_, text),) = blocks(BUILT, "test")
    names: dict[str, Any] = {"__name__": "shown"}
    exec(compile(text, "how-it-is-built.md", "exec"), names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    test(**{name: request.getfixturevalue(name) for name in inspect.signature(test).parameters})


# --- Tables


def test_the_table_of_variables_is_complete() -> None:
    assert tuple(quoted([cell])[0] for cell in column(README, VARIABLES_HEADER)) == VARIABLES


VARIABLES_HEADER = "| variable | default | meaning |"
REQUIRED = {"filter_id": "tmf-1", "targets": "tmt-1"}


def test_the_defaults_of_variables_are_the_real_ones() -> None:
    names = [quoted([cell])[0] for cell in column(README, VARIABLES_HEADER)]
    shown = dict(zip(names, column(README, VARIABLES_HEADER, 1), strict=True))
    bare = Configuration.from_environment(REQUIRED)
    for name, default in shown.items():
        if name in REQUIRED:
            assert default == "required"
        else:
            unset = default in ("empty", "AWS picks", "whole packet")
            value = "" if unset else default
            assert Configuration.from_environment({**REQUIRED, name: value}) == bare, name


def test_the_table_of_outcomes_is_complete() -> None:
    header = "| outcome | meaning | status |"
    assert sorted(quoted(column(README, header))) == sorted(OUTCOMES)


@pytest.mark.parametrize("stage", ADVICE)
def test_the_preview_says_what_the_table_of_why_not_says(stage: str) -> None:
    """The table may say more."""
    header = "| stage | what is wrong | do this |"
    row = quoted(column(README, header)).index(stage)
    wrong, remedy = (column(README, header, at)[row].replace("`", "") for at in (1, 2))
    advice = ADVICE[stage]
    assert wrong.startswith(advice.unmirrored)
    assert remedy.startswith(advice.remedy.replace("`", "").rstrip("."))


def test_the_tables_of_why_not_have_every_stage_and_every_outcome_that_asks_why() -> None:
    stages = quoted(column(README, "| stage | what is wrong | do this |"))
    assert stages == list(dict.fromkeys(stage for stage, _ in PIPELINE))
    outcomes = quoted(column(README, "| outcome | it says | do this |"))
    assert set(outcomes) | {"blocked"} == OUTCOMES.keys() - {"created", "planned"}


def test_what_the_function_is_said_to_say_it_says() -> None:
    code = re.sub(r'"\s*\n\s*f?"', "", MODULE)
    said = [
        part.strip()
        for cell in column(README, "| outcome | it says | do this |", 1)
        for sentence in re.findall(r"\*([^*]+)\*", cell)
        for part in sentence.split("…")
    ]
    assert len(said) > 12
    assert [part for part in said if part not in code] == []


def test_the_table_of_parameters_is_complete_and_has_the_real_defaults() -> None:
    header = "| option or parameter | default | meaning |"
    names = [quoted([cell])[0] for cell in column(README, header)]
    shown = dict(zip(names, column(README, header, 1), strict=True))
    parameters = dict(load()["Parameters"])
    for filled_in_by_the_script in ("CodeBucket", "CodeKey", "CodeVersion"):
        parameters.pop(filled_in_by_the_script)
    for has_an_option in ("FilterId", "Targets", "TargetAccounts"):
        parameters.pop(has_an_option)
    assert {name for name in shown if not name.startswith("--")} == parameters.keys()
    assert {name for name in shown if name.startswith("--")} == options_of("deploy")
    for name, parameter in parameters.items():
        default = str(parameter["Default"])
        assert shown[name] == (f"`{default}`" if default else "empty"), name


def test_the_table_of_permissions_is_complete() -> None:
    header = "| permission | what it is for |"
    shown = [quoted([cell])[0] for cell in column(README, header)]
    policy = json.loads((PROJECT / "deploy" / "permissions.json").read_text(encoding="utf-8"))
    guide = [
        action
        for statement in policy["Statement"]
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    ]
    assert len(guide) == 8
    assert set(shown[:8]) == set(guide)
    resources = json.dumps(load()["Resources"], default=str)
    granted = set(re.findall(r"ec2:(?:Describe|Create|Get)[A-Z]\w+|sts:\w+", resources))
    assert set(shown) == granted - {"ec2:CreateAction", "sts:AssumeRole"} | {"sts:AssumeRole"}
    optional = [cell.split(":")[0] for cell in column(README, header, 1)[8:]]
    assert all(cell.startswith("optional") for cell in optional)
    named = {name for name in quoted(optional) if name[0].isupper()}
    assert named <= load()["Parameters"].keys()
    assert len(named) == len(optional)


def test_the_table_of_metrics_is_complete(
    scene: Scene, sensor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.run(running_event(scene.instance()))
    scene.run({"sweep": True})
    printed = {
        metric["Name"]
        for line in capsys.readouterr().out.splitlines()
        for directive in json.loads(line)["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]
    }
    header = "| metric | what it is | alarm in the template |"
    assert set(quoted(column(README, header))) == printed
    # Above 0, or none at all: those have an alarm of the stack's.
    said = {
        name
        for cell, alarm in zip(column(README, header), column(README, header, 2), strict=True)
        for name in quoted([cell] if alarm else [])
    }
    alarms = {
        resource["Properties"].get("MetricName")
        for resource in load()["Resources"].values()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    }
    assert said == alarms & printed


def test_the_sections_of_the_module_are_the_ones_that_are_listed() -> None:
    titles = re.findall(r"^# =+\n# \d+  (.*)\n# =+$", MODULE, re.MULTILINE)
    assert column(BUILT, "| section | what is in it |") == titles


def test_every_file_of_tests_has_its_row() -> None:
    rows = set(quoted(column(BUILT, "| file | what it proves |")))
    files = {str(path.relative_to(PROJECT)) for path in PROJECT.glob("tests/**/test_*.py")}
    assert rows == files


# --- Names and links


def names_in_code() -> set[str]:
    prose = re.sub(r"^```.*?^```$", "", BUILT, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", prose))


def test_every_path_that_is_named_exists() -> None:
    paths = {name for name in names_in_code() if "/" in name}
    assert len(paths) > 30
    assert [path for path in sorted(paths) if not (PROJECT / path).exists()] == []


def test_every_name_that_is_named_exists() -> None:
    found = {name for name in names_in_code() if re.fullmatch(r"[A-Z]\w+(\.\w+)?", name)}
    assert len(found) > 30
    tests = "".join(path.read_text(encoding="utf-8") for path in PROJECT.glob("tests/test_*.py"))
    missing = []
    for name in sorted(found):
        first, _, member = name.partition(".")
        owners = [
            getattr(place, first)
            for place in (lambda_traffic_mirror, calls, conftest, worlds)
            if hasattr(place, first)
        ]
        if any(hasattr(owner, member) for owner in owners) if member else owners:
            continue
        if f'os.environ.get("{name}"' not in tests:
            missing.append(name)
    assert missing == []
    assert hasattr(conftest, "SimulatedAccount")
    assert {"times", "after", "where", "lose_answer"} <= Fault.__annotations__.keys()


def test_every_fixture_that_is_named_exists() -> None:
    sentence = BUILT.split("\nFixtures: ")[1].split("\n\n")[0]
    text = Path(conftest.__file__).read_text(encoding="utf-8")
    names = quoted([sentence])
    assert len(names) > 5
    assert [name for name in names if f"@pytest.fixture\ndef {name}(" not in text] == []


def anchors(page: Path) -> set[str]:
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$|`[^`]+`",
        "",
        page.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(PROJECT), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_within_reach() -> None:
    for page in PAGES[1:]:
        assert f"](docs/{page.name})" in README, page.name


def test_every_heading_is_in_the_table_of_contents() -> None:
    contents = README.split("\n## Contents\n")[1].split("\n## ")[0]
    assert anchors(PAGES[0]) - set(re.findall(r"\(#([\w-]+)\)", contents)) == {
        "traffic-mirroring-for-every-ec2-instance",
        "contents",
    }
    assert set(re.findall(r"\(#([\w-]+)\)", BUILT)) == anchors(
        PROJECT / "docs" / "how-it-is-built.md"
    ) - {"how-it-is-built-and-where-a-change-goes"}
