"""deploy/preview.sh: what it shows, that it only reads, and its page, in a browser too."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree.ElementTree import Element, TreeBuilder

import boto3
import demo
import page
import picture
import preview
import pytest
from aws import SimulatedAccount, acl_entry, route, rule
from browser import Browser, executable
from conftest import VARIABLES, Scene
from moto.server import ThreadedMotoServer
from picture import ADVICE, Picture, Sensor, Terminal
from worlds import Builder

import lambda_traffic_mirror

PROJECT = Path(__file__).resolve().parent.parent.parent
POLICY = json.loads((PROJECT / "deploy" / "preview-policy.json").read_text(encoding="utf-8"))
ALLOWED = [action for statement in POLICY["Statement"] for action in statement["Action"]]
# Without these there is nothing to judge; the rest decides only now and then.
NEEDED = POLICY["Statement"][0]["Action"]
VXLAN = rule("udp", (4789, 4789), cidr="10.0.0.0/8")
CLOSED = rule("tcp", (22, 22))


class Shown:
    """What a run of preview.sh says and where it ends."""

    def __init__(self, *arguments: str) -> None:
        out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.status = preview.main(arguments)
        out.seek(0)
        self.text, self.errors = out.read(), err.getvalue()

    @property
    def renumbered(self) -> str:
        """The text, with the IDs of resources numbered as they appear."""
        names: dict[str, str] = {}
        counts: Counter[str] = Counter()

        def name(found: re.Match[str]) -> str:
            if found[0] not in names:
                counts[found[1]] += 1
                names[found[0]] = f"{found[1]}-{counts[found[1]]:0{len(found[2])}}"
            return names[found[0]]

        text = re.sub(r"\b([a-z]{1,5})-[0-9a-f]{1,16}…", r"\1-…", self.text)
        return re.sub(r"\b([a-z]{1,5})-([0-9a-f]{17})\b", name, text)


# --------------------------------------------------------------------------------------
# On a terminal
# --------------------------------------------------------------------------------------


def covered(scene: SimulatedAccount) -> list[str]:
    """One instance is mirrored, the other would be."""
    target = scene.sensor(scene.subnet(), [scene.group(VXLAN)])
    here = scene.subnet()
    first, _ = scene.instances(2, here, [scene.group()])
    scene.session(scene.first_interface(first), target)
    return ["--targets", target]


COVERED = """\
Preview · account 123456789012 · us-east-1 · nothing was created

All 2 interfaces would be mirrored

Covered                now           after
  interfaces  1 of 2  50 %   2 of 2  100 %   ████████████████████████████▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓
  instances   1 of 2  50 %   2 of 2  100 %   ████████████████████████████▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓
                                             █ now   ▓ would be   ░ dark

Sensor                   zone        account         now  after  sessions
  tmt-00000000000000001  us-east-1a  123456789012      1      2  ██████████████████▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓

Would be created: 1 session to sensors in the same Availability Zone
  1 to tmt-00000000000000001

Skipped: 1 interface
      1  The interface is a sensor's own, and mirroring it into a sensor would loop
         eni-00000000000000001 of i-00000000000000001

Note
  No --filter was given. A preview needs none, and does not look at it.

All 2 interfaces would be mirrored.
"""


def dark(scene: SimulatedAccount) -> list[str]:
    """Something of everything that can stay dark, but for other accounts."""
    open_group = scene.group(rule("udp", (4789, 4789), cidr="10.0.0.0/9"))
    deny = [acl_entry(90, "deny", protocol="17"), acl_entry(100, "allow", protocol="-1")]
    sensor = scene.sensor(scene.subnet("a"), [open_group])
    behind = scene.sensor(scene.subnet("b", acl=deny), [open_group])
    stopped = scene.sensor(scene.subnet("d"), [open_group], state="stopped")
    first, _ = scene.instances(2, scene.subnet("a"), [scene.group()])
    scene.session(scene.first_interface(first), sensor)
    scene.instances(2, scene.subnet("b"), [scene.group()])
    scene.instances(3, scene.subnet("c"), [scene.group()])
    for cidr, routes in (("10.128.0.0/16", []), ("10.1.0.0/16", [route("0.0.0.0/0", igw=True)])):
        vpc = scene.vpc(cidr)
        scene.route_table(vpc, routes, main=True)
        scene.instance(scene.subnet("a", vpc=vpc), [scene.group(vpc=vpc)])
    (mirrored,) = scene.instances(1, scene.subnet("d"), [scene.group()])
    scene.session(scene.first_interface(mirrored), stopped)
    (elsewhere,) = scene.instances(1, scene.subnet("d"), [scene.group()])
    scene.session(scene.first_interface(elsewhere), scene.sensor(scene.subnet("d"), [open_group]))
    scene.instance(scene.subnet("a"), [scene.group()], tags={"mirror": "no"})
    targets = f"{sensor},{behind},{stopped},{scene.missing_sensor()}"
    return ["--targets", targets, "--filter", scene.filter_id, "EXCLUDE_TAGS=mirror=no"]


DARK = """\
Preview · account 123456789012 · us-east-1 · nothing was created

8 of 11 interfaces would stay dark
No sensor would see their traffic.
      3  zone                    no sensor in us-east-1c
      2  network_acl             a network ACL keeps VXLAN from the sensor
      1  blocked at unavailable  mirrored, but the sensor is gone or does not run
      1  route                   no route leads to the sensor's VPC
      1  security_group          no sensor's security group lets VXLAN in

Covered                now           after
  interfaces  1 of 11  9 %   2 of 11  18 %   █████▓▓▓▓▓▒▒▒▒▒░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
  instances   1 of 11  9 %   2 of 11  18 %   █████▓▓▓▓▓▒▒▒▒▒░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
                                             █ now   ▓ would be   ▒ elsewhere   ░ dark

