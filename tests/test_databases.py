"""MIRROR_DATABASES: sweeps also mirror the interfaces that RDS and ElastiCache made, page by page
after the instances. No permission more is needed: any other call fails these tests.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws import LambdaContext, rule, running_event, scheduled_event, sqs_event
from calls import CREATE, FAULTS, INSTANCES, INTERFACES, Fault
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


def of_databases(parameters: dict[str, Any]) -> bool:
    """Whether a sweep reads databases so."""
    return bool(parameters["Filters"][0]["Name"] == "requester-id")


def of_running(parameters: dict[str, Any]) -> bool:
    """Whether a sweep reads instances so."""
    return bool(parameters["Filters"][0]["Name"] == "instance-state-name")


def sessions_of(scene: Scene, *databases: str) -> list[int]:
    """How many sessions each of these interfaces has."""
    return [len(scene.sessions(interface_id=database)) for database in databases]


# --- Which interfaces


@pytest.mark.parametrize(
    ("sweep", "wanted", "mirrored"),
    [(True, "true", True), (True, "false", False), (True, "", False), (False, "true", False)],
)
def test_databases_are_mirrored_by_sweeps_and_only_where_the_variable_says_so(
    scene: Scene, target: str, sweep: bool, wanted: str, mirrored: bool
) -> None:
    descriptions = {scene.database(): RDS, scene.database(elasticache=True): ELASTICACHE}
    instance = scene.instance()
    scene.configure(target, MIRROR_DATABASES=wanted)
    answer = scene.run(scheduled_event() if sweep else running_event(instance))
    assert answer.of(instance)["outcome"] == "created"
    entries = [entry for entry in answer.interfaces if entry["instance_id"] is None]
    assert sorted(e["interface_id"] for e in entries) == sorted(descriptions if mirrored else [])
    for entry in entries:
        assert (entry["outcome"], entry["target_id"]) == ("created", target)
        assert missing(entry["reason"], descriptions[entry["interface_id"]]) == []
    assert sessions_of(scene, *descriptions) == [mirrored] * 2


def test_rules_about_tags_of_instances_do_not_apply_to_databases(scene: Scene, target: str) -> None:
    scene.configure(
        target,
        MIRROR_DATABASES="true",
        INCLUDE_TAGS="mirror",
        EXCLUDE_TAGS="mirror=no",
        TARGETS_TAG="targets",
        FILTER_TAG="filter",
    )
    database, instance = scene.database(), scene.instance()
    answer = scene.run(scheduled_event())
    assert outcomes(answer)[database] == "created"
    assert answer.of(instance)["outcome"] == "skipped"


@pytest.mark.parametrize("tags", [{}, {"mirror": "no"}], ids=["meant", "excluded"])
def test_the_interface_of_rds_custom_is_left_to_its_instance(
    scene: Scene, target: str, tags: dict[str, str]
) -> None:
    interface = scene.database(custom=True)
    instance = scene.interface_view(interface)["Attachment"]["InstanceId"]
    for key, value in tags.items():
        scene.ec2.create_tags(Resources=[instance], Tags=[{"Key": key, "Value": value}])
    scene.configure(target, MIRROR_DATABASES="true", EXCLUDE_TAGS="mirror=no")
    answer = scene.run(scheduled_event())
    assert answer.entry["instance_id"] == instance
    assert answer.outcomes == ["skipped" if tags else "created"]
    assert scene.count(CREATE) == len(scene.sessions()) == (not tags)


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


def test_the_groups_and_the_zone_of_the_interface_itself_decide(scene: Scene) -> None:
    group = scene.group()
    closed = scene.sensor(groups=[scene.group(rule(group=group))], attached=False)
    scene.configure(closed, MIRROR_DATABASES="true")
    admitted, refused = scene.database(groups=[group]), scene.database(groups=[scene.group()])
    far = scene.database(zone="b")
    answer = scene.run(scheduled_event())
    fell = {entry["interface_id"]: entry["sensors"][0]["stage"] for entry in answer.interfaces}
    assert fell == {admitted: None, refused: "security_group", far: "zone"}
    reasons = [e["reason"] for e in answer.interfaces if e["outcome"] == "unmirrored"]
    assert [missing(reason, RDS) for reason in reasons] == [[], []]


def test_sessions_of_databases_are_checked_and_counted(
    scene: Scene, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Covered are the one that is mirrored to a target of ours and the one that now is."""
    closed = scene.sensor(groups=[scene.group()], attached=False)
    scene.configure([target, closed], MIRROR_DATABASES="true")
    exists, blocked, gone, elsewhere = (scene.database() for _ in range(4))
    created, unmirrored = scene.database(elasticache=True), scene.database(zone="b")
    not_ours = scene.sensor(attached=False)
    where = {exists: target, blocked: closed, gone: scene.missing_sensor(), elsewhere: not_ours}
    for interface, target_id in where.items():
        scene.session(interface, target_id)
    answer = scene.run(scheduled_event())
    assert outcomes(answer) == {
        exists: "exists",
        blocked: "blocked",
        gone: "blocked",
        elsewhere: "exists",
        created: "created",
        unmirrored: "unmirrored",
    }
    assert answer.summary == {"unmirrored": 1, "blocked": 2, "created": 1, "exists": 2}
    document, *_ = map(json.loads, capsys.readouterr().out.splitlines())
    wanted = {"Coverage": pytest.approx(100 * 2 / 6), "Elsewhere": 2, "Excluded": 0}
    assert {name: document[name] for name in wanted} == wanted


