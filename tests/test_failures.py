"""What happens when AWS throttles, times out, breaks, denies or loses an answer: at every call in
turn for one event, and at some calls for several instances.

What was done before stays done, what comes after is still tried, the interfaces without an answer
are named, and the next delivery completes the rest without making anything twice.
"""

from __future__ import annotations

import itertools
import logging

import pytest
from aws import rule, running_event
from calls import (
    ACLS,
    ATTEMPTS,
    CALLS,
    CREATE,
    FAULTS,
    GROUPS,
    INSTANCES,
    PREFIX_LIST,
    READS,
    TRANSIENT,
    named,
    of_interface,
)
from conftest import Build, Scene, deliver, missing

pytestmark = pytest.mark.usefixtures("quick")


# --- A call that comes to nothing, each in turn


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        *itertools.product(READS, ("throttled", "no answer", "denied")),
        *((CREATE, f) for f in FAULTS),
    ],
)
def test_an_event_fails_naming_the_call_or_permission_and_the_next_delivery_mirrors(
    scene: Scene, every_call: str, call: str, fault: str
) -> None:
    instance = scene.instance()
    event = running_event(instance)
    FAULTS[fault](scene, call)

    delivery = deliver(event)
    if (call, fault) == (PREFIX_LIST, "denied"):  # no failure: its rule does not match
        assert delivery.answer.outcomes == ["unmirrored"]
        assert f"ec2:{call}" in delivery.answer.entry["reason"]
    else:
        name = instance if call == INSTANCES else scene.first_interface(instance)
        assert delivery.error.startswith(f"1 failed. {name}: ")
        assert named(call, fault) in delivery.error
        assert ("ec2:CreateTags" in delivery.error) == ((call, fault) == (CREATE, "denied"))
    assert scene.sessions() == []
    assert scene.count(call) == (1 if fault == "denied" else ATTEMPTS)

    scene.heal()
    assert deliver(event).answer.outcomes == ["created"]
    assert deliver(event).answer.outcomes == ["exists"]
    assert scene.sessions_of(instance) == [1]


def test_a_list_of_200_ids_that_fails_leaves_the_other_lists_alone(
    scene: Scene, every_call: str
) -> None:
    instances = sorted(scene.instances(310))
    event = {"id": "an-event", "instance-ids": instances, "dry_run": True}
    scene.fail(INSTANCES, where=lambda p: len(p["Filters"][0]["Values"]) == 110)
    error = deliver(event).error
    # A message that names hundreds would be cut by Lambda.
    assert (error.startswith("110 failed"), missing(error, "And 10 more.")) == (True, [])
    scene.heal()
    assert deliver(event).answer.summary == {"planned": 310}


# --- What botocore takes care of


@pytest.mark.parametrize(
    ("call", "fault"),
    [*((call, "throttled") for call in READS), *((CREATE, fault) for fault in TRANSIENT)],
)
def test_what_the_fifth_attempt_heals_is_not_seen(
    scene: Scene, every_call: str, call: str, fault: str
) -> None:
    instance = scene.instance()
    FAULTS[fault](scene, call, times=ATTEMPTS - 1)
    answer = deliver(running_event(instance)).answer
    assert (answer.status, answer.outcomes) == (200, ["created"])
    assert scene.sessions_of(instance) == [1]
    codes = [found.code for found in scene.calls if found.operation == call]
    assert codes.count(None) == len(codes) - ATTEMPTS + 1


# Whether AWS carried the create out, how many answers are lost, how many calls do not show the
# session yet; the attempts, all with one token, and the outcomes of this delivery and the next.
LOST = {
    "carried out, lost once": (True, 1, 0, 2, "created", "exists"),
    "not carried out, lost once": (False, 1, 0, 2, "created", "exists"),
    "carried out, lost always": (True, None, 0, 5, "failed", "exists"),
    "not carried out, lost always": (False, None, 0, 5, "failed", "created"),
    "carried out, lost always, and slow to show": (True, None, 2, 5, "failed", "created"),
}