3 dark at zone: no sensor in the Availability Zone
  Do this: Add a sensor in that zone, or set LOCAL_ZONE_ONLY=false (AWS charges for traffic between
           zones).
      3  No sensor in us-east-1c.
         eni-00000000000000001 of i-00000000000000001, eni-00000000000000002 of i-00000000000000002,
         eni-00000000000000003 of i-00000000000000003

2 dark at network_acl: a network ACL keeps VXLAN from the sensor
  Do this: Allow inbound UDP 4789 in the network ACL that is named, with a lower rule number.
      2  udp/4789 from addresses in 10.0.4.4/31 is denied by inbound rule 90 of network ACL
         acl-00000000000000001.
         eni-00000000000000004 of i-00000000000000004, eni-00000000000000005 of i-00000000000000005

1 dark, blocked at unavailable: mirrored, but the sensor is gone or does not run
  Do this: Start the sensor, or correct `targets`. A load balancer needs EXCLUDE_TAGS or
           INCLUDE_TAGS, a sensor of another account a role in SENSOR_ROLE_ARNS.
      1  tmt-00000000000000001: The sensor's instance i-00000000000000006 is stopped.
         eni-00000000000000006 of i-00000000000000007

1 dark at route: no route leads to the sensor's VPC
  Do this: Mend the route that is named, in the route table of the interface's subnet.
      1  Packets to 10.0.0.4 in vpc-00000000000000001 take the route to 0.0.0.0/0 by internet
         gateway igw-00000000000000001 of route table rtb-00000000000000001.
         eni-00000000000000007 of i-00000000000000008

1 dark at security_group: no sensor's security group lets VXLAN in
  Do this: Let UDP 4789 from the address into a security group of the sensor.
      1  No rule of sg-00000000000000001 admits udp/4789 from 10.128.0.4.
         eni-00000000000000008 of i-00000000000000009

Sensor                   zone        account         now  after  sessions
  tmt-00000000000000002  us-east-1a  123456789012      1      2  ██████████████████▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓
  tmt-00000000000000003  us-east-1b  123456789012      0      0
    nobody can use it, network_acl: udp/4789 is denied by inbound rule 90 of network ACL
      acl-00000000000000001.
  tmt-00000000000000001  us-east-1d  123456789012      1      1  ██████████████████
    nobody can use it, unavailable: The sensor's instance i-00000000000000006 is stopped.
  tmt-00000000000000004  -           -                 0      0
    nobody can use it, unavailable: There is no traffic mirror target.

Would be created: 1 session to sensors in the same Availability Zone
  1 to tmt-00000000000000002

Skipped: 4 interfaces
      3  The interface is a sensor's own, and mirroring it into a sensor would loop
         eni-00000000000000009 of i-00000000000000010, eni-00000000000000010 of i-00000000000000011,
         eni-00000000000000011 of i-00000000000000012
      1  The instance is excluded by its tag mirror=no (EXCLUDE_TAGS)
         eni-00000000000000012 of i-00000000000000013

Note
  Mirrored to targets that are not configured: 1 interface. These count neither as covered nor as
  dark.

8 of 11 interfaces would stay dark: 3 zone, 2 network_acl, 1 blocked at unavailable, 1 route, 1
security_group.
"""


@pytest.mark.parametrize(
    ("build", "text", "status"), [(covered, COVERED, 0), (dark, DARK, 3)], ids=["covered", "dark"]
)
def test_the_picture_on_a_terminal(
    scene: Scene, build: Callable[[SimulatedAccount], list[str]], text: str, status: int
) -> None:
    shown = Shown(*build(scene))
    assert shown.renumbered.splitlines() == text.splitlines()
    assert shown.status == status
    assert shown.errors == ""


@pytest.mark.parametrize("width", [80, 100])
def test_it_stays_within_the_columns(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = Shown(*dark(scene))
    assert max(map(len, shown.text.splitlines())) <= width


@pytest.mark.parametrize(
    ("terminal", "variables", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_it_is_coloured_only_on_a_terminal_that_wants_it(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, variables: dict[str, str], coloured: bool
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    assert preview.terminal_of(stream).colour is coloured


def test_where_the_terminal_knows_only_ascii_nothing_else_is_drawn(scene: Scene) -> None:
    shown = gathered(*dark(scene))
    text = "\n".join(picture.draw(shown, Terminal(ascii=True)))
    assert text.isascii()


@pytest.mark.parametrize("width", [10, 40])
@pytest.mark.parametrize("counts", [(0, 0), (1, 999), (999, 1), (1, 1), (3, 0), (1, 1, 1000, 1)])
def test_a_bar_is_as_wide_as_its_parts_and_nothing_vanishes(
    counts: tuple[int, ...], width: int
) -> None:
    cells = picture.shares(counts, sum(counts), width)
    assert sum(cells) == (width if sum(counts) else 0)
    assert [bool(number) for number in cells] == [bool(count) for count in counts]


# --------------------------------------------------------------------------------------
# What is shown of the entries
# --------------------------------------------------------------------------------------


def gathered(*arguments: str, progress: io.StringIO | None = None) -> Picture:
    """What a run would draw."""
    call = preview.understand(arguments)
    return preview.survey(call.configuration, None, preview.Progress(progress or io.StringIO()))


def entry(number: int = 1, outcome: str = "unmirrored", **members: Any) -> dict[str, Any]:
    """An entry of the function's result."""
    ids = {"interface_id": f"eni-{number:017x}", "instance_id": f"i-{number:017x}"}
    unset = dict.fromkeys(("target_id", "session_id", "session_name"))
    return {**ids, "outcome": outcome, "reason": "A reason.", **unset, "sensors": [], **members}


