"""README.md and docs/how-it-is-built.md show what is so: outputs, events, tables, names."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cloudformation import load
from commands.picture import ADVICE
from conftest import VARIABLES, Scene, running_event
from pages import PROJECT, blocks, column, commands, page, quoted

import lambda_traffic_mirror
from lambda_traffic_mirror import OUTCOMES, STAGES, Configuration

README, BUILT = page("README"), page("how-it-is-built")
MODULE = Path(lambda_traffic_mirror.__file__).read_text(encoding="utf-8")
TEMPLATE = load()
WHY = "| stage | what is wrong | do this |"
SAYS = "| outcome | it says | do this |"


def test_the_readme_is_no_longer_than_an_operator_reads() -> None:
    assert len(README.splitlines()) <= 350


# --- Outputs and events


@cache
def demonstration() -> list[str]:
    run = subprocess.run(
        [sys.executable, "tests/simulations/demo.py"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "100"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return [line.rstrip() for line in run.stdout.splitlines()]


@pytest.mark.parametrize("number", [0, 1])
def test_the_demonstration_prints_what_is_shown(number: int) -> None:
    """In this order; lines that are left out stand as `…`."""
    shown = [text for mark, text in blocks(README) if mark == "run: tests/demo.sh"][number]
    rest = iter(demonstration())
    assert [line for line in shown.splitlines() if line != "…" and line not in rest] == []


def test_the_result_that_is_shown_is_a_real_one_but_for_the_ids(scene: Scene) -> None:
    (shown,) = (json.loads(text) for mark, text in blocks(README, "json") if mark == "result")
    scene.configure([scene.sensor(groups=[scene.group()]), scene.sensor(zone="b")])
    real = scene.run(scene.instance()).body
    identifier = re.compile(r"\b(tmt|sg|eni|i)-[0-9a-f]{17}|\b10(?:\.\d+){3}")
    plain_shown, plain_real = (identifier.sub("ID", json.dumps(each)) for each in (shown, real))
    assert plain_shown == plain_real


EVENTS = re.findall(r"`(\{[^`]*\})`", README)


@pytest.mark.parametrize("text", EVENTS)
def test_an_event_that_is_shown_works(scene: Scene, sensor: str, text: str) -> None:
    assert scene.run(json.loads(text)).status == 200


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
    for name, default in zip(names, defaults, strict=True):
        if not name.startswith("`--"):
            values = [each.strip("`").replace("empty", "") for each in default.split(", ")]
            shown |= zip(quoted([name]), values, strict=True)
    assert shown == parameters
    # A variable stands beside the parameter that sets it.
    set_by = TEMPLATE["Resources"]["Function"]["Properties"]["Environment"]["Variables"]
    for name, variable in zip(names, variables, strict=True):
        if variable and not name.startswith("`--"):
            assert quoted([name])[0] in json.dumps(set_by[variable.strip("`")], default=str)


def test_the_defaults_of_variables_are_those_of_the_template_but_for_two() -> None:
    required = {"filter_id": "tmf-1", "targets": "tmt-1"}
    bare = Configuration.from_environment(required)
    defaults = {name: row.get("Default", "") for name, row in TEMPLATE["Parameters"].items()}
    values = {name: str(defaults.get(name.title().replace("_", ""), "")) for name in VARIABLES}
    assert "Without\nthe template, `EXCLUDE_TAGS` is empty and `CACHE_SECONDS` is `0`." in README
    assert bare == Configuration.from_environment(
        {**values, **required, "EXCLUDE_TAGS": "", "CACHE_SECONDS": "0"}
    )


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
    text = (PROJECT / "deploy" / "permissions.json").read_text(encoding="utf-8")
    right = r'"(ec2:(?:Describe|Create|Get)\w+|sts:\w+)"'
    guide = set(re.findall(right, text)) - {"ec2:CreateAction"}
    assert (len(guide), set(shown[:8])) == (8, guide)
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
        name: set(re.findall(r"'MetricName': '(\w+)'", str(resource)))
        for name, resource in TEMPLATE["Resources"].items()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    }
    header = "| alarm | rings when |"
    names, when = quoted(column(README, header)), column(README, header, 1)
    assert names == list(alarms)
    for name, cell in zip(names, when, strict=True):
        assert set(quoted([cell])) - {"DRY_RUN"} <= alarms[name], name
    # What CloudWatch charges for: Sessions comes besides, once for each sensor.
    counts = {
        name: len(re.findall("'MetricName'", str(TEMPLATE["Resources"][name]))) for name in names
    }
    cost = page("performance")
    assert f"{len(printed) - 1} x $0.30" in cost
    assert f"{sum(counts.values())} metrics of six alarms" in cost


# --- How it is built


def test_the_sections_of_the_module_are_the_ones_that_are_listed() -> None:
    titles = re.findall(r"^# =+\n# \d+  (.*)\n# =+$", MODULE, re.MULTILINE)
    assert column(BUILT, "| section | what is in it |") == titles


def test_the_commands_of_the_page_for_builders_can_be_run() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in PROJECT.glob("tests/test_*.py"))
    for words in commands(BUILT):
        while "=" in words[0]:
            assert f'os.environ.get("{words.pop(0).partition("=")[0]}"' in tests
        if words[0] == ".venv/bin/python":
            words.pop(0)
        else:
            assert os.access(PROJECT / words[0], os.X_OK), words
        script = (PROJECT / words[0]).read_text(encoding="utf-8")
        for path in (word for word in words if "/" in word):
            assert (PROJECT / path).exists(), words
        for option in (word for word in words if word.startswith("--")):
            assert option in script, words


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
    assert [path for path in sorted(paths) if not (PROJECT / path).exists()] == []
    files = [*PROJECT.glob("*.py"), *PROJECT.glob("tests/**/*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in files if path != Path(__file__))
    words = {word for name in named - paths for word in re.findall(r"^[\w.]+$", name)}
    parts = {
        part for word in words if not word.endswith((".py", ".md")) for part in word.split(".")
    }
    assert len(parts) > 30
    assert [part for part in sorted(parts) if not re.search(rf"\b{part}\b", code)] == []