@pytest.mark.parametrize("loss", ["server error", "no answer"])
@pytest.mark.parametrize("name", LOST)
def test_a_create_whose_answer_is_lost_makes_one_session_at_most(
    scene: Scene, every_call: str, loss: str, name: str
) -> None:
    carried_out, times, lag, attempts, outcome, then = LOST[name]
    instance = scene.instance()
    event = running_event(instance)
    scene.session_lag = lag
    FAULTS[loss](scene, CREATE, times=times, lose_answer=carried_out)

    delivery = deliver(event)
    creates = [call.parameters["ClientToken"] for call in scene.calls if call.operation == CREATE]
    assert (len(creates), len(set(creates))) == (attempts, 1)
    if outcome == "failed":
        interface = scene.first_interface(instance)
        assert delivery.error.startswith(f"1 failed. {interface}: {CREATE} failed with ")
    else:
        assert delivery.answer.outcomes == [outcome]
    scene.heal()
    assert deliver(event).answer.outcomes == [then]
    assert scene.sessions_of(instance) == [1]


# --- Calls that an outcome does not need


# How many of the READS, the first ones, an instance needs; all other calls fail. It has no session
# unless told otherwise.
NEEDS: dict[str, tuple[int, Build, str]] = {
    "excluded by its tag": (1, lambda a: a.instance(tags={"mirror": "no"}), "skipped"),
    "stopped": (1, lambda a: a.instance(state="stopped"), "skipped"),
    "unknown": (1, lambda a: "i-00000000000000000", "skipped"),
    "of another type": (1, lambda a: a.instance(interface_type="efa-only"), "skipped"),
    "a sensor": (2, lambda a: a.sensor_instance(a.targets[0]), "skipped"),
    "mirrored": (3, lambda a: a.mirrored("tmt-of-somebody-else")[0], "exists"),
    "without an address": (3, lambda a: a.instance(ipv6_only=True), "skipped"),
    "in a zone without sensors": (4, lambda a: a.instance(zone="b"), "unmirrored"),
}


def test_a_call_that_the_outcome_does_not_need_may_fail(scene: Scene, every_call: str) -> None:
    scene.configure(every_call, EXCLUDE_TAGS="mirror=no")
    found = {}
    for name, (needed, build, _) in NEEDS.items():
        instance = build(scene)
        scene.heal()
        for call in CALLS[needed:]:
            scene.fail(call)
        delivery = deliver(running_event(instance))
        found[name] = delivery.error or delivery.answer.entry["outcome"]
    assert found == {name: outcome for name, (*_, outcome) in NEEDS.items()}


@pytest.mark.parametrize(
    "call",
    [ACLS, PREFIX_LIST],
    ids=["ACLs, where the subnet is the same", "a prefix list, where another rule admits"],
)
def test_a_call_whose_answer_nobody_asks_for_may_fail(scene: Scene, call: str) -> None:
    group = scene.group(rule(), rule(prefix_list=scene.prefix_list("10.0.0.0/8")))
    scene.configure(scene.sensor(groups=[group]))
    scene.fail(call)
    assert scene.run(scene.instance()).outcomes == ["created"]


def test_of_two_missing_answers_the_one_that_may_still_come_is_named(scene: Scene) -> None:
    group = scene.group(rule())
    scene.configure([scene.sensor(groups=[group]), scene.sensor(scene.subnet())])

    rules = "IpPermissions"
    scene.show(
        GROUPS, lambda f: [g.pop(rules) for g in f["SecurityGroups"] if g["GroupId"] == group]
    )
    scene.fail(ACLS)
    assert ACLS in deliver(running_event(scene.instance())).error


def test_a_failure_among_other_outcomes_is_the_only_one_named(
    scene: Scene, every_call: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene.unsupported_types.add("t2.micro")
    instances = {
        "created": scene.instance(),
        "exists": scene.mirrored(every_call)[0],
        "unmirrored": scene.instance(zone="b"),
        "failed": scene.instance(),
        "skipped": scene.instance(instance_type="t2.micro"),
    }
    interfaces = {key: scene.first_interface(value) for key, value in instances.items()}
    scene.fail(CREATE, where=of_interface(interfaces["failed"]))
    error = deliver({"instance-ids": list(instances.values())}).error
    assert [key for key, interface in interfaces.items() if interface in error] == ["failed"]
    # The result is lost with the error, so the log says what became of each.
    logged = {r.interface_id: r.outcome for r in caplog.records if hasattr(r, "outcome")}
    assert logged == {interface: outcome for outcome, interface in interfaces.items()}


def test_an_instance_whose_second_look_fails_is_failed(scene: Scene, every_call: str) -> None:
    instance = scene.instance()
    scene.unknown_instances[instance] = 1
    scene.fail(INSTANCES, "InvalidParameterValue", status=400, after=1, message=f"No: {instance}")
    assert deliver(running_event(instance)).error.startswith(f"1 failed. {instance}: ")