def rejected(stage: str, reason: str, target_id: str = "tmt-1") -> dict[str, Any]:
    """A sensor that fell."""
    verdict = {"verdict": "rejected", "stage": stage, "reason": reason, "sessions": None}
    return {"target_id": target_id, **verdict}


def test_every_stage_has_its_advice() -> None:
    assert tuple(ADVICE) == lambda_traffic_mirror.STAGES


@pytest.mark.parametrize(
    ("numbers", "where"),
    [
        ((7,), "10.0.0.7"),
        ((4, 5), "addresses in 10.0.0.4/31"),
        ((1, 250), "addresses in 10.0.0.0/24"),
    ],
)
def test_interfaces_that_fall_for_the_same_rule_stand_together(
    numbers: tuple[int, ...], where: str
) -> None:
    drawn = Picture()
    for number in numbers:
        reason = f"No rule of sg-1 admits udp/4789 from 10.0.0.{number}."
        sensors = [
            rejected("security_group", reason, "tmt-1"),
            rejected("zone", "The sensor is in b, the interface in a.", "tmt-2"),
        ]
        drawn.add(entry(number, sensors=sensors))
    ((kind, (finding,)),) = drawn.kinds("dark")
    assert kind.label == "security_group"
    assert finding.text == f"No rule of sg-1 admits udp/4789 from {where}."
    assert len(finding) == len(numbers)


def test_zones_without_a_sensor_are_named() -> None:
    drawn = Picture()
    for number, zone in enumerate(("c", "c", "d")):
        reason = f"The sensor is in us-east-1a, the interface in us-east-1{zone}."
        drawn.add(entry(number, sensors=[rejected("zone", reason)]))
    ((_, findings),) = drawn.kinds("dark")
    assert [(len(finding), finding.text) for finding in findings] == [
        (2, "No sensor in us-east-1c."),
        (1, "No sensor in us-east-1d."),
    ]


def test_an_instance_is_what_its_worst_interface_is() -> None:
    drawn = Picture()
    drawn.sensors = [Sensor("tmt-1")]
    for number, outcome in enumerate(("exists", "planned", "exists", "unmirrored", "skipped")):
        instance = f"i-{number // 2}"
        drawn.add(entry(number, outcome, instance_id=instance, target_id="tmt-1"))
    interfaces, instances = drawn.coverage()
    assert (interfaces.now, interfaces.after, interfaces.dark, interfaces.all) == (2, 3, 1, 4)
    assert (instances.now, instances.after, instances.dark, instances.all) == (0, 1, 1, 2)


def test_all_is_a_hundred_percent_and_nothing_less() -> None:
    assert [picture.percent(part, 1000) for part in (1000, 999, 1)] == ["100 %", "99 %", "0 %"]


def test_the_places_without_a_sensor_stand_in_the_summary() -> None:
    found = [picture.Finding(f"No sensor in us-east-1{zone}.") for zone in "abcde"]
    kind = picture.Kind(picture.DARK, "zone", "no sensor in the Availability Zone")
    assert picture.gist(kind, found[:1]) == "no sensor in us-east-1a"
    assert picture.gist(kind, found) == (
        "no sensor in us-east-1a, us-east-1b, us-east-1c and 2 more"
    )
    assert picture.gist(kind, [picture.Finding("Else.")]) == kind.meaning


@pytest.mark.parametrize(
    ("limited", "sessions", "said"), [(True, 11, True), (True, 10, False), (False, 11, False)]
)
def test_sensors_that_would_have_more_than_aws_allows_most_are_told(
    limited: bool, sessions: int, said: bool
) -> None:
    drawn = Picture()
    drawn.sensors = [Sensor("tmt-1", "us-east-1a", "123456789012", sessions - 1, limited)]
    drawn.add(entry(outcome="planned", target_id="tmt-1"))
    assert any("tmt-1: 11" in note for note in drawn.notes()) is said


def test_a_permission_that_would_settle_verdicts_is_named(scene: Scene) -> None:
    lists = scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))
    target = scene.sensor(scene.subnet(), [lists])
    scene.instances(2, scene.subnet())
    scene.deny("ec2:GetManagedPrefixListEntries")
    shown = Shown("--targets", target)
    assert shown.status == preview.DARK
    assert "ec2:GetManagedPrefixListEntries is missing and could settle 2 verdicts." in shown.text


# --------------------------------------------------------------------------------------
# Reading only
# --------------------------------------------------------------------------------------


def test_a_role_that_lets_only_the_function_in_is_told(scene: Scene) -> None:
    """Another sensor takes the interfaces, so nothing stays dark for it."""
    scene.instances(2, scene.subnet())
    here, elsewhere = scene.sensor(scene.subnet()), scene.other()
    there = elsewhere.sensor(elsewhere.subnet("a", vpc=elsewhere.vpc("10.4.0.0/16")))
    elsewhere.share(there)
    role = elsewhere.role("sensors", trusts=[])
    shown = Shown("--targets", f"{here},{there}", f"SENSOR_ROLE_ARNS={role}")
    assert shown.status == preview.COVERED
    assert f"your AWS identity needs sts:AssumeRole on {role}" in " ".join(shown.text.split())
    assert "sts:AssumeRole is missing and could settle 2 verdicts." in shown.text


def test_of_everything_ec2_does_only_reading_may_leave() -> None:
    operations = boto3.client("ec2", region_name="us-east-1").meta.service_model.operation_names
    assert len(operations) > 500
    for operation in operations:
        reads = operation.startswith(("Describe", "Get"))
        with contextlib.nullcontext() if reads else pytest.raises(preview.NotReadOnly):
            preview.check_reading("ec2", operation)


