"""MIRROR_DATABASES: sweeps also mirror the interfaces that RDS and ElastiCache made, page by page
after the instances. No permission more is needed: any other call fails these tests.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws import LambdaContext, running_event, scheduled_event, sqs_event
from calls import CREATE, FAULTS, INSTANCES, INTERFACES, named
from conftest import Answer, Clock, Scene, deliver, error_of, missing

RDS, ELASTICACHE = "RDSNetworkInterface", "ElastiCache cache-"

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def target(scene: Scene) -> str:
    """A sensor in zone a that is attached to no instance, so that sweeps show databases alone."""
    target = scene.sensor(attached=False, quota=100)
    scene.configure(target, MIRROR_DATABASES="true")
    return target


def outcomes(answer: Answer) -> dict[str, str]:
    """What became of each interface."""
    return {entry["interface_id"]: entry["outcome"] for entry in answer.interfaces}


def sessions_of(scene: Scene, *databases: str) -> list[int]:
    """How many sessions each of these interfaces has."""
    return [len(scene.sessions(interface_id=database)) for database in databases]


# --- Which interfaces


def test_databases_are_mirrored_by_sweeps_and_only_where_the_variable_says_so(
    scene: Scene, target: str
) -> None:
    descriptions = {scene.database(): RDS, scene.database(elasticache=True): ELASTICACHE}
    instance = scene.instance()
    sweep, event = scheduled_event(), running_event(instance)
    for wanted, sent in (("true", event), ("", sweep), ("false", sweep)):
        scene.configure(target, MIRROR_DATABASES=wanted)
        assert scene.run(sent).entry["instance_id"] == instance
    scene.configure(target, MIRROR_DATABASES="true")
    entries = [e for e in scene.run(sweep).interfaces if e["instance_id"] is None]
    assert {entry["interface_id"] for entry in entries} == set(descriptions)
    for entry in entries:
        assert (entry["outcome"], entry["target_id"]) == ("created", target)
        assert missing(entry["reason"], descriptions[entry["interface_id"]]) == []
    assert sessions_of(scene, *descriptions) == [1, 1]


def test_rules_about_tags_of_instances_do_not_apply_to_databases(scene: Scene, target: str) -> None:
    rules = {"INCLUDE_TAGS": "mirror", "EXCLUDE_TAGS": "mirror=no"}
    scene.configure(target, MIRROR_DATABASES="true", **rules)
    database, instance = scene.database(), scene.instance()
    answer = scene.run(scheduled_event())
    assert outcomes(answer)[database] == "created"
    assert answer.of(instance)["outcome"] == "skipped"


def test_the_interface_of_rds_custom_is_left_to_its_instance(scene: Scene, target: str) -> None:
    scene.configure(target, MIRROR_DATABASES="true", EXCLUDE_TAGS="mirror=no")
    outcomes = {}
    for value, outcome in (("yes", "created"), ("no", "skipped")):
        interface = scene.database(custom=True)
        instance = scene.interface_view(interface)["Attachment"]["InstanceId"]
        scene.ec2.create_tags(Resources=[instance], Tags=[{"Key": "mirror", "Value": value}])
        outcomes[instance] = outcome
    found = scene.run(scheduled_event()).interfaces
    assert {entry["instance_id"]: entry["outcome"] for entry in found} == outcomes
    assert scene.count(CREATE) == len(scene.sessions()) == 1


def test_what_other_services_made_is_never_tried_whatever_its_description_says(
    scene: Scene, target: str
) -> None:
    for requester in ("amazon-elb", "amazon-redshift", "AROAEXAMPLE:function"):
        scene.requester_managed(requester=requester, description=RDS)
    scene.interface(description=RDS)
    database = scene.database()
    assert outcomes(scene.run(scheduled_event())) == {database: "created"}
    assert scene.count(CREATE) == 1


# --- The same steps


def test_sessions_of_databases_are_checked_and_counted(
    scene: Scene, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Covered are the one that is mirrored to a target of ours and the one that now is."""
    closed = scene.sensor(groups=[scene.group()], attached=False)
    scene.configure([target, closed], MIRROR_DATABASES="true")
    leads = {"exists": target, "blocked": closed, "elsewhere": scene.sensor(attached=False)}
    databases = {scene.database(): name for name in leads}
    for database, name in databases.items():
        scene.session(database, leads[name])
    databases |= {scene.database(): "created", scene.database(zone="b"): "unmirrored"}
    outcomes_wanted = {key: name.replace("elsewhere", "exists") for key, name in databases.items()}
    assert outcomes(scene.run(scheduled_event())) == outcomes_wanted
    document = json.loads(capsys.readouterr().out.splitlines()[0])
    wanted = {"Coverage": 100 * 2 / 5, "Elsewhere": 1, "Excluded": 0}
    assert {name: document[name] for name in wanted} == wanted


