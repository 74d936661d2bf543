"""README.md and docs/ show what is so: links, commands, outputs, events, tables, names."""

from __future__ import annotations

import inspect
import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.session
import demo
import pytest
from botocore import xform_name
from cloudformation import load
from commands import deploy
from commands.__main__ import parser_of
from commands.aws import Exit
from commands.picture import ADVICE
from conftest import VARIABLES, Scene, running_event
from moto.moto_api._internal import mock_random
from rich.console import Console

import lambda_traffic_mirror
from lambda_traffic_mirror import OUTCOMES, STAGES, Configuration

PROJECT = Path(__file__).resolve().parent.parent
PATHS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in PATHS}
README, BUILT = PAGES["README"], PAGES["how-it-is-built"]
MODULE = Path(lambda_traffic_mirror.__file__).read_text(encoding="utf-8")
PERMISSIONS = (PROJECT / "deploy" / "permissions.json").read_text(encoding="utf-8")
TEMPLATE = load()
WHY = "| stage | what is wrong | do this |"
SAYS = "| outcome | it says | do this |"


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


# --- Every page


def test_every_link_within_the_project_leads_somewhere_and_every_page_is_within_reach() -> None:
    anchors = {}
    for path in PATHS:
        headings = re.findall(r"^#+ (.*)$", PAGES[path.stem], re.MULTILINE)
        names = [re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings]
        anchors[path] = names
    for path in PATHS:
        # A call behind a subscript in code looks like a link.
        text = re.sub(r"```.*?```|`[^`]+`", "", PAGES[path.stem], flags=re.DOTALL)
        for link in re.findall(r"\]\(((?!https://)[^)]+)\)", text):
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), link
            assert target.is_relative_to(PROJECT), link
            assert not anchor or anchor in anchors[target], link
        assert path == PATHS[0] or f"](docs/{path.name})" in README


def test_every_block_can_be_read_and_is_the_file_that_it_shows() -> None:
    shell = "\n".join(block for text in PAGES.values() for _, block in blocks(text, "sh"))
    subprocess.run(["bash", "-n"], check=True, input=shell, text=True)
    for mark, block in (found for text in PAGES.values() for found in blocks(text, "json")):
        shown = json.loads(block)
        if mark.startswith("file: "):
            file = PROJECT / mark.removeprefix("file: ")
            assert shown == json.loads(file.read_text(encoding="utf-8")), mark


def test_every_command_of_ours_is_understood() -> None:
    """Also those that stand in a sentence or a table."""
    every = "\n".join(PAGES.values())
    found = [words for words in commands(every) if "deploy/" in words[0]]
    found += [shlex.split(text) for text in re.findall(r"`(deploy/\w+\.sh [^`]+)`", every)]
    for program, *arguments in found:
        options = parser_of(Path(program).stem).parse_intermixed_args(arguments)
        assert "deploy.sh" not in program or deploy.given_by(options)


# --- Outputs and events