@pytest.mark.parametrize(
    ("service", "operation", "may"),
    [
        ("sts", "AssumeRole", True),
        ("sts", "AssumeRoleWithWebIdentity", True),
        ("sts", "GetCallerIdentity", True),
        ("sso", "GetRoleCredentials", True),
        ("sso-oidc", "CreateToken", True),
        ("ec2", "CreateToken", False),
        ("iam", "CreateUser", False),
        ("lambda", "Invoke", False),
    ],
)
def test_of_other_services_only_what_gives_credentials_may_leave(
    service: str, operation: str, may: bool
) -> None:
    with contextlib.nullcontext() if may else pytest.raises(preview.NotReadOnly):
        preview.check_reading(service, operation)


@pytest.mark.parametrize("warm", [False, True], ids=["a new client", "a client made before"])
def test_a_client_cannot_send_anything_else(scene: Scene, warm: bool) -> None:
    target, instance = scene.sensor(), scene.instance()
    request = {
        "NetworkInterfaceId": scene.first_interface(instance),
        "TrafficMirrorTargetId": target,
        "TrafficMirrorFilterId": scene.filter_id,
        "SessionNumber": 1,
    }
    client = scene.client() if warm else None
    with preview.read_only(lambda *_: None):
        client = client or scene.client()
        assert client.describe_instances()["Reservations"]
        with pytest.raises(preview.NotReadOnly):
            client.create_traffic_mirror_session(**request)
    assert scene.count() == 1
    client.create_traffic_mirror_session(**request)  # and afterwards it can


def test_even_a_function_that_creates_creates_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = scene.sensor(scene.subnet())
    scene.instances(3)
    request = lambda_traffic_mirror.Request

    def wet(**arguments: Any) -> Any:
        return request(**(arguments | {"dry_run": False}))

    monkeypatch.setattr(lambda_traffic_mirror, "Request", wet)
    with pytest.raises(preview.NotReadOnly, match="ec2:CreateTrafficMirrorSession"):
        Shown("--targets", target)
    assert scene.sessions() == []
    assert scene.count("CreateTrafficMirrorSession") == 0


def test_a_policy_that_allows_no_more_is_enough(scene: Scene) -> None:
    """The demonstration's account takes every call that there is, and a role."""
    on_stage = demo.Demonstration(scene)
    on_stage.populate()
    lists = scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))
    variables = on_stage.variables()
    variables["targets"] += f",{scene.sensor(scene.subnet('a'), [lists])}"
    before = len(scene.sessions())

    def allowed(operation: str, _: Any) -> None:
        assert operation == "sts:AssumeRole" or f"ec2:{operation}" in ALLOWED, operation

    scene.gates.append(allowed)
    scene.forget_calls()
    shown = Shown(*(f"{name}={value}" for name, value in variables.items()))
    assert shown.status == preview.DARK
    assert {f"ec2:{call.operation}" for call in scene.calls} - {"ec2:sts:AssumeRole"} == {*ALLOWED}
    assert len(scene.sessions()) == before


# --------------------------------------------------------------------------------------
# How it ends
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("permission", NEEDED)
def test_a_permission_that_is_missing_is_named(scene: Scene, permission: str) -> None:
    arguments = dark(scene)
    scene.deny(permission)
    shown = Shown(*arguments)
    assert shown.status == preview.WRONG
    assert f"missing permission: {permission}\n" in shown.errors
    words = " ".join(shown.text.split())
    assert f"your AWS identity needs {permission}." in words
    assert f"{permission} is missing" in words or "Not everything was read." in words
    assert "the function's role" not in words


TARGETS = ("--targets", "tmt-1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--targets is missing"),
        (("--targets",), "--targets needs a value"),
        (("--targets", "--html"), "--targets needs a value"),
        ((*TARGETS, "--frobnicate"), "do not understand '--frobnicate'"),
        ((*TARGETS, "LOCAL_ZONE=false"), "no variable LOCAL_ZONE; it has ALLOW_UNVERIFIED,"),
        ((*TARGETS, "LOCAL_ZONE_ONLY=maybe"), "LOCAL_ZONE_ONLY is 'maybe'; accepted: true/false"),
        ((*TARGETS, "targets=tmt-2"), "--targets and targets= say different things"),
        ((*TARGETS, "--html", "/no/such/folder/x.html"), "/no/such/folder/x.html cannot be writ"),
    ],
)
def test_a_wrong_call_is_told(scene: Scene, arguments: tuple[str, ...], words: str) -> None:
    shown = Shown(*arguments)
    assert (shown.status, shown.text, scene.count()) == (preview.WRONG, "", 0)
    assert words in shown.errors


@pytest.mark.parametrize("arguments", [("--region", "eu-west-1"), ("--region=eu-west-1",)])
def test_the_region_that_is_given_is_asked(scene: Scene, arguments: tuple[str, ...]) -> None:
    shown = Shown(*TARGETS, *arguments)
    assert "eu-west-1" in shown.text
    assert "There is no interface to be mirrored" in shown.text
    assert shown.status == preview.COVERED


def test_without_a_region_it_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    shown = Shown(*TARGETS)
    assert (shown.status, "no Region is set" in shown.errors) == (preview.WRONG, True)


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_PROFILE": "no-such-profile"},
        {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_SESSION_TOKEN": None},
    ],
    ids=["an unknown profile", "none"],
)
def test_credentials_that_cannot_be_had_are_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str | None]
) -> None:
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    shown = Shown(*TARGETS)
    assert shown.status == preview.WRONG
    assert re.search("profile|credentials", shown.errors)