def test_a_database_that_aws_does_not_mirror_is_tried_again_after_an_hour_and_harms_no_other(
    scene: Scene, target: str, clock: Clock
) -> None:
    """An RDS Proxy has interfaces of RDS, too, which AWS may refuse."""
    refused, first = scene.database(), scene.database()
    scene.refuse(refused, "NetworkInterfaceNotSupported", times=9)
    later: list[str] = []
    tries = []
    for _ in range(3):
        answer = scene.run(scheduled_event())
        assert outcomes(answer)[refused] == "skipped"
        tries.append(scene.count(CREATE) - len(scene.sessions()))
        later.append(scene.database())
        clock.advance(1_900)
    assert tries == [1, 1, 2]
    assert sessions_of(scene, refused, first, *later) == [0, 1, 1, 1, 0]


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
    pages = [
        call.operation
        for call in scene.calls
        if (call.operation == INSTANCES and of_running(call.parameters))
        or (call.operation == INTERFACES and of_databases(call.parameters))
    ]
    assert pages == [INSTANCES] * 2 + [INTERFACES] * 3


@pytest.mark.parametrize("fault", [FAULTS["throttled"], FAULTS["denied"]], ids=lambda f: f.code)
@pytest.mark.parametrize(
    ("call", "where", "after", "mirrored"),
    [
        (INSTANCES, of_running, 0, ([0, 0], [1, 1])),
        (INSTANCES, of_running, 1, ([1, 0], [1, 1])),
        (INTERFACES, of_databases, 0, ([1, 1], [0, 0])),
        (INTERFACES, of_databases, 1, ([1, 1], [1, 0])),
    ],
)
def test_a_page_that_fails_harms_only_what_comes_after_it_of_its_kind(
    scene: Scene,
    target: str,
    capsys: pytest.CaptureFixture[str],
    call: str,
    where: Any,
    after: int,
    mirrored: tuple[list[int], list[int]],
    fault: Fault,
) -> None:
    scene.show_pages_of(1)
    instances, databases = scene.instances(2), [scene.database() for _ in range(2)]
    fault(scene, call, where=where, after=after)
    error = error_of(scheduled_event())
    assert missing(error, "1 failed. further instances", "were not read", call) == []
    found = scene.sessions_of(*instances), sessions_of(scene, *databases)
    assert tuple(sorted(each, reverse=True) for each in found) == mirrored
    document = json.loads(capsys.readouterr().out.splitlines()[0])
    assert ("Coverage" in document, document["Sweeps"], document["failed"]) == (False, 0, 1)
    assert deliver(sqs_event(scheduled_event())).again == [0]


def test_a_row_that_cannot_be_read_fails_that_database_alone(scene: Scene, target: str) -> None:
    unreadable, database = scene.database(), scene.database()

    def change(found: dict[str, Any]) -> None:
        for row in found["NetworkInterfaces"]:
            if row["NetworkInterfaceId"] == unreadable:
                del row["SubnetId"]

    scene.show(INTERFACES, change)
    assert missing(error_of(scheduled_event()), "1 failed", unreadable) == []
    assert sessions_of(scene, unreadable, database) == [0, 1]


def test_databases_for_which_no_time_is_left_are_one_deferred_entry(
    scene: Scene, target: str, clock: Clock
) -> None:
    scene.show_pages_of(1)
    databases = [scene.database() for _ in range(4)]
    scene.take_time(clock, 50, CREATE)
    answer = scene.run(scheduled_event(), LambdaContext(60, clock=clock))
    assert (answer.status, answer.summary) == (200, {"deferred": 1, "created": 1})
    (entry,) = (entry for entry in answer.interfaces if entry["outcome"] == "deferred")
    assert (entry["interface_id"], entry["instance_id"]) == (None, None)
    scene.gates.pop()
    assert scene.run(scheduled_event()).summary == {"created": 3, "exists": 1}
    assert sessions_of(scene, *databases) == [1] * 4