def test_the_demonstration_prints_what_is_shown_and_writes_its_account_as_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this order; lines that are left out stand as `…`."""
    monkeypatch.setattr(demo, "CONSOLE", Console(width=100, highlight=False, emoji=False))
    monkeypatch.setattr(sys, "argv", ["demo.py", "--html", str(tmp_path / "page.html")])
    state = random.getstate()
    demo.main()
    random.setstate(state)
    mock_random.seed()
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    for shown in (text for mark, text in blocks(README) if mark == "run: tests/demo.sh"):
        rest = iter(printed)
        assert [line for line in shown.splitlines() if line != "…" and line not in rest] == []
    (headline,) = re.findall("<h1.*>(.*)</h1>", (tmp_path / "page.html").read_text("utf-8"))
    assert headline in printed


def test_the_result_that_is_shown_is_a_real_one_but_for_the_ids(scene: Scene) -> None:
    (shown,) = (json.loads(text) for mark, text in blocks(README, "json") if mark == "result")
    scene.configure([scene.sensor(groups=[scene.group()]), scene.sensor(zone="b")])
    real = scene.run(scene.instance()).body
    identifier = re.compile(r"\b(tmt|sg|eni|i)-[0-9a-f]{17}|\b10(?:\.\d+){3}")
    plain_shown, plain_real = (identifier.sub("ID", json.dumps(each)) for each in (shown, real))
    assert plain_shown == plain_real


def test_an_event_that_is_shown_works(scene: Scene, sensor: str) -> None:
    for text in re.findall(r"`(\{[^`]*\})`", README):
        assert scene.run(json.loads(text)).status == 200
    (text,) = (text for mark, text in blocks(PAGES["console"], "json") if mark == "event: sweep")
    instance = scene.instance()
    scene.run(json.loads(text))
    assert scene.sessions_of(instance) == [1]


# --- Tables


def test_the_table_of_parameters_and_variables_is_complete_and_has_the_real_defaults() -> None:
    header = "| option or parameter | variable | default | meaning |"
    names, variables, defaults = (column(README, header, number) for number in range(3))
    assert sorted(quoted(variables)) == sorted(VARIABLES)
    parameters = {
        name: str(parameter.get("Default", ""))
        for name, parameter in TEMPLATE["Parameters"].items()
    }
    # Those that deploy.sh fills in, or that have an option of their own.
    for name in ("CodeBucket", "CodeKey", "CodeVersion", "FilterId", "Targets", "TargetAccounts"):
        parameters.pop(name)
    shown: dict[str, str] = {}
    set_by = TEMPLATE["Resources"]["Function"]["Properties"]["Environment"]["Variables"]
    for name, variable, default in zip(names, variables, defaults, strict=True):
        if not name.startswith("`--"):
            values = [each.strip("`").replace("empty", "") for each in default.split(", ")]
            shown |= zip(quoted([name]), values, strict=True)
            # A variable stands beside the parameter that sets it.
            text = json.dumps(set_by[variable.strip("`")], default=str) if variable else name
            assert quoted([name])[0] in text
    assert shown == parameters
    help_text = parser_of("deploy").format_help()
    known = set(re.findall(r"^ +(--[a-z][a-z-]*)", help_text, re.MULTILINE))
    assert set(re.findall(r"--[a-z][a-z-]*", " ".join(names))) == known


def test_the_defaults_of_variables_are_those_of_the_template_but_for_two() -> None:
    required = {"filter_id": "tmf-1", "targets": "tmt-1"}
    defaults = {name: row.get("Default", "") for name, row in TEMPLATE["Parameters"].items()}
    values = {name: str(defaults.get(name.title().replace("_", ""), "")) for name in VARIABLES}
    but = {"EXCLUDE_TAGS": "", "CACHE_SECONDS": "0"}
    assert "Without\nthe template, `EXCLUDE_TAGS` is empty and `CACHE_SECONDS` is `0`." in README
    bare = Configuration.from_environment(required)
    assert bare == Configuration.from_environment(values | required | but)


def test_the_tables_of_outcomes_and_stages_are_complete_and_say_what_the_preview_says() -> None:
    """They may say more."""
    assert tuple(quoted(column(README, WHY))) == STAGES
    wrong, remedies = (column(README, WHY, number) for number in (1, 2))
    for stage, *said in zip(STAGES, wrong, remedies, strict=True):
        for text, advice in zip(said, ADVICE[stage], strict=True):
            assert text.replace("`", "").startswith(advice.replace("`", "").rstrip(".")), stage
    assert sorted(quoted(column(README, "| outcome | meaning | status |"))) == sorted(OUTCOMES)
    assert {*quoted(column(README, SAYS)), "blocked"} == OUTCOMES.keys() - {"created", "planned"}


def test_what_the_function_is_said_to_say_it_says() -> None:
    code = re.sub(r'"\s*\n\s*f?"', "", MODULE)
    sentences = re.findall(r"\*([^*]+)\*", " ".join(column(README, SAYS, 1)))
    said = [part.strip() for sentence in sentences for part in sentence.split("…")]
    assert len(said) > 12
    assert [part for part in said if part not in code] == []


def test_the_table_of_permissions_is_complete() -> None:
    header = "| permission | what it is for |"
    shown, what_for = quoted(column(README, header)), column(README, header, 1)
    right = r'"(ec2:(?:Describe|Create|Get)\w+|sts:\w+)"'
    assert set(shown[:8]) == set(re.findall(right, PERMISSIONS)) - {"ec2:CreateAction"}
    resources = json.dumps(TEMPLATE["Resources"], default=str)
    assert set(shown) == set(re.findall(right, resources)) - {"ec2:CreateAction"}
    optional = [cell for cell in what_for if cell.startswith("optional")]
    assert len(optional) == len(shown[8:])
    assert {quoted([cell])[0] for cell in optional} <= TEMPLATE["Parameters"].keys()


def test_the_tables_of_metrics_and_alarms_are_complete(
    scene: Scene, sensor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.run(running_event(scene.instance()))
    scene.run({"sweep": True})
    lines = [json.loads(line)["_aws"] for line in capsys.readouterr().out.splitlines()]
    directives = [directive for line in lines for directive in line["CloudWatchMetrics"]]
    printed = {metric["Name"] for directive in directives for metric in directive["Metrics"]}
    assert set(quoted(column(README, "| metric | what it is |"))) == printed
    alarms = {
        name: re.findall(r"'MetricName': '(\w+)'", str(resource))
        for name, resource in TEMPLATE["Resources"].items()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    }
    header = "| alarm | rings when |"
    assert quoted(column(README, header)) == list(alarms)
    for metrics, cell in zip(alarms.values(), column(README, header, 1), strict=True):
        assert {*quoted([cell])} - {"DRY_RUN"} <= {*metrics}
    paragraphs = re.findall(r"^### (\w+Alarm)$", PAGES["operations"], re.MULTILINE)
    assert paragraphs == list(alarms)
    # What CloudWatch charges for: Sessions comes besides, once for each sensor.
    assert f"{len(printed) - 1} x $0.30" in PAGES["performance"]
    assert f"{sum(map(len, alarms.values()))} metrics of six alarms" in PAGES["performance"]


def test_the_exit_statuses_are_those_of_the_program() -> None:
    table = [column(PAGES["operations"], "| status | meaning |", number) for number in (0, 1)]
    assert list(zip(*table, strict=True)) == [(str(int(one)), one.text) for one in Exit]


def test_the_rights_cover_the_template_and_the_calls_of_the_program() -> None:
    cells = column(PAGES["operations"], "| service | actions | for |", 1)
    rights = {right for right in quoted(cells) if re.fullmatch(r"\w+:\w+", right)}
    services = {right.partition(":")[0] for right in rights}
    models = botocore.session.get_session()
    operations = {
        f"{service}:{name}"
        for service in services
        for name in models.get_service_model(service).operation_names
    }
    # Rights that are not named after an operation.
    assert rights - {"iam:PassRole", "lambda:InvokeFunction", "s3:ListBucket"} <= operations
    types = {resource["Type"].split("::")[1].lower() for resource in TEMPLATE["Resources"].values()}
    assert types <= services
    program = (PROJECT / "deploy" / "commands").glob("*.py")
    text = "".join(path.read_text(encoding="utf-8") for path in program)
    called = set(re.findall(r"\b(?:describe|delete|get|list|create|execute)_[a-z_]+\b", text))
    known, written = ({xform_name(n.partition(":")[2]) for n in s} for s in (operations, rights))
    # S3 names the right to list otherwise.
    assert (called & known) - written - {"list_objects_v2", "get_template"} == set()


# --- Single pages


def test_the_readme_is_no_longer_than_an_operator_reads() -> None:
    assert len(README.splitlines()) <= 350


def test_the_changes_begin_with_the_version_of_the_module() -> None:
    versions = re.findall(r"^## ([0-9.]+)", PAGES["changes"], re.MULTILINE)
    assert versions[0] == lambda_traffic_mirror.VERSION


def test_the_console_page_shows_the_files_and_mirrors_nothing_before_the_dry_run() -> None:
    text = PAGES["console"]
    steps = ["EXCLUDE_TAGS", "dry-run-sweep.json", "test-event.json", "event-pattern.json"]
    assert sorted(steps, key=text.index) == steps
    assert all(f"<!-- file: deploy/{name} -->" in text for name in steps[1:])
    # What the policy leaves open is named, and nothing else.
    placeholders = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", PERMISSIONS))
    assert placeholders == set(re.findall(r"in\s+place\s+of\s+`([A-Z_]+)`", text))


def test_the_sections_of_the_module_are_the_ones_that_are_listed() -> None:
    titles = re.findall(r"^# =+\n# \d+  (.*)\n# =+$", MODULE, re.MULTILINE)
    assert column(BUILT, "| section | what is in it |") == titles


def test_the_test_that_is_shown_passes(request: pytest.FixtureRequest) -> None:
    (text,) = (text for mark, text in blocks(BUILT, "python") if mark == "test")
    names: dict[str, Any] = {"__name__": "shown"}
    exec(compile(text, "how-it-is-built.md", "exec"), names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    test(**{name: request.getfixturevalue(name) for name in inspect.signature(test).parameters})


def test_every_file_and_every_name_that_is_named_exists() -> None:
    prose = re.sub(r"^```.*?^```$", "", BUILT, flags=re.MULTILINE | re.DOTALL)
    named = set(quoted([prose]))
    paths = {name for name in named if "/" in name}
    paths |= {word for words in commands(BUILT) for word in words if "/" in word}
    assert [path for path in sorted(paths) if not (PROJECT / path).exists()] == []
    files = [*PROJECT.glob("*.py"), *PROJECT.glob("tests/**/*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in files if path != Path(__file__))
    words = {word for name in named - paths for word in re.findall(r"^[\w.]+$", name)}
    parts = {
        part for word in words if not word.endswith((".py", ".md")) for part in word.split(".")
    }
    assert [part for part in sorted(parts) if not re.search(rf"\b{part}\b", code)] == []