KEYS = "aws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = simulated"
PRINTED = {"Version": 1, "AccessKeyId": "AKIAIOSFODNN7EXAMPLE", "SecretAccessKey": "simulated"}
PROFILES = {
    "keys": f"[profile ours]\nregion = us-east-1\n{KEYS}",
    "a role": "[profile ours]\nregion = us-east-1\nrole_arn = {role}\nsource_profile = base\n"
    f"[profile base]\n{KEYS}",
    "a program": "[profile ours]\nregion = us-east-1\ncredential_process = cat {printed}",
}


@pytest.mark.parametrize("kind", PROFILES)
def test_credentials_and_region_may_come_from_a_profile(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """As boto3 finds them, through STS if need be."""
    target = scene.sensor(scene.subnet())
    scene.instance()
    role = scene.role("auditor")
    # The account makes the clients with which it looks at itself.
    Shown("--targets", target)
    scene.client("sts").assume_role(RoleArn=role, RoleSessionName="preview")
    monkeypatch.setattr(lambda_traffic_mirror, "_client", None)
    printed = tmp_path / "printed"
    printed.write_text(json.dumps(PRINTED), encoding="utf-8")
    config = tmp_path / "config"
    config.write_text(
        PROFILES[kind].replace("{role}", role).replace("{printed}", str(printed)),
        encoding="utf-8",
    )
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "ours")
    shown = Shown("--targets", target)
    assert (shown.errors, shown.status) == ("", preview.COVERED)
    assert "us-east-1" in shown.text


EXAMPLES = {
    "SENSOR_ROLE_ARNS": "arn:aws:iam::210987654321:role/sensors",
    "LOCAL_ZONE_ONLY": "false",
    "LOCAL_VPC_ONLY": "true",
    "INCLUDE_TAGS": "team=net,mirror",
    "EXCLUDE_TAGS": "traffic-mirror=sensor",
    "SESSION_NUMBER": "7",
    "VIRTUAL_NETWORK_ID": "4789",
    "PACKET_LENGTH": "128",
    "SESSION_TAGS": "team=net,cost=a=b",
    "MIRROR_ALONGSIDE": "true",
    "ALLOW_UNVERIFIED": "true",
    "CACHE_SECONDS": "60",
    "DRY_RUN": "true",
    "filter_id": "tmf-1",
    "targets": "tmt-1,tmt-2",
}


def test_every_variable_of_the_function_is_taken() -> None:
    assert EXAMPLES.keys() == {*VARIABLES}
    arguments = [f"{name}={value}" for name, value in EXAMPLES.items()]
    call = preview.understand(arguments)
    assert call.configuration == lambda_traffic_mirror.Configuration.from_environment(EXAMPLES)
    assert not call.placeholder
    without = preview.understand([*TARGETS])
    assert (without.placeholder, without.configuration.filter_id) == (True, preview.PLACEHOLDER)


def test_what_could_not_be_read_stays_dark(scene: Scene, quick: None) -> None:
    """Throttling is no missing permission: what could be looked at is shown."""
    target = scene.sensor(scene.subnet())
    scene.instances(3)
    scene.show_pages_of(5)
    scene.instances(9)
    scene.fail("DescribeInstances", "RequestLimitExceeded", status=503, after=1)
    shown = Shown("--targets", target)
    assert shown.status == preview.DARK
    assert "Not everything was read." in shown.text


def test_a_configured_account_without_targets_is_told(scene: Scene) -> None:
    scene.instance()
    shown = Shown("--targets", "210987654321")
    assert shown.status == preview.DARK
    assert "of account 210987654321 is visible here" in shown.text