# --- Pages


def test_databases_come_page_by_page_after_the_instances_and_each_once(
    scene: Scene, target: str
) -> None:
    scene.show_pages_of(2)
    instances, databases = scene.instances(3), [scene.database() for _ in range(5)]
    seen: list[dict[str, Any]] = []

    def repeat(found: dict[str, Any]) -> None:
        rows = found["NetworkInterfaces"]
        if rows and rows[0].get("RequesterId") == "amazon-rds":
            rows += seen[:1]
            seen.extend(rows)

    scene.show(INTERFACES, repeat)
    assert scene.run(scheduled_event()).summary == {"created": 8}
    assert scene.sessions_of(*instances) + sessions_of(scene, *databases) == [1] * 8
    names = [c.parameters["Filters"][0]["Name"] for c in scene.calls if "Filters" in c.parameters]
    pages = [name for name in names if name in {"instance-state-name", "requester-id"}]
    assert pages == ["instance-state-name"] * 2 + ["requester-id"] * 3


# What is asked for, how many of two pages come, which of two instances and two databases have a
# session in the end.
@pytest.mark.parametrize(
    ("call", "name", "pages", "mirrored"),
    [
        (INSTANCES, "instance-state-name", 0, [0, 2]),
        (INSTANCES, "instance-state-name", 1, [1, 2]),
        (INTERFACES, "requester-id", 0, [2, 0]),
        (INTERFACES, "requester-id", 1, [2, 1]),
    ],
)
def test_a_page_that_fails_harms_only_what_comes_after_it_of_its_kind(
    scene: Scene, target: str, call: str, name: str, pages: int, mirrored: list[int]
) -> None:
    scene.show_pages_of(1)
    instances, databases = scene.instances(2), [scene.database(), scene.database()]
    FAULTS["denied"](scene, call, after=pages, where=lambda p: p["Filters"][0]["Name"] == name)
    assert missing(error_of(scheduled_event()), "1 failed", named(call, "denied")) == []
    found = scene.sessions_of(*instances), sessions_of(scene, *databases)
    assert list(map(sum, found)) == mirrored
    assert deliver(sqs_event(scheduled_event())).again == [0]


def test_a_row_that_cannot_be_read_fails_that_database_alone(scene: Scene, target: str) -> None:
    unreadable, database = scene.database(), scene.database()

    def change(found: dict[str, Any]) -> None:
        for row in found["NetworkInterfaces"]:
            row["SubnetId"] = row["SubnetId"] * (row["NetworkInterfaceId"] != unreadable)

    scene.show(INTERFACES, change)
    assert missing(error_of(scheduled_event()), "1 failed", unreadable) == []
    assert sessions_of(scene, unreadable, database) == [0, 1]


def test_databases_for_which_no_time_is_left_are_one_deferred_entry(
    scene: Scene, target: str, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.show_pages_of(1)
    for _ in range(4):
        scene.database()
    scene.take_time(clock, 50, CREATE)
    answer = scene.run(scheduled_event(), LambdaContext(60, clock=clock))
    assert (answer.status, answer.summary) == (200, {"deferred": 1, "created": 1})
    assert "Coverage" not in json.loads(capsys.readouterr().out.splitlines()[0])
    scene.gates.pop()
    assert scene.run(scheduled_event()).summary == {"created": 3, "exists": 1}
