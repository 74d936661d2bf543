"""What happens when AWS throttles, times out, breaks, denies or loses an answer, and when time runs
out: at every call in turn, for one event, several instances, an SQS batch and a sweep.

What was done before stays done, what comes after is still tried, the interfaces without an answer
are named, and the next delivery completes the rest without making anything twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from aws import SimulatedAccount, rule, running_event, scheduled_event, sqs_event
from calls import (
    ATTEMPTS,
    CALLS,
    CREATE,
    FAULTS,
    FOUR_FAULTS,
    READS,
    TRANSIENT,
    named,
    of_interface,
)
from conftest import KINDS, Scene, Sleeps, deliver

import lambda_traffic_mirror as function

pytestmark = pytest.mark.usefixtures("quick")


# --- A call that comes to nothing, each in turn


def is_an_answer(call: str, fault: str) -> bool:
    """A prefix list that may not be read is no failure: its rule does not match."""
    return (call, fault) == ("GetManagedPrefixListEntries", "denied")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CALLS)
def test_one_event_fails_with_the_call_and_the_next_delivery_mirrors(
    scene: Scene, every_call: str, call: str, fault: str
) -> None:
    instance = scene.instance()
    (interface,) = scene.interfaces_of(instance)
    event = running_event(instance)
    FAULTS[fault](scene, call)

    delivery = deliver(event)
    if is_an_answer(call, fault):
        assert delivery.answer
        assert delivery.answer.outcomes == ["unmirrored"]
        assert "ec2:GetManagedPrefixListEntries" in delivery.answer.entry["reason"]
    else:
        assert delivery.error.startswith("1 failed")
        assert (instance if call == "DescribeInstances" else interface) in delivery.error
        assert named(call, fault) in delivery.error
    assert scene.sessions() == []
    # A create without an answer is sent once more when its session is not to be found.
    twice = call == CREATE and fault not in ("throttled", "denied")
    attempts = 1 if fault == "denied" else ATTEMPTS
    assert scene.count(call) == (2 * attempts if twice else attempts)

    scene.heal()
    assert deliver(event).answer.outcomes == ["created"]  # type: ignore[union-attr]
    assert deliver(event).answer.outcomes == ["exists"]  # type: ignore[union-attr]
    assert len(scene.sessions(interface_id=interface)) == 1


@pytest.mark.parametrize("fault", FOUR_FAULTS)
@pytest.mark.parametrize("call", READS)
def test_an_sqs_batch_names_every_message_whose_reads_fail(
    scene: Scene, every_call: str, call: str, fault: str
) -> None:
    instances = scene.instances(3)
    event = sqs_event(*map(running_event, instances))
    FAULTS[fault](scene, call)
    assert deliver(event).again == ([] if is_an_answer(call, fault) else [0, 1, 2])
    assert scene.sessions() == []
    scene.heal()
    assert deliver(event).again == []
    assert deliver(event).again == []
    assert scene.sessions_of(*instances) == [1, 1, 1]


@pytest.mark.parametrize("fault", FOUR_FAULTS)
@pytest.mark.parametrize("call", READS)
def test_a_sweep_fails_with_the_call_and_the_next_one_mirrors(
    scene: Scene, every_call: str, call: str, fault: str
) -> None:
    instances = scene.instances(3)
    FAULTS[fault](scene, call)

    delivery = deliver(scheduled_event())
    if is_an_answer(call, fault):
        assert delivery.answer
        assert delivery.answer.summary == {"unmirrored": 3, "skipped": 1}
    else:
        assert named(call, fault) in delivery.error
        listed = call != "DescribeInstances"
        for instance in instances:
            assert (scene.interfaces_of(instance)[0] in delivery.error) == listed
    assert scene.sessions() == []

    scene.heal()
    assert deliver(scheduled_event()).answer.summary == {  # type: ignore[union-attr]
        "created": 3,
        "skipped": 1,
    }
    assert scene.sessions_of(*instances) == [1, 1, 1]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_interface_whose_create_fails_is_failed(
    scene: Scene, every_call: str, kind: str, fault: str
) -> None:
    instances = scene.instances(3)
    first, second, third = (scene.interfaces_of(instance)[0] for instance in instances)
    event = KINDS[kind](instances)
    FAULTS[fault](scene, CREATE, where=of_interface(second))

    delivery = deliver(event)
    if kind == "SQS batch":
        assert delivery.again == [1]
    else:
        assert delivery.error.startswith("1 failed")
        assert second in delivery.error
        assert first not in delivery.error
        assert third not in delivery.error
        assert named(CREATE, fault) in delivery.error
        assert ("ec2:CreateTags" in delivery.error) == (fault == "denied")
    assert scene.sessions_of(*instances) == [1, 0, 1]

    scene.heal()
    scene.forget_calls()
    delivery = deliver(event)
    assert not delivery.error
    assert not delivery.again
    assert scene.sessions_of(*instances) == [1, 1, 1]
    assert scene.count(CREATE) == 1


def test_a_failed_message_is_completed_by_its_second_delivery_alone(
    scene: Scene, every_call: str
) -> None:
    instances = scene.instances(3)
    event = sqs_event(*map(running_event, instances))
    (second,) = scene.interfaces_of(instances[1])
    scene.fail(CREATE, where=of_interface(second))
    (again,) = deliver(event).again or ()
    scene.heal()
    assert deliver({"Records": [event["Records"][again]]}).again == []
    assert scene.sessions_of(*instances) == [1, 1, 1]


def test_the_second_of_three_interfaces_fails_alone(scene: Scene, every_call: str) -> None:
    instance = scene.instance(interfaces=3)
    event = running_event(instance)
    _, second, _ = scene.interfaces_of(instance)
    scene.time_out(CREATE, where=of_interface(second))
    delivery = deliver(event)
    assert delivery.error.startswith(f"1 failed. {second}: ")
    assert scene.sessions_of(instance) == [1, 0, 1]
    scene.heal()
    answer = deliver(event).answer
    assert answer
    assert answer.outcomes == ["exists", "created", "exists"]
    assert scene.sessions_of(instance) == [1, 1, 1]


def test_a_list_of_200_ids_that_fails_leaves_the_other_lists_alone(
    scene: Scene, every_call: str
) -> None:
    instances = sorted(scene.instances(210))
    event = {"id": "an-event", "instance-ids": instances}
    scene.fail(
        "DescribeInstances",
        where=lambda parameters: len(parameters["Filters"][0]["Values"]) == 200,
    )
    error = deliver(event).error
    assert error.startswith("200 failed")
    assert len(scene.sessions()) == 10
    assert "And 100 more." in error  # a message that names hundreds is cut by Lambda
    scene.heal()
    assert not deliver(event).error
    assert scene.sessions_of(*instances) == [1] * 210


def test_a_prefix_list_that_fails_only_concerns_the_interfaces_that_need_it(scene: Scene) -> None:
    lists = {zone: scene.prefix_list("10.0.0.0/8") for zone in "ab"}
    scene.configure(
        [
            scene.sensor(groups=[scene.group(rule(prefix_list=lists[zone]))], zone=zone)
            for zone in "ab"
        ]
    )
    near, far = scene.instance(zone="a"), scene.instance(zone="b")
    scene.fail(
        "GetManagedPrefixListEntries",
        where=lambda parameters: parameters["PrefixListId"] == lists["a"],
    )
    error = deliver({"instance-ids": [near, far]}).error
    assert scene.interfaces_of(near)[0] in error
    assert scene.interfaces_of(far)[0] not in error
    assert scene.sessions_of(near, far) == [0, 1]


# --- Permissions


@pytest.mark.parametrize("call", [call for call in CALLS if call != READS[-1]])
def test_a_missing_permission_is_named(scene: Scene, every_call: str, call: str) -> None:
    instance = scene.instance()
    scene.deny(f"ec2:{call}")
    assert f"ec2:{call}" in deliver(running_event(instance)).error
    attempts = [found for found in scene.calls if found.operation == call]
    assert [found.code for found in attempts] == ["UnauthorizedOperation"]  # no use trying again


@pytest.mark.parametrize("permission", ["ec2:CreateTrafficMirrorSession", "ec2:CreateTags"])
def test_both_permissions_of_a_denied_create_are_named(
    scene: Scene, every_call: str, permission: str
) -> None:
    instance = scene.instance()
    scene.deny(permission)
    error = deliver(running_event(instance)).error
    assert "ec2:CreateTrafficMirrorSession" in error
    assert "ec2:CreateTags" in error


# --- What botocore takes care of


@pytest.mark.parametrize(
    ("fault", "failures"), [("throttled", 1), *((fault, ATTEMPTS - 1) for fault in TRANSIENT)]
)
@pytest.mark.parametrize("call", CALLS)
def test_what_the_fifth_attempt_heals_is_not_seen(
    scene: Scene, every_call: str, call: str, fault: str, failures: int
) -> None:
    instance = scene.instance()
    FAULTS[fault](scene, call, times=failures)
    answer = deliver(running_event(instance)).answer
    assert answer
    assert (answer.status, answer.outcomes) == (200, ["created"])
    assert scene.sessions_of(instance) == [1]
    codes = [found.code for found in scene.calls if found.operation == call]
    assert codes.count(None) == len(codes) - failures


def test_the_client_retries_adaptively_with_fixed_timeouts(
    scene: Scene, every_call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits_for_a_token: list[int] = []
    monkeypatch.setattr(
        "botocore.retries.bucket.TokenBucket.acquire", lambda *_, **__: waits_for_a_token.append(1)
    )
    monkeypatch.setattr(function, "_client", None)
    config = function.ec2_client().meta.config
    assert config.retries == {"mode": "adaptive", "total_max_attempts": ATTEMPTS}
    assert (config.connect_timeout, config.read_timeout) == (2, 10)
    # Adaptive means that throttling slows down all that follows, and nothing else does.
    assert deliver(running_event(scene.instance())).answer
    assert not waits_for_a_token
    scene.fail("DescribeNetworkInterfaces", times=1)
    assert deliver(running_event(scene.instance())).answer
    assert waits_for_a_token


# --- A create whose answer is lost

LOSSES: dict[str, Callable[..., None]] = {
    "server error": lambda account, **when: account.fail(
        CREATE, "InternalError", status=500, **when
    ),
    "unavailable": lambda account, **when: account.fail(
        CREATE, "ServiceUnavailable", status=503, **when
    ),
    "no answer": lambda account, **when: account.time_out(CREATE, **when),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("carried_out", "times", "lag", "attempts", "outcome"),
    [
        # botocore sends it again with the same token
        (True, 1, 0, 2, "created"),
        (False, 1, 0, 2, "created"),
        # botocore gives up: the session is looked for
        (True, 5, 0, 5, "created"),
        (True, None, 0, 5, "created"),
        # it is not there: once more
        (False, 5, 0, 6, "created"),
        (False, None, 0, 10, "failed"),
        # it is there, but does not show yet: the same token brings the same session
        (True, 5, 9, 6, "created"),
        (True, None, 9, 10, "failed"),
    ],
)
def test_a_create_whose_answer_is_lost_makes_one_session_at_most(
    scene: Scene,
    every_call: str,
    loss: str,
    carried_out: bool,
    times: int | None,
    lag: int,
    attempts: int,
    outcome: str,
) -> None:
    instance = scene.instance()
    (interface,) = scene.interfaces_of(instance)
    event = running_event(instance)
    scene.session_lag = lag
    LOSSES[loss](scene, times=times, lose_answer=carried_out)

    delivery = deliver(event)
    assert scene.count(CREATE) == attempts
    made = scene.sessions(interface_id=interface)
    assert len(made) == (1 if carried_out or outcome == "created" else 0)
    if outcome == "failed":
        assert delivery.error.startswith(f"1 failed. {interface}: {CREATE} failed with ")
    else:
        assert delivery.answer
        assert delivery.answer.entry["outcome"] == outcome
        assert delivery.answer.entry["session_id"] == made[0]["TrafficMirrorSessionId"]
        assert delivery.answer.entry["target_id"] == every_call

    scene.heal()
    again = deliver(event).answer
    assert again
    assert again.outcomes in (["created"], ["exists"])
    assert len(scene.sessions(interface_id=interface)) == 1


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_lost_create_fails_when_the_session_cannot_be_looked_for(
    scene: Scene, every_call: str, carried_out: bool
) -> None:
    instance = scene.instance()
    event = running_event(instance)
    scene.time_out(CREATE, lose_answer=carried_out)
    scene.fail("DescribeTrafficMirrorSessions", after=1)
    assert scene.interfaces_of(instance)[0] in deliver(event).error
    scene.heal()
    answer = deliver(event).answer
    assert answer
    assert answer.outcomes == (["exists"] if carried_out else ["created"])
    assert scene.sessions_of(instance) == [1]


def test_a_session_that_was_found_after_its_answer_was_lost_counts_for_the_next_choice(
    scene: Scene,
) -> None:
    scene.configure([scene.sensor(), scene.sensor()])
    instances = scene.instances(2)
    (first,) = scene.interfaces_of(instances[0])
    scene.time_out(CREATE, lose_answer=True, where=of_interface(first))
    answer = scene.run({"instance-ids": instances})
    assert answer.outcomes == ["created", "created"]
    assert len({entry["target_id"] for entry in answer.interfaces}) == 2


def test_the_others_are_mirrored_after_a_lost_create(scene: Scene, every_call: str) -> None:
    instances = scene.instances(3)
    scene.time_out(CREATE, times=10)
    error = deliver({"instance-ids": instances}).error
    assert error.startswith(f"1 failed. {scene.interfaces_of(instances[0])[0]}: ")
    assert scene.sessions_of(*instances) == [0, 1, 1]


# --- Calls that an outcome does not need


def break_all_but(scene: Scene, *calls: str) -> None:
    for call in CALLS:
        if call not in calls:
            scene.fail(call)


def excluded_by_tag(scene: Scene) -> str:
    break_all_but(scene, "DescribeInstances")
    return scene.instance(tags={"mirror": "no"})


def stopped(scene: Scene) -> str:
    break_all_but(scene, "DescribeInstances")
    return scene.instance(state="stopped")


def unknown(scene: Scene) -> str:
    break_all_but(scene, "DescribeInstances")
    return "i-00000000000000000"


def of_another_type(scene: Scene) -> str:
    break_all_but(scene, "DescribeInstances")
    return scene.instance(interface_type="efa-only")


def hosts_a_sensor(scene: Scene) -> str:
    break_all_but(scene, "DescribeInstances", "DescribeTrafficMirrorTargets")
    (target,) = scene._backend.traffic_mirror_targets
    return scene.sensor_instance(target)


def has_a_session(scene: Scene) -> str:
    instance = scene.instance()
    scene.session(scene.interfaces_of(instance)[0], "tmt-of-somebody-else")
    break_all_but(scene, *READS[:3])
    return instance


def without_an_address(scene: Scene) -> str:
    break_all_but(scene, *READS[:3])
    return scene.instance(ipv6_only=True)


def in_a_zone_without_sensors(scene: Scene) -> str:
    break_all_but(scene, *READS[:4])
    return scene.instance(zone="b")


@pytest.mark.parametrize(
    ("make", "outcome"),
    [
        (excluded_by_tag, "skipped"),
        (stopped, "skipped"),
        (unknown, "skipped"),
        (of_another_type, "skipped"),
        (hosts_a_sensor, "skipped"),
        (has_a_session, "exists"),
        (without_an_address, "skipped"),
        (in_a_zone_without_sensors, "unmirrored"),
    ],
)
def test_a_call_that_the_outcome_does_not_need_may_fail(
    scene: Scene,
    every_call: str,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[SimulatedAccount], str],
    outcome: str,
) -> None:
    monkeypatch.setenv("EXCLUDE_TAGS", "mirror=no")
    assert scene.run(make(scene)).outcomes == [outcome]


@pytest.mark.parametrize(
    ("call", "sensor"),
    [
        pytest.param("DescribeNetworkAcls", lambda account: account.sensor(), id="same subnet"),
        pytest.param(
            "GetManagedPrefixListEntries",
            lambda account: account.sensor(
                groups=[account.group(rule(), rule(prefix_list=account.prefix_list("10.0.0.0/8")))]
            ),
            id="another rule admits the packet",
        ),
    ],
)
def test_a_call_whose_answer_nobody_asks_for_may_fail(
    scene: Scene, call: str, sensor: Callable[[SimulatedAccount], str]
) -> None:
    scene.configure(sensor(scene))
    scene.fail(call)
    assert scene.run(scene.instance()).outcomes == ["created"]


def test_a_dry_run_needs_no_create(scene: Scene, every_call: str) -> None:
    scene.deny("ec2:CreateTrafficMirrorSession")
    assert scene.run({"instance-ids": [scene.instance()], "dry_run": True}).outcomes == ["planned"]


def test_an_ignored_state_needs_no_call_at_all(scene: Scene, every_call: str) -> None:
    scene.fail("*")
    assert scene.run(running_event(scene.instance(), state="stopped")).status == 200
    assert scene.count() == 0


def test_a_failure_among_other_outcomes_is_the_only_one_named(
    scene: Scene, every_call: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene.unsupported_types.add("t2.micro")
    instances = {
        "created": scene.instance(),
        "exists": has_session(scene, every_call),
        "unmirrored": scene.instance(zone="b"),
        "failed": scene.instance(),
        "skipped": scene.instance(instance_type="t2.micro"),
    }
    interfaces = {key: scene.interfaces_of(value)[0] for key, value in instances.items()}
    scene.fail(CREATE, where=of_interface(interfaces["failed"]))
    error = deliver({"instance-ids": list(instances.values())}).error
    assert [key for key, interface in interfaces.items() if interface in error] == ["failed"]
    # The result is lost with the error, so the log says what became of each.
    logged = {
        record.interface_id: (record.outcome, record.levelname)
        for record in caplog.records
        if hasattr(record, "outcome")
    }
    levels = {"unmirrored": "ERROR", "failed": "ERROR"}
    assert logged == {
        interface: (outcome, levels.get(outcome, "INFO"))
        for outcome, interface in interfaces.items()
    }


def has_session(scene: Scene, target_id: str) -> str:
    instance = scene.instance()
    scene.session(scene.interfaces_of(instance)[0], target_id)
    return instance


@pytest.mark.parametrize("fault", FOUR_FAULTS)
@pytest.mark.parametrize(
    "call", ["DescribeNetworkInterfaces", "DescribeSecurityGroups", "DescribeNetworkAcls"]
)
def test_a_session_that_a_sweep_could_not_check_is_failed_and_kept(
    scene: Scene, every_call: str, call: str, fault: str
) -> None:
    instance = has_session(scene, every_call)
    FAULTS[fault](scene, call)
    error = deliver(scheduled_event()).error
    assert scene.interfaces_of(instance)[0] in error
    assert named(call, fault) in error
    scene.heal()
    answer = deliver(scheduled_event()).answer
    assert answer
    assert answer.summary == {"exists": 1, "skipped": 1}


# --- An instance that AWS does not know yet


@pytest.mark.parametrize(
    ("unknown_for", "outcome", "pauses"),
    [(0, "created", 0), (1, "created", 1), (2, "created", 2), (3, "skipped", 2)],
)
def test_an_instance_that_aws_does_not_know_is_asked_for_twice_more(
    scene: Scene, every_call: str, quick: Sleeps, unknown_for: int, outcome: str, pauses: int
) -> None:
    instance = scene.instance()
    scene.unknown_instances[instance] = unknown_for
    assert scene.run(instance).outcomes == [outcome]
    assert quick.seconds == [1.0] * pauses


def test_only_the_unknown_instances_are_asked_for_again(
    scene: Scene, every_call: str, quick: Sleeps
) -> None:
    known, late = scene.instances(2)
    scene.unknown_instances[late] = 1
    answer = scene.run({"instance-ids": [known, late, "i-00000000000000000"]})
    assert answer.summary == {"created": 2, "skipped": 1}
    asked = [
        call.parameters["Filters"][0]["Values"]
        for call in scene.calls
        if call.operation == "DescribeInstances"
    ]
    assert asked[1:3] == [["i-00000000000000000", late], ["i-00000000000000000"]]
    assert quick.seconds == [1.0, 1.0]


def test_interfaces_are_listed_in_the_order_of_the_event(scene: Scene, every_call: str) -> None:
    known, unknown = scene.instance(), "i-00000000000000000"
    answer = scene.run({"instance-ids": [known, unknown]})
    assert [entry["instance_id"] for entry in answer.interfaces] == [known, unknown]


def test_an_unknown_instance_whose_second_look_fails_is_failed(
    scene: Scene, every_call: str
) -> None:
    instance = scene.instance()
    scene.unknown_instances[instance] = 1
    scene.fail("DescribeInstances", after=1)
    assert deliver(running_event(instance)).error.startswith(f"1 failed. {instance}: ")


@pytest.mark.parametrize("call", [*READS[:2], CREATE])
def test_an_error_without_a_code_fails_its_interface_only(
    scene: Scene, every_call: str, call: str
) -> None:
    """A proxy may answer so; AWS does not."""
    scene.fail(call, "", status=400)
    delivery = deliver(sqs_event(running_event(scene.instance())))
    assert delivery.again == ([] if call == CREATE else [0])