class Teletype(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only_and_leaves_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.instances(7)
    target = scene.sensor()
    ticks = iter(range(10_000))
    monkeypatch.setattr("preview.time.monotonic", lambda: next(ticks))
    streams = [Teletype(), io.StringIO()]
    for stream in streams:
        gathered("--targets", target, progress=stream)
    terminal, file = (stream.getvalue() for stream in streams)
    assert re.search(r"\rReading: 1 pages, 8 instances, [1-8] interfaces judged, \d+ s", terminal)
    assert terminal.endswith("\r\033[K")
    assert file == ""


# --------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------

VOID = {"meta", "br"}


class Page(HTMLParser):
    """A page, taken apart; what is opened has to be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.builder, self.open = TreeBuilder(), ["page"]
        self.builder.start("page", {})
        self.feed(text)
        self.close()
        assert self.open == ["page"]
        self.builder.end("page")
        self.root = self.builder.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        self.open.append(tag)
        if tag in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)

    def section(self, name: str) -> Element:
        """The section with this heading's ID."""
        sections = every(self.root, "section")
        (found,) = (element for element in sections if element.get("aria-labelledby") == name)
        return found


def every(root: Element, *tags: str) -> list[Element]:
    """All with one of these tags, in order."""
    return [element for element in root.iter() if element.tag in tags]


def text_of(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def written(tmp_path: Path, *arguments: str) -> Page:
    """The page that a run writes."""
    path = tmp_path / "preview.html"
    shown = Shown(*arguments, "--html", str(path))
    assert f"Written: {path}" in shown.text
    return Page(path.read_text(encoding="utf-8"))


def headline_of(path: Path) -> str:
    (headline,) = every(Page(path.read_text(encoding="utf-8")).root, "h1")
    return text_of(headline)


def test_the_page_is_well_built(scene: Scene, tmp_path: Path) -> None:
    root = written(tmp_path, *dark(scene)).root
    (html,) = every(root, "html")
    assert html.get("lang") == "en"
    assert [text_of(element) for element in every(root, "h1")] == [
        "8 of 11 interfaces would stay dark"
    ]
    levels = [int(element.tag[1]) for element in every(root, "h1", "h2", "h3", "h4")]
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert [len(every(root, tag)) for tag in ("main", "header", "footer", "title")] == [1, 1, 1, 1]
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(set(ids)) == len(ids)
    for section in every(root, "section"):
        assert section.get("aria-labelledby") in ids
    for table in every(root, "table"):
        assert every(table, "caption")
        assert every(table, "thead")
        assert all("scope" in cell.attrib for cell in every(table, "th"))
    assert all(e.get("aria-hidden") == "true" for e in every(root, "svg"))


def test_the_page_loads_nothing_and_runs_nothing(scene: Scene, tmp_path: Path) -> None:
    root = written(tmp_path, *dark(scene)).root
    assert not every(root, "script", "link", "img", "iframe", "object", "embed", "form", "base")
    ids = {element.get("id") for element in root.iter()}
    links = [e.attrib["href"] for e in root.iter() if "href" in e.attrib]
    assert links
    assert all(link[0] == "#" and link[1:] in ids for link in links)
    assert not any(name.startswith("on") or name == "src" for e in root.iter() for name in e.attrib)
    (style,) = every(root, "style")
    assert "url(" not in text_of(style)
    assert "@import" not in text_of(style)


def luminance(colour: str) -> float:
    """As WCAG 2 has it."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


SCHEMES = [
    dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))
    for block in re.findall(r":root \{(.*?)\}", page.STYLE, re.DOTALL)
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=["light", "dark", "print"])
def test_the_colours_of_the_page_can_be_told_apart(scheme: dict[str, str]) -> None:
    """Texts by 4.5 to 1, parts of bars by 3 to 1, and each part of a bar from the next."""
    for text in ("ink", "soft", "covered", "dark"):
        assert contrast(scheme[text], scheme["paper"]) >= 4.5, text
    parts = [scheme[part] for part in ("covered", "planned", "elsewhere", "dark")]
    assert min(contrast(part, scheme["paper"]) for part in parts) >= 3
    assert min(contrast(one, other) for one, other in pairwise(parts)) >= 1.25
    assert contrast(*parts[:2]) >= 2  # where one zone's sensors have only these


HOSTILE = "<script>alert(1)</script><b title='\"&amp;`"


def test_what_stands_in_tags_is_text(scene: Scene, tmp_path: Path) -> None:
    target = scene.sensor()
    key, _, value = HOSTILE.partition("=")
    scene.instance(tags={key: value})
    shown = written(tmp_path, "--targets", target, f"EXCLUDE_TAGS={HOSTILE}")
    assert not every(shown.root, "script", "b")
    assert HOSTILE in text_of(shown.section("skipped"))


def test_what_stands_in_entries_is_text() -> None:
    drawn = Picture()
    drawn.account = drawn.region = HOSTILE
    drawn.sensors = [Sensor(HOSTILE, HOSTILE, HOSTILE, 1)]
    drawn.remarks = [HOSTILE]
    for number, outcome in enumerate(lambda_traffic_mirror.OUTCOMES):
        members = dict.fromkeys(("interface_id", "instance_id", "reason", "target_id"), HOSTILE)
        for stage in ADVICE:
            sensors = [rejected(stage, HOSTILE, HOSTILE)]
            drawn.add(entry(number, outcome, sensors=sensors, session_id=HOSTILE, **members))
    parsed = Page("".join(page.pieces(drawn)))
    assert not every(parsed.root, "script")
    assert not any("title" in element.attrib for element in parsed.root.iter())
    assert text_of(parsed.root).count("<script>alert(1)</script>") > 50


def numbers(text: str) -> list[int]:
    return [int(word.replace(",", "")) for word in re.findall(r"\b\d[\d,]*\b", text)]


def rows_of(text: str, pattern: str) -> list[list[int]]:
    """The numbers in each line of a terminal that begins like this."""
    return [numbers(found[1]) for found in re.finditer(f"^{pattern}(.*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("seed", range(30))
def test_the_numbers_are_the_accounts(scene: Scene, tmp_path: Path, seed: int) -> None:
    world = Builder(scene, seed, alone=True).build()
    variables = {k: v for k, v in world.environment.items() if k not in ("DRY_RUN", "filter_id")}
    files = tmp_path / "preview.html", tmp_path / "entries.json"
    arguments = [f"{name}={value}" for name, value in variables.items()]
    run = Shown(*arguments, "--html", str(files[0]), "--json", str(files[1]))
    shown = Page(files[0].read_text(encoding="utf-8"))
    entries = json.loads(files[1].read_text(encoding="utf-8"))["interfaces"]
    ours = list(dict.fromkeys(world.settings["targets"]))
    at_first = Counter(session["TrafficMirrorTargetId"] for session in scene.sessions())

    # What is written of each interface is what the function then says of it.
    os.environ.update(variables, filter_id=scene.filter_id)
    event = {"sweep": True, "id": "preview"}
    counts = Counter(scene.run(event | {"dry_run": True}).summary)
    assert Counter(each["outcome"] for each in entries) == counts

    # Page and terminal count what the entries say.
    meant = [each for each in entries if each["outcome"] != "skipped"]
    now = [e for e in meant if e["outcome"] == "exists" and e["target_id"] in ours]
    after = [*now, *(e for e in meant if e["outcome"] == "planned")]
    dark_ones = counts["unmirrored"] + counts["blocked"]

    def instances(covered: list[dict[str, Any]]) -> int:
        """How many have all their interfaces among these."""
        here = Counter(each["instance_id"] for each in covered)
        return sum(here[key] == n for key, n in Counter(e["instance_id"] for e in meant).items())

    in_all = len({each["instance_id"] for each in meant})
    expected = [
        [[len(now), len(meant)], [len(after), len(meant)]],
        [[instances(now), in_all], [instances(after), in_all]],
    ]
    assert [
        [numbers(text_of(every(cell, "span")[1])) for cell in every(row, "td")]
        for row in every(every(shown.section("coverage"), "tbody")[0], "tr")
    ] == expected
    for name, row in zip(("interfaces", "instances"), expected, strict=True):
        assert rows_of(re.sub(r"\d+ %", "", run.text), f"  {name} ") == [[*row[0], *row[1]]]
    assert len(every(shown.root, "h1")[0].attrib) == bool(dark_ones)
    assert run.status == (preview.DARK if dark_ones else preview.COVERED)
    if dark_ones:
        assert numbers(text_of(every(shown.root, "h1")[0])) == [dark_ones, len(meant)]
        why = every(every(shown.root, "ul")[0], "li")
        assert sum(numbers(text_of(line))[0] for line in why) == dark_ones
    assert sum(n for n, *_ in rows_of(run.text, r"(?=\d+ dark\b)")) == dark_ones
    planned = rows_of(run.text, "Would be created: ")
    assert sum(n for n, *_ in planned) == counts["planned"]
    skipped = rows_of(run.text, "Skipped: ")
    assert sum(n for n, *_ in skipped) == counts["skipped"]
    listed = [
        text_of(every(row, "td")[0])
        for row in every(shown.section("lists"), "tr")
        if row.get("class") == "ids"
    ]
    assert sorted(listed) == sorted(e["interface_id"] for e in entries)

    # And what each sensor would have is what it has once the function has run.
    scene.quota.clear()
    scene.default_quota = 10_000
    scene.run(event)
    in_the_end = Counter(session["TrafficMirrorTargetId"] for session in scene.sessions())
    loads = {
        text_of(every(row, "code")[0]): [numbers(text_of(cell)) for cell in every(row, "td")[1:3]]
        for row in every(shown.section("sensors"), "tr")
        if any(head.get("scope") == "row" for head in every(row, "th"))
    }
    assert loads == {key: [[at_first[key]], [in_the_end[key]]] for key in ours}
    on_terminal = re.findall(r"^  (tmt-\S+) .* (\d+) +(\d+)(?: |$)", run.text, re.MULTILINE)
    assert len(on_terminal) == min(len(ours), picture.SHOWN_SENSORS)
    for key, *row in on_terminal:
        assert row == [str(at_first[key]), str(in_the_end[key])]


# --------------------------------------------------------------------------------------
# Large accounts
# --------------------------------------------------------------------------------------


def large(interfaces: int, sensors: int) -> Iterator[dict[str, Any]]:
    """The entries of an account in which no two interfaces stay dark for the same reason."""
    for number in range(interfaces):
        name = f"sg-{number:017x}"
        reason = f"No rule of {name} admits udp/4789 from 10.0.{number >> 8}.{number & 255}."
        rows = [rejected("security_group", reason, f"tmt-{k:017x}") for k in range(sensors)]
        yield entry(number, sensors=rows)


def test_what_is_kept_of_an_account_does_not_grow_with_its_sensors() -> None:
    drawn = Picture()
    tracemalloc.start()
    try:
        for each in large(2_000, 100):
            drawn.add(each)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000 * 2_000  # bytes an interface
    assert peak < kept + 1_000_000


def test_the_page_of_ten_thousand_interfaces_is_below_five_megabytes() -> None:
    drawn = Picture()
    drawn.sensors = [
        Sensor(f"tmt-{k:017x}", f"us-east-1{'abc'[k % 3]}", "1" * 12) for k in range(300)
    ]
    for each in large(10_000, 1):
        drawn.add(each)
    size = sum(len(piece.encode()) for piece in page.pieces(drawn))
    assert 1_000_000 < size < 5_000_000
    assert len(list(picture.draw(drawn, Terminal()))) < 100


def test_instances_are_read_in_large_pages_and_sensors_once(scene: Scene) -> None:
    targets = [scene.sensor(scene.subnet(zone), quota=1_000) for zone in "ab" for _ in range(5)]
    scene.instances(1_100)
    assert gathered("--targets", ",".join(targets)).coverage()[0].all == 1_100
    looks = Counter(made.operation for made in scene.calls)
    instances = looks.pop("DescribeInstances")
    assert instances == 2 + 1  # two pages, and the hosts of sensors
    assert set(looks.values()) == {1}


# --------------------------------------------------------------------------------------
# Files, the script, an emulator
# --------------------------------------------------------------------------------------


def test_the_file_of_entries_has_the_form_of_the_functions_result(
    scene: Scene, tmp_path: Path
) -> None:
    file = tmp_path / "entries.json"
    arguments = dark(scene)
    Shown(*arguments, "--json", str(file))
    shown = json.loads(file.read_text(encoding="utf-8"))
    os.environ.update(filter_id=scene.filter_id, targets=arguments[1], EXCLUDE_TAGS="mirror=no")
    body = scene.run({"sweep": True, "dry_run": True, "id": "preview"}).body
    assert shown.keys() == body.keys()
    assert (shown["dry_run"], shown["summary"]) == (True, body["summary"])
    by_interface = {each["interface_id"]: each for each in body["interfaces"]}
    assert {each["interface_id"]: each for each in shown["interfaces"]} == by_interface


def run_script(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    script = PROJECT / "deploy" / "preview.sh"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", **variables}
    command = ["bash", str(script), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_script_explains_itself(tmp_path: Path) -> None:
    shown = run_script("--targets", "--help", folder=tmp_path)
    assert shown.returncode == 0
    for option in ("--targets", "--filter", "--region", "--html", "--json", "NAME=VALUE"):
        assert option in shown.stdout


@pytest.mark.parametrize("lacking", [None, "ec2:DescribeSecurityGroups"])
def test_the_script_looks_at_an_emulator_that_lets_it_only_describe(
    scene: Scene, tmp_path: Path, lacking: str | None
) -> None:
    arguments = dark(scene)
    for operation in scene.client().meta.service_model.operation_names:
        if f"ec2:{operation}" not in ALLOWED or f"ec2:{operation}" == lacking:
            scene.deny(f"ec2:{operation}")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        where = {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        shown = run_script(*arguments, "--html", "x.html", folder=tmp_path, **where)
    finally:
        server.stop()
    headline = headline_of(tmp_path / "x.html")
    assert headline in shown.stdout
    if lacking:
        assert shown.returncode == preview.WRONG
        assert f"missing permission: {lacking}\n" in shown.stderr
    else:
        assert (shown.returncode, shown.stderr) == (preview.DARK, "")
        assert headline == "8 of 11 interfaces would stay dark"


def test_the_demonstration_writes_the_page_of_its_account(tmp_path: Path) -> None:
    path = tmp_path / "demo.html"
    event = str(PROJECT / "deploy" / "dry-run-sweep.json")
    script = [sys.executable, str(PROJECT / "tests" / "simulations" / "demo.py")]
    command = [*script, event, "--html", path.name]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"Written: {path.name}" in shown.stdout
    headline = headline_of(path)
    assert headline in shown.stdout


# --------------------------------------------------------------------------------------
# In a browser
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "user", "apt_get", "asked", "said"),
    [
        ("chromium", 0, "exit 0", [], ""),
        ("google-chrome", 1000, "exit 0", [], ""),
        (None, 0, "exit 0", ["update", "install"], ""),
        (None, 0, "exit 1", ["update"], "tests in a browser are skipped"),
        (None, 0, None, [], "tests in a browser are skipped"),
        (None, 1000, "exit 0", [], "tests in a browser are skipped"),
    ],
)
def test_what_is_run_before_a_change_lands_has_a_browser_where_it_can(
    tmp_path: Path, there: str | None, user: int, apt_get: str | None, asked: list[str], said: str
) -> None:
    programs = tmp_path / "bin"
    stubs = {
        ".ci/run": (PROJECT / ".ci" / "run").read_text(encoding="utf-8"),
        "tests/set_up.sh": "",
        "tests/run.sh": "#!/bin/sh\necho the tests run",
        ".venv/bin/python": "#!/bin/sh",
        ".venv/bin/cfn-lint": "#!/bin/sh",
        "bin/id": f"#!/bin/sh\necho {user}",
    }
    if there:
        stubs[f"bin/{there}"] = "#!/bin/sh"
    if apt_get:
        stubs["bin/apt-get"] = f"#!/bin/sh\necho noise\necho $1 >> $HOME/asked\n{apt_get}"
    for name, text in stubs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    for name in ("bash", "dirname", "sh", "timeout"):
        (programs / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [str(programs / "bash"), str(tmp_path / ".ci" / "run")],
        env={"PATH": str(programs), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "the tests run\n")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)
    log = tmp_path / "asked"
    assert (log.read_text(encoding="utf-8").split() if log.exists() else []) == asked


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = executable()
    if not program:
        pytest.skip("There is no Chromium here: apt-get install chromium")
    with Browser(program) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages to look at: a small account, one with long names, one without an interface."""
    folder = tmp_path_factory.mktemp("pages")
    long, empty = Picture(), Picture()
    long.account, long.region = "1" * 12, "ap-southeast-2"
    long.sensors = [
        Sensor("traf-mir-tar-" + "0" * 40, "ap-southeast-2a, ap-southeast-2b", "2" * 12, 9)
    ]
    for number, outcome in enumerate(lambda_traffic_mirror.OUTCOMES):
        words = "x" * 300 if number % 2 else "network-interface/" * 12
        for stage in ADVICE:
            sensors = [rejected(stage, words, long.sensors[0].target_id)]
            target = long.sensors[0].target_id
            long.add(entry(number, outcome, reason=words, sensors=sensors, target_id=target))
    for name, shown in (("long", long), ("empty", empty)):
        (folder / f"{name}.html").write_text("".join(page.pieces(shown)), encoding="utf-8")
    with SimulatedAccount() as account:
        arguments = dark(account)
        with patch.multiple(lambda_traffic_mirror, _client=None, _clients={}, _credentials={}):
            Shown(*arguments, "--html", str(folder / "small.html"))
    return {path.stem: path for path in folder.iterdir()}


# Of every text on the page: how far it stands out from what is behind it.
CONTRASTS = """
(() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [r, g, b] = numbers(colour).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
    return null;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let least = 99, number = 0;
  while (texts.nextNode()) {
    if (!texts.currentNode.data.trim()) continue;
    const element = texts.currentNode.parentElement;
    const pair = [light(getComputedStyle(element).color), light(behind(element))];
    least = Math.min(least, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05));
    number += 1;
  }
  return [least, number];
})()
"""


@pytest.mark.parametrize("dark_scheme", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("name", ["small", "long", "empty"])
def test_in_a_browser_nothing_scrolls_sideways_and_all_can_be_read(
    browser: Browser, pages: dict[str, Path], name: str, width: int, dark_scheme: bool
) -> None:
    browser.open(pages[name], width=width, dark=dark_scheme)
    browser.run("document.querySelectorAll('details').forEach(e => e.open = true)")
    wide, shown = browser.run("[document.documentElement.scrollWidth, window.innerWidth]")
    assert (wide, shown) == (width, width)
    contrast, texts = browser.run(CONTRASTS)
    assert contrast >= 4.5
    assert texts > (10 if name == "empty" else 50)
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 384) is dark_scheme
    kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event.get("method") in kinds] == []
    sent = [e for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [event["params"]["request"]["url"] for event in sent] == [pages[name].as_uri()]
