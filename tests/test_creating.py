"""How the session is created, and what happens when AWS refuses."""

from __future__ import annotations

import itertools
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import botocore.endpoint
import pytest
from aws import (
    ACCOUNT_ID,
    REGION,
    LambdaContext,
    Refusal,
    running_event,
    scheduled_event,
    sqs_event,
)
from calls import CREATE, FAULTS, INSTANCES, SESSIONS, TARGETS
from conftest import Clock, Scene, Sleeps, answer_of, deliver, error_of, missing

from lambda_traffic_mirror import lambda_handler

AT_ONCE = 10  # creates that are under way at a time

pytestmark = pytest.mark.usefixtures("shared_client")


def created(scene: Scene) -> list[dict[str, Any]]:
    """The parameters of each create, refused ones too."""
    return [call.parameters for call in scene.calls if call.operation == CREATE]


def refuse(scene: Scene, code: str, *interfaces: str, **options: Any) -> None:
    """AWS refuses every create with this code, or those of these interfaces."""
    scene.fail(
        CREATE,
        code,
        where=lambda p: not interfaces or p["NetworkInterfaceId"] in interfaces,
        **{"status": 400, **options},
    )


def is_the_only_session(scene: Scene, entry: dict[str, Any]) -> bool:
    """Whether the entry says that its session was created, and it is the only one."""
    (session,) = scene.sessions()
    shown = (entry["outcome"], entry["session_id"], entry["target_id"], entry["session_name"])
    made = (session["TrafficMirrorSessionId"], session["TrafficMirrorTargetId"])
    return shown == ("created", *made, session["Tags"][0]["Value"])


EVENTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "event": running_event,
    "SQS": lambda instance: sqs_event(running_event(instance)),
    "sweep": lambda instance: scheduled_event(),
}


# --------------------------------------------------------------------------------------
# What is created
# --------------------------------------------------------------------------------------


def test_the_session_is_created_with_exactly_these_parameters(scene: Scene) -> None:
    target, instance = scene.sensor(), scene.instance()
    (interface,) = scene.interfaces_of(instance)
    scene.configure(target, SESSION_NUMBER="7", VIRTUAL_NETWORK_ID="4711", PACKET_LENGTH="256")
    scene.run(instance)
    (parameters,) = created(scene)
    name = f"eh-mirror-{interface[4:8]}{target[4:8]}"
    tags = {"ResourceType": "traffic-mirror-session", "Tags": [{"Key": "Name", "Value": name}]}
    assert parameters == {
        "NetworkInterfaceId": interface,
        "TrafficMirrorTargetId": target,
        "TrafficMirrorFilterId": scene.filter_id,
        "SessionNumber": 7,
        "VirtualNetworkId": 4711,
        "PacketLength": 256,
        "TagSpecifications": [tags],
        "ClientToken": parameters["ClientToken"],
    }


def rename(resources: dict[str, Any], old: str, new: str) -> str:
    """Give a resource of the simulated account another ID."""
    resources[new] = resources.pop(old)
    resources[new].id = new
    return new


def test_the_name_tag_is_made_of_both_ids(scene: Scene) -> None:
    target, instance = scene.sensor(), scene.instance()
    backend = scene._backend
    rename(backend.enis, scene.first_interface(instance), "eni-055061bf5573d0a3b")
    scene.configure(rename(backend.traffic_mirror_targets, target, "tmt-0bce8038d06d6c745"))
    assert scene.run(instance).entry["session_name"] == "eh-mirror-05500bce"


def test_there_is_one_session_per_interface(scene: Scene) -> None:
    scene.configure([scene.sensor(), scene.sensor()])
    instance = scene.instance(interfaces=3)
    for _ in range(2):
        scene.run(instance)
    assert [len(scene.sessions(interface_id=i)) for i in scene.interfaces_of(instance)] == [1, 1, 1]


SESSION_TAGS: dict[str, dict[str, str]] = {
    "none": {},
    "three": {"team": "net=work", "cost-center": "42", "Empty": ""},
    "as many as there may be": {f"key-{number}": f"value-{number}" for number in range(49)},
}


@pytest.mark.parametrize("tags", SESSION_TAGS.values(), ids=SESSION_TAGS.keys())
def test_session_tags_come_besides_the_name(scene: Scene, tags: dict[str, str]) -> None:
    text = ",".join(f"{key}={value}" for key, value in tags.items())
    scene.configure(scene.sensor(), SESSION_TAGS=text)
    wanted = tags | {"Name": scene.run(scene.instance()).entry["session_name"]}
    (session,) = scene.sessions()
    assert sorted((tag["Key"], tag["Value"]) for tag in session["Tags"]) == sorted(wanted.items())


# --------------------------------------------------------------------------------------
# Alongside another tool's sessions
# --------------------------------------------------------------------------------------


class TwoTools:
    """An interface whose first sessions go to the targets of another tool."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.ours, self.theirs = scene.sensor(), scene.sensor(sessions=2)
        self.instance = scene.instance()
        self.interface = scene.first_interface(self.instance)
        self.their_session = scene.session(self.interface, self.theirs)

    def alongside(self, value: str = "true", number: int = 2, **variables: str) -> None:
        self.scene.configure(
            self.ours, MIRROR_ALONGSIDE=value, SESSION_NUMBER=str(number), **variables
        )

    def our_sessions(self) -> list[dict[str, Any]]:
        return self.scene.sessions(interface_id=self.interface, target_id=self.ours)


@pytest.fixture
def two_tools(scene: Scene, no_sleep: Sleeps) -> TwoTools:
    return TwoTools(scene)


@pytest.mark.parametrize(
    ("value", "first"), [("true", "created"), ("false", "exists"), ("", "exists")]
)
def test_besides_it_there_is_one_of_ours_only(
    two_tools: TwoTools, scene: Scene, value: str, first: str
) -> None:
    two_tools.alongside(value)
    entries = [scene.run(two_tools.instance).entry for _ in range(3)]
    assert [entry["outcome"] for entry in entries] == [first, "exists", "exists"]
    target = two_tools.ours if first == "created" else two_tools.theirs
    shown = {(entry["session_id"], entry["target_id"]) for entry in entries}
    assert (len(shown), shown.pop()[1]) == (1, target)
    assert len(two_tools.our_sessions()) == int(first == "created")


def test_alongside_an_event_may_be_tried_out(two_tools: TwoTools, scene: Scene) -> None:
    two_tools.alongside(DRY_RUN="true")
    assert (scene.run(two_tools.instance).outcomes, two_tools.our_sessions()) == (["planned"], [])


def test_alongside_a_sweep_creates_too(two_tools: TwoTools, scene: Scene) -> None:
    two_tools.alongside(EXCLUDE_TAGS="sensor")
    scene.run(scheduled_event())
    assert len(two_tools.our_sessions()) == 1


OCCUPIED = {
    "the number is taken": ((), 1, "InvalidParameterValue"),
    "others have filled it": ((3, 4), 2, "TrafficMirrorSessionsPerInterfaceLimitExceeded"),
}


@pytest.mark.parametrize(("theirs", "number", "code"), OCCUPIED.values(), ids=OCCUPIED.keys())
def test_another_tools_session_is_not_what_another_invocation_created(
    two_tools: TwoTools, scene: Scene, theirs: tuple[int, ...], number: int, code: str
) -> None:
    for other in theirs:
        scene.session(two_tools.interface, two_tools.theirs, other)
    two_tools.alongside(number=number)
    entry = scene.run(two_tools.instance).entry
    assert (entry["outcome"], code in entry["reason"]) == ("unmirrored", True)


@pytest.mark.parametrize("carried_out", [False, True])
def test_a_lost_create_is_not_taken_for_the_other_tools_session(
    two_tools: TwoTools, scene: Scene, carried_out: bool
) -> None:
    scene.time_out(CREATE, lose_answer=carried_out)
    two_tools.alongside()
    delivery = deliver(running_event(two_tools.instance))
    ours = [session["TrafficMirrorSessionId"] for session in two_tools.our_sessions()]
    if carried_out:
        assert delivery.answer.outcomes == ["created"]
        assert ours == [delivery.answer.entry["session_id"]]
    else:
        assert (delivery.error.startswith("1 failed"), ours) == (True, [])


def test_a_lost_create_that_was_carried_out_is_found_whoever_elses_session_comes_first(
    scene: Scene, sensor: str
) -> None:
    instance, others = scene.instance(), scene.sensor()
    interface = scene.first_interface(instance)
    scene.time_out(CREATE, times=1, lose_answer=True)
    theirs = iter([lambda: scene.session(interface, others, 2)])
    scene.gates.append(lambda call, _: call == CREATE and next(theirs, str)())
    assert scene.run(instance).outcomes == ["created"]


def test_where_a_lost_create_is_throttled_when_it_is_sent_again_it_is_failed_and_counts(
    scene: Scene,
) -> None:
    """The first may have been carried out, so it is no reason to choose once more."""
    targets = [scene.sensor(), scene.sensor()]
    scene.configure(targets)
    instances = scene.instances(3)
    lost = scene.first_interface(instances[0])

    def of_lost(parameters: dict[str, Any]) -> bool:
        return parameters["NetworkInterfaceId"] == lost

    scene.fail(CREATE, "InternalError", status=500, times=1, where=of_lost)
    scene.fail(CREATE, where=of_lost)
    error = error_of({"instance-ids": instances})
    assert error.startswith("1 failed")
    assert "InternalError" in error
    assert scene.sessions_of(*instances) == [0, 1, 1]


# --------------------------------------------------------------------------------------
# ClientToken
# --------------------------------------------------------------------------------------


class Tokens:
    """Tries to mirror the same interface again and again, and shows the tokens.

    AWS refuses each create, so that there is no session the next time.
    """

    def __init__(self, scene: Scene) -> None:
        refuse(scene, "TrafficMirrorSessionLimitExceeded")
        self.scene = scene
        self.instance, self.target = scene.instance(), scene.sensor()

    def of(self, event_id: object, context: object = None, **variables: str) -> str:
        self.scene.configure(self.target, **variables)
        event = running_event(self.instance) | {"id": event_id}
        if event_id is None:
            del event["id"]
        self.scene.forget_calls()
        self.scene.run(event, context)
        (parameters,) = created(self.scene)
        return str(parameters["ClientToken"])


@pytest.fixture
def tokens(scene: Scene) -> Tokens:
    return Tokens(scene)


def test_the_same_event_has_the_same_token_whoever_delivers_it(tokens: Tokens) -> None:
    token = tokens.of("event-1")
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert tokens.of("event-1") == token


@pytest.mark.parametrize("event_id", [None, "", 7, True, ["event-1"]], ids=ascii)
def test_without_a_text_as_event_id_the_request_id_takes_its_place(
    tokens: Tokens, event_id: object
) -> None:
    one, two = (LambdaContext(aws_request_id=name) for name in ("request-1", "request-2"))
    first, again, other = (tokens.of(event_id, context) for context in (one, one, two))
    assert (first == again, first == other) == (True, False)


def test_without_a_request_id_every_token_is_another(tokens: Tokens) -> None:
    assert tokens.of(None, object()) != tokens.of(None, object())


DIFFERENCES: dict[str, tuple[str, dict[str, str]]] = {
    "event": ("event-2", {}),
    "session number": ("event-1", {"SESSION_NUMBER": "2"}),
    "virtual network ID": ("event-1", {"VIRTUAL_NETWORK_ID": "0"}),
    "packet length": ("event-1", {"PACKET_LENGTH": "100"}),
    "filter": ("event-1", {"filter_id": "tmf-other"}),
    "session tags": ("event-1", {"SESSION_TAGS": "team=network"}),
}


@pytest.mark.parametrize(("event_id", "variables"), DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_the_token_differs_with_the(
    tokens: Tokens, event_id: str, variables: dict[str, str]
) -> None:
    assert tokens.of("event-1") != tokens.of(event_id, **variables)


def test_the_token_differs_with_interface_and_target(scene: Scene) -> None:
    full = [scene.sensor(quota=0) for _ in range(2)]
    scene.configure([*full, scene.sensor(sessions=1)])
    scene.run(scene.instance(interfaces=2))
    tokens = {parameters["ClientToken"] for parameters in created(scene)}
    assert len(tokens) == len(created(scene)) == 4


def test_the_token_differs_with_each_session_tag(tokens: Tokens) -> None:
    values = ["a=1", "a=2", "b=1", "a=1,b=1"]
    assert len({tokens.of("event-1", SESSION_TAGS=value) for value in values}) == len(values)


# --------------------------------------------------------------------------------------
# AWS refuses because of the target: the next best one
# --------------------------------------------------------------------------------------

TARGET_CODES = [
    "TrafficMirrorSourcesPerTargetLimitExceeded",
    "TrafficMirrorSessionsPerTargetLimitExceeded",
    "InvalidTrafficMirrorTarget",
    "InvalidTrafficMirrorTargetId.NotFound",
    "InvalidTrafficMirrorTarget.Malformed",
]


@pytest.mark.parametrize("code", TARGET_CODES)
def test_the_next_best_sensor_is_tried_after(scene: Scene, code: str) -> None:
    busy, best, next_best = (scene.sensor(sessions=count) for count in (5, 0, 3))
    scene.fail(CREATE, code, status=400, where=lambda p: p["TrafficMirrorTargetId"] == best)
    scene.configure([busy, best, next_best])
    answer = scene.run(scene.instance())
    assert answer.entry["target_id"] == next_best
    assert answer.stages == ["(eligible)", "create", "(selected)"]
    assert code in answer.sensors[best]["reason"]


def test_sensors_are_tried_by_sessions_to_the_last(scene: Scene) -> None:
    targets = [scene.sensor(sessions=count, quota=0) for count in (2, 0, 3, 1)]
    scene.configure([*targets, scene.sensor(groups=[scene.group()])])
    answer = scene.run(scene.instance())
    tried = [targets.index(parameters["TrafficMirrorTargetId"]) for parameters in created(scene)]
    assert (answer.outcomes, tried) == (["unmirrored"], [1, 3, 0, 2])
    reason = answer.entry["reason"]
    assert missing(reason, "create", "TrafficMirrorSourcesPerTargetLimitExceeded") == []
    assert any(target in reason for target in targets)


def test_a_refused_sensor_is_not_tried_again_in_the_invocation(scene: Scene) -> None:
    full, other = scene.sensor(quota=0), scene.sensor(sessions=3, quota=1_000)
    scene.configure([full, other])
    answer = scene.run({"instance-ids": scene.instances(120)})
    tried = Counter(parameters["TrafficMirrorTargetId"] for parameters in created(scene))
    assert (answer.outcomes, tried[other]) == (["created"] * 120, 120)
    assert 1 <= tried[full] <= AT_ONCE  # those that were on their way already


def test_a_refused_sensor_is_tried_again_in_the_next_invocation(scene: Scene) -> None:
    sensor = scene.sensor(quota=0)
    scene.configure([sensor, scene.sensor(sessions=3)])
    scene.run(scene.instance())
    scene.quota[sensor] = 1
    assert scene.run(scene.instance()).entry["target_id"] == sensor


# --------------------------------------------------------------------------------------
# AWS does not mirror the interface, or its instance type
# --------------------------------------------------------------------------------------

NOT_SUPPORTED = "NetworkInterfaceNotSupported"
IN_USE = "InterfaceInUseByTrafficMirrorTarget"  # it is a sensor of somebody's


@pytest.mark.parametrize("code", [NOT_SUPPORTED, IN_USE])
def test_what_aws_does_not_mirror_is_skipped_and_not_looked_up(
    scene: Scene, no_sleep: Sleeps, code: str
) -> None:
    refuse(scene, code)
    scene.configure([scene.sensor(), scene.sensor()])
    answer = scene.run(scene.instance())
    found = (answer.status, answer.outcomes, code in answer.entry["reason"])
    assert found == (200, ["skipped"], True)
    assert (scene.count(CREATE), scene.count(SESSIONS), no_sleep.seconds) == (1, 1, [])


def test_interfaces_of_that_type_are_not_tried_again_in_the_invocation(scene: Scene) -> None:
    scene.unsupported_types.add("t2.micro")
    scene.configure(scene.sensor(quota=100))
    instances = [
        *scene.instances(15, instance_type="t2.micro"),
        *scene.instances(5, instance_type="m5.large"),
        *scene.instances(90, instance_type="t2.micro"),
    ]
    answer = scene.run({"instance-ids": instances})
    assert answer.outcomes == ["skipped"] * 15 + ["created"] * 5 + ["skipped"] * 90
    # The other five, and those that were on their way when the first came back.
    assert 6 <= scene.count(CREATE) <= 5 + AT_ONCE
    reasons = [entry["reason"] for entry in answer.interfaces if entry["outcome"] == "skipped"]
    assert all("t2.micro" in reason or NOT_SUPPORTED in reason for reason in reasons)


def in_view(instance: str, change: Callable[[dict[str, Any]], Any]) -> Callable[..., None]:
    """What DescribeInstances shows of this instance is changed."""

    def changed(answer: dict[str, Any]) -> None:
        for reservation in answer["Reservations"]:
            for view in reservation["Instances"]:
                if view["InstanceId"] == instance:
                    change(view)

    return changed


def attached(**members: Any) -> Callable[[dict[str, Any]], None]:
    return lambda view: view["NetworkInterfaces"][0]["Attachment"].update(members)


def managed(says: bool) -> Callable[[dict[str, Any]], None]:
    operator = {"Managed": says, "Principal": "eks.amazonaws.com"}
    return lambda view: view.update(Operator=operator)


class OnlyItself:
    """One interface is refused, and the others that are on their way wait for that."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        scene.configure(scene.sensor(quota=1_000))
        self.refused, self.code = "", NOT_SUPPORTED
        self.is_refused = threading.Event()
        scene.gates.append(self)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        if operation != CREATE:
            return
        if parameters["NetworkInterfaceId"] == self.refused:
            self.is_refused.set()
            raise Refusal(self.code)
        self.is_refused.wait(1)
        threading.Event().wait(0.02)  # until the refusal has come back

    def outcomes(
        self, instance: str, others: Iterable[str], index: int = 0
    ) -> tuple[str, set[str]]:
        """What becomes of the refused interface of this instance, and of all others."""
        self.refused = self.scene.interfaces_of(instance)[index]
        event = {"instance-ids": [instance, *others]}
        entries = self.scene.run(event).interfaces
        found = {entry["interface_id"]: entry["outcome"] for entry in entries}
        return found.pop(self.refused), set(found.values())


@pytest.fixture
def only_itself(scene: Scene) -> OnlyItself:
    return OnlyItself(scene)


OTHERS = 14  # more than go out together
# How the instance of the refused first interface looks; whether its type is set aside.
FIRSTS: dict[str, tuple[Callable[[dict[str, Any]], Any], bool]] = {
    "an ordinary one": (lambda view: None, True),
    "another device index": (attached(DeviceIndex=1), False),
    "another network card": (attached(NetworkCardIndex=1), False),
    "managed": (managed(says=True), False),
    "not managed": (managed(says=False), True),
}


@pytest.mark.parametrize(("change", "aside"), FIRSTS.values(), ids=FIRSTS.keys())
def test_a_first_interface_of_an_instance_that_no_service_manages_sets_its_type_aside(
    scene: Scene, only_itself: OnlyItself, change: Callable[[dict[str, Any]], Any], aside: bool
) -> None:
    instance, *others = scene.instances(1 + OTHERS)
    scene.show("DescribeInstances", in_view(instance, change))
    refused, rest = only_itself.outcomes(instance, others)
    assert refused == "skipped"
    assert "skipped" in rest if aside else rest == {"created"}
    assert scene.count(CREATE) <= (AT_ONCE if aside else 1 + OTHERS)


@pytest.mark.parametrize("index", [1, 2])
def test_a_further_interface_sets_aside_only_itself(
    scene: Scene, only_itself: OnlyItself, index: int
) -> None:
    instance, others = scene.instance(interfaces=3), scene.instances(OTHERS)
    assert only_itself.outcomes(instance, others, index) == ("skipped", {"created"})


def test_a_sensor_of_somebodys_sets_aside_only_itself(
    scene: Scene, only_itself: OnlyItself
) -> None:
    only_itself.code = IN_USE
    instance, *others = scene.instances(1 + OTHERS)
    assert only_itself.outcomes(instance, others) == ("skipped", {"created"})


# --- ... and that is remembered for an hour


@pytest.mark.parametrize(("minutes", "creates"), [(0, 0), (59, 0), (61, 1), (24 * 60, 1)], ids=str)
def test_what_is_not_supported_is_remembered_for_an_hour(
    scene: Scene, clock_of_day: Clock, minutes: int, creates: int
) -> None:
    scene.unsupported_types.add("t2.micro")
    scene.configure(scene.sensor())
    instance = scene.instance(instance_type="t2.micro")
    scene.run(instance)
    scene.forget_calls()
    clock_of_day.advance(60 * minutes)
    answer = scene.run(instance)
    assert (answer.outcomes, answer.status, scene.count(CREATE)) == (["skipped"], 200, creates)
    assert NOT_SUPPORTED in answer.entry["reason"]


def test_remembering_does_not_prolong_it(scene: Scene, clock_of_day: Clock) -> None:
    refuse(scene, NOT_SUPPORTED, times=1)
    scene.configure(scene.sensor())
    instance = scene.instance()
    outcomes = []
    for _ in range(3):
        outcomes += scene.run(instance).outcomes
        clock_of_day.advance(31 * 60)
    assert outcomes == ["skipped", "skipped", "created"]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("kind", ["event", "sweep"])
def test_events_and_sweeps_remember_alike(scene: Scene, kind: str, dry_run: bool) -> None:
    refuse(scene, NOT_SUPPORTED)
    scene.configure(scene.sensor(), EXCLUDE_TAGS="sensor")
    instance = scene.instance()
    scene.run(instance)
    scene.forget_calls()
    summary = scene.run(EVENTS[kind](instance) | {"dry_run": dry_run}).summary
    assert (scene.count(CREATE), set(summary)) == (0, {"skipped"})


def test_it_is_the_interface_that_is_remembered_not_the_type(scene: Scene) -> None:
    scene.unsupported_types.add("t2.micro")
    scene.configure(scene.sensor())
    one, two = scene.instances(2, instance_type="t2.micro")
    scene.run(one)
    scene.unsupported_types.clear()
    assert (scene.run(one).outcomes, scene.run(two).outcomes) == (["skipped"], ["created"])


def test_a_thousand_interfaces_that_aws_does_not_support_cost_a_thousand_creates_in_an_hour(
    scene: Scene, clock_of_day: Clock
) -> None:
    """Scaled down; each is a further interface, so that its type is not set aside."""
    scene.configure(scene.sensor(quota=1_000), EXCLUDE_TAGS="sensor")
    instances = scene.instances(20, interfaces=2)
    refuse(scene, NOT_SUPPORTED, *(scene.interfaces_of(i)[1] for i in instances))
    scene.forget_calls()
    for _ in range(11):
        scene.run(scheduled_event())
        clock_of_day.advance(5 * 60)
    refused = [call for call in scene.calls if call.code == NOT_SUPPORTED]
    assert len(refused) == 20


# --------------------------------------------------------------------------------------
# EC2 does not know the interface yet
# --------------------------------------------------------------------------------------

UNKNOWN_INTERFACE = "InvalidNetworkInterfaceID.NotFound"


class Unknown:
    """An instance whose interface EC2 shows, and does not know when it is to be mirrored."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.target, self.instance = scene.sensor(quota=100), scene.instance()
        self.interface = scene.first_interface(self.instance)
        scene.configure(self.target)

    def at_create(self, number: int, act: Callable[[], object]) -> None:
        """Do this when the interface's create is sent for the n-th time."""
        sent = itertools.count(1)

        def gate(operation: str, parameters: dict[str, Any]) -> None:
            ours = operation == CREATE and parameters["NetworkInterfaceId"] == self.interface
            if ours and next(sent) == number:
                act()

        self.scene.gates.append(gate)

    def refuse(self, times: int | None = None) -> None:
        refuse(self.scene, UNKNOWN_INTERFACE, self.interface, times=times)

    def sent(self) -> int:
        return sum(p["NetworkInterfaceId"] == self.interface for p in created(self.scene))


@pytest.fixture
def unknown(scene: Scene, no_sleep: Sleeps) -> Unknown:
    return Unknown(scene)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("kind", EVENTS)
def test_the_create_is_sent_again_at_each_look(
    unknown: Unknown, no_sleep: Sleeps, kind: str, times: int
) -> None:
    unknown.refuse(times)
    result = lambda_handler(EVENTS[kind](unknown.instance), LambdaContext())
    assert result.get("batchItemFailures", []) == []
    assert len(unknown.scene.sessions(interface_id=unknown.interface)) == 1
    assert unknown.sent() == times + 1
    assert no_sleep.seconds == [1.0] * (times - 1)


def test_what_is_created_then_is_shown_like_any_other(unknown: Unknown, scene: Scene) -> None:
    unknown.refuse(1)
    answer = scene.run(unknown.instance)
    assert (is_the_only_session(scene, answer.entry), answer.stages) == (True, ["(selected)"])


@pytest.mark.parametrize("kind", EVENTS)
def test_one_that_stays_unknown_is_failed_and_never_unmirrored(
    unknown: Unknown, no_sleep: Sleeps, kind: str
) -> None:
    unknown.refuse()
    event = EVENTS[kind](unknown.instance)
    if kind == "SQS":
        assert deliver(event).again == [0]
    else:
        error = error_of(event)
        wanted = ("1 failed", unknown.interface, UNKNOWN_INTERFACE)
        assert missing(error, *wanted) == []
    assert (unknown.sent(), no_sleep.seconds) == (4, [1.0, 1.0])


def test_one_whose_instance_is_still_pending_is_not_taken_for_gone(unknown: Unknown) -> None:
    """Right after a launch EC2 is late with both."""
    unknown.scene.set_state(unknown.instance, "pending")
    unknown.refuse()
    assert error_of(running_event(unknown.instance)).startswith("1 failed")


def exchange_interface(unknown: Unknown) -> None:
    scene, other = unknown.scene, unknown.scene.interface()
    scene.delete_interface(unknown.interface)
    scene.ec2.attach_network_interface(
        InstanceId=unknown.instance, NetworkInterfaceId=other, DeviceIndex=1
    )


GONE: dict[str, Callable[[Unknown], object]] = {
    "the instance is terminated": lambda u: u.scene.terminate(u.instance),
    "the instance is shutting down": lambda u: u.scene.set_state(u.instance, "shutting-down"),
    "the instance is stopped": lambda u: u.scene.stop(u.instance),
    "the interface is detached and deleted": lambda u: u.scene.delete_interface(u.interface),
    "another interface has taken its place": exchange_interface,
    "the instance is not shown any more": lambda u: u.scene.hide(u.instance),
}


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("gone", GONE.values(), ids=GONE.keys())
def test_what_is_gone_meanwhile_is_skipped(
    unknown: Unknown, gone: Callable[[Unknown], object], kind: str, number: int
) -> None:
    """An instance that is terminated between two reads is no error and no alarm."""
    unknown.refuse()
    unknown.at_create(number, lambda: gone(unknown))
    result = lambda_handler(EVENTS[kind](unknown.instance), LambdaContext())
    if kind == "SQS":
        assert result == {"batchItemFailures": []}
        return
    answer = answer_of(result)
    assert (answer.status, set(answer.body["summary"])) == (200, {"skipped"})
    (entry,) = [e for e in answer.interfaces if e["instance_id"] == unknown.instance]
    assert entry["outcome"] == "skipped"


def test_a_session_that_shows_meanwhile_exists(unknown: Unknown, scene: Scene) -> None:
    unknown.refuse()
    scene = unknown.scene
    unknown.at_create(2, lambda: scene.session(unknown.interface, unknown.target))
    assert scene.run(unknown.instance).outcomes == ["exists"]


def test_where_its_target_is_refused_by_then_the_next_best_is_tried(unknown: Unknown) -> None:
    scene = unknown.scene
    other = scene.sensor(sessions=3)
    scene.configure([unknown.target, other])
    unknown.refuse(1)
    unknown.at_create(2, lambda: scene.quota.update({unknown.target: 0}))
    assert scene.run(unknown.instance).entry["target_id"] == other
    assert unknown.sent() == 3


@pytest.mark.parametrize("fault", ["throttled", "server error"])
def test_where_it_cannot_be_said_whether_it_is_gone_it_is_failed(
    unknown: Unknown, fault: str
) -> None:
    unknown.refuse()
    unknown.at_create(4, lambda: FAULTS[fault](unknown.scene, INSTANCES))
    assert error_of(running_event(unknown.instance)).startswith("1 failed")


def test_unknown_and_refused_ones_are_looked_up_together_and_their_neighbours_mirrored(
    unknown: Unknown, scene: Scene, no_sleep: Sleeps
) -> None:
    refused, *others = scene.instances(13)
    refuse(scene, "SomethingNew", *scene.interfaces_of(refused))
    unknown.refuse()
    event = sqs_event(*map(running_event, [unknown.instance, refused, *others]))
    assert (deliver(event).again, scene.count(SESSIONS), no_sleep.seconds) == ([0], 4, [1.0, 1.0])
    assert len(scene.sessions()) == 12


# --------------------------------------------------------------------------------------
# AWS creates nothing at all
# --------------------------------------------------------------------------------------

TOTAL_CODES = [
    "TrafficMirrorSessionLimitExceeded",
    "InvalidTrafficMirrorFilterId.NotFound",
    "InvalidTrafficMirrorFilter",
]


@pytest.mark.parametrize("code", TOTAL_CODES)
def test_nothing_more_is_created_after(scene: Scene, code: str) -> None:
    refuse(scene, code)
    scene.configure([scene.sensor(), scene.sensor(groups=[scene.group()])])
    answer = scene.run({"instance-ids": scene.instances(110)})
    named = [code in entry["reason"] for entry in answer.interfaces]
    assert (answer.status, answer.outcomes, named) == (400, ["unmirrored"] * 110, [True] * 110)
    stages = {tuple(row["stage"] for row in entry["sensors"]) for entry in answer.interfaces}
    assert stages == {("create", "security_group")}
    assert 1 <= scene.count(CREATE) <= AT_ONCE  # what was on its way already


def test_after_that_what_no_sensor_can_take_keeps_its_own_reason(scene: Scene) -> None:
    scene.account_quota = 0
    scene.configure(scene.sensor())
    words = {
        scene.instance(): "TrafficMirrorSessionLimitExceeded",
        scene.instance(zone="b"): "zone",
        scene.instance(state="stopped"): "stopped",
    }
    answer = scene.run({"instance-ids": list(words)})
    assert [i for i, word in words.items() if word not in answer.of(i)["reason"]] == []


def test_a_filter_that_does_not_exist_is_named(scene: Scene) -> None:
    scene.configure(scene.sensor(), filter_id="tmf-00000000000000000")
    reason = scene.run(scene.instance()).entry["reason"]
    wanted = ("InvalidTrafficMirrorFilterId.NotFound", "tmf-00000000000000000")
    assert missing(reason, *wanted) == []


# --------------------------------------------------------------------------------------
# AWS refuses for another reason: another invocation may have been faster
# --------------------------------------------------------------------------------------

OTHER_CODES = [
    "InvalidParameterValue",
    "TrafficMirrorSessionsPerInterfaceLimitExceeded",
    "AuthFailure",
    "SomethingNew",
]


class FasterInvocation:
    """Creates a session to `target` for every interface, just before ours.

    It takes `lag` looks until the session shows.
    """

    def __init__(self, scene: Scene, target: str, lag: int = 0) -> None:
        self.scene, self.target, self.lag = scene, target, lag
        scene.gates.append(self)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        if operation == CREATE:
            self.scene.session(parameters["NetworkInterfaceId"], self.target, lag=self.lag)


LAGS = [(0, "exists", 1), (1, "exists", 2), (2, "exists", 3), (3, "unmirrored", 3)]


@pytest.mark.parametrize("ours", [True, False], ids=["our target", "another target"])
@pytest.mark.parametrize(("lag", "outcome", "looks"), LAGS)
def test_another_invocation_was_faster(
    scene: Scene, no_sleep: Sleeps, lag: int, outcome: str, looks: int, ours: bool
) -> None:
    """It may take some looks until its session shows."""
    target, other = scene.sensor(), scene.sensor()
    FasterInvocation(scene, target if ours else other, lag)
    scene.configure(target)
    entry = scene.run(scene.instance()).entry
    found = (entry["outcome"], scene.count(SESSIONS) - 1, no_sleep.seconds)
    assert found == (outcome, looks, [1.0] * (looks - 1))
    if outcome == "exists":
        (session,) = scene.sessions()
        shown = (entry["session_id"], entry["target_id"], entry["sensors"])
        made = (session["TrafficMirrorSessionId"], session["TrafficMirrorTargetId"])
        assert (shown, "not one of our targets" in entry["reason"]) == ((*made, []), not ours)


@pytest.mark.parametrize("code", OTHER_CODES)
def test_without_a_session_it_is_unmirrored_and_no_other_sensor_is_tried_after(
    scene: Scene, no_sleep: Sleeps, code: str
) -> None:
    refuse(scene, code)
    scene.configure([scene.sensor(), scene.sensor(sessions=1), scene.sensor(zone="b")])
    answer = scene.run(scene.instance())
    assert answer.outcomes == ["unmirrored"]
    assert missing(answer.entry["reason"], code, f"Simulated {code}") == []
    assert (answer.stages, scene.count(CREATE)) == (["create", "(eligible)", "zone"], 1)


def test_a_token_answered_with_a_session_to_another_target_means_that_it_exists(
    scene: Scene,
) -> None:
    target, instance = scene.sensor(), scene.instance()
    session = scene.session(scene.first_interface(instance), scene.sensor(), 9, lag=5)
    (view,) = scene.sessions()

    scene.show(CREATE, lambda answer: answer.update(TrafficMirrorSession=view))
    scene.configure(target)
    entry = scene.run(instance).entry
    assert (entry["outcome"], entry["session_id"]) == ("exists", session)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_for_lack_of_authority_over_one_interface_is_final(
    scene: Scene, no_sleep: Sleeps, status: int
) -> None:
    scene.configure(scene.sensor(quota=100))
    instance, *others = scene.instances(12)
    refuse(scene, "AuthFailure", scene.first_interface(instance), status=status)
    answer = scene.run({"instance-ids": [instance, *others]})
    assert answer.outcomes == ["unmirrored"] + ["created"] * 11
    assert "AuthFailure" in answer.interfaces[0]["reason"]


@pytest.mark.parametrize("operation", [INSTANCES, TARGETS, SESSIONS])
def test_lack_of_authority_at_a_read_is_a_failure(scene: Scene, operation: str) -> None:
    scene.configure(scene.sensor())
    scene.fail(operation, "AuthFailure", status=401)
    error = error_of(running_event(scene.instance()))
    assert missing(error, "1 failed", "AuthFailure") == []


# --------------------------------------------------------------------------------------
# What is no refusal at all
# --------------------------------------------------------------------------------------

# Codes that botocore would send again, with a status that says otherwise.
NOT_FINAL = [
    *("RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete", "InternalError"),
    *("LimitExceededException", "BandwidthLimitExceeded", "SlowDown", "RequestLimitExceeded"),
    *("Throttling", "ThrottlingException", "ThrottledException", "EC2ThrottledException"),
    *("RequestThrottledException", "RequestThrottled", "TooManyRequestsException"),
    *("ProvisionedThroughputExceededException", "TransactionInProgressException"),
]
WITHOUT_CODE = {
    "nothing": b"",
    "a page": b"<html><body><h1>Not today</h1><br></body></html>",
    "an error without a code": b"<Response><Errors><Error/></Errors></Response>",
}
NO_ERRORS = {
    "a page that is XML": b"<html><body><h1>Not today</h1></body></html>",
    "text": b"Forbidden",
    "no error at all": b"<Response/>",
    "JSON": b'{"message": "no"}',
}
EMPTY_ERRORS = {
    "an empty error": b"<Error></Error>",
    "an empty code": b"<Response><Errors><Error><Code/></Error></Errors></Response>",
    "a blank code": b"<Response><Errors><Error><Code> </Code></Error></Errors></Response>",
}
# The status and the page of the answer.
PROXIES: dict[str, tuple[int, bytes]] = {
    f"{status} with {name}": (status, page)
    for status in (400, 403, 407, 429, 500, 502, 503, 504)
    for name, page in (WITHOUT_CODE | (EMPTY_ERRORS if status == 400 else NO_ERRORS)).items()
}


# botocore sends it again, whatever the code.
PROXIES["429 with a code"] = (429, PROXIES["400 with a blank code"][1].replace(b" ", b"Other"))


@pytest.mark.parametrize("code", NOT_FINAL)
def test_it_is_not_final(scene: Scene, no_sleep: Sleeps, code: str) -> None:
    refuse(scene, code, status=500 if code.startswith("Internal") else 400)
    scene.configure([scene.sensor(), scene.sensor(sessions=1)])
    instance = scene.instance()
    error = error_of(running_event(instance))
    wanted = ("1 failed", scene.first_interface(instance), code)
    assert missing(error, *wanted) == []
    assert deliver(sqs_event(running_event(instance))).again == [0]


@pytest.mark.parametrize("code", ["RequestTimeout", "RequestTimeoutException", "InternalError"])
def test_what_was_carried_out_all_the_same_is_found(scene: Scene, code: str) -> None:
    scene.configure(scene.sensor())
    refuse(scene, code, status=500 if code == "InternalError" else 408, lose_answer=True)
    assert is_the_only_session(scene, scene.run(scene.instance()).entry)


@pytest.mark.parametrize(("status", "page"), PROXIES.values(), ids=PROXIES.keys())
def test_a_proxys_answer_is_not_final(
    scene: Scene, no_sleep: Sleeps, status: int, page: bytes
) -> None:
    scene.fail(CREATE)  # the create has not reached EC2
    scene.page_instead(CREATE, status, page)
    scene.configure(scene.sensor())
    instance = scene.instance()
    error = error_of(running_event(instance))
    assert ("1 failed" in error, scene.first_interface(instance) in error) == (True, True)
    assert deliver(sqs_event(running_event(instance))).again == [0]


@pytest.mark.parametrize(("status", "page"), PROXIES.values(), ids=PROXIES.keys())
def test_behind_a_proxys_answer_a_session_may_have_been_created(
    scene: Scene, no_sleep: Sleeps, status: int, page: bytes
) -> None:
    scene.page_instead(CREATE, status, page)
    scene.configure(scene.sensor())
    assert is_the_only_session(scene, scene.run(scene.instance()).entry)


# --------------------------------------------------------------------------------------
# A create that is denied
# --------------------------------------------------------------------------------------

ENCODED = "Zm9v-X_" * 60
CALLER = f"arn:aws:sts::{ACCOUNT_ID}:assumed-role/traffic-mirror/traffic-mirror"
SESSION_ARN = f"arn:aws:ec2:{REGION}:{ACCOUNT_ID}:traffic-mirror-session/*"


def denial(action: str, why: str) -> str:
    """What EC2 says; the encoded part only the operator can decode, at some effort."""
    return (
        f"You are not authorized to perform this operation. User: {CALLER} is not authorized to "
        f"perform: {action} on resource: {SESSION_ARN} {why}. Encoded authorization failure "
        f"message: {ENCODED}"
    )


ACTIONS = SESSION_ACTION, TAGS_ACTION = "ec2:CreateTrafficMirrorSession", "ec2:CreateTags"


# What AWS says; what the error names of it, and what it does not name.
DENIALS: dict[str, tuple[str, list[str], list[str]]] = {
    f"{action}, {why}": (denial(action, f"{how} {why}"), [action, SESSION_ARN, why], [other])
    for action, other in ((SESSION_ACTION, TAGS_ACTION), (TAGS_ACTION, SESSION_ACTION))
    for how, why in (
        ("with an explicit deny in a", "service control policy"),
        ("because no", "permissions boundary allows the action"),
        ("because no", "identity-based policy allows the action"),
    )
} | {
    name: (f"You are not authorized to perform this operation.{more}", [*ACTIONS], [])
    for name, more in {
        "AWS does not say": f" Encoded authorization failure message: {ENCODED}",
        "AWS says nothing more": "",
    }.items()
}


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AccessDenied"])
@pytest.mark.parametrize(("message", "named", "unnamed"), DENIALS.values(), ids=DENIALS.keys())
def test_a_denied_create_names_what_aws_says_is_missing(
    scene: Scene,
    caplog: pytest.LogCaptureFixture,
    message: str,
    named: list[str],
    unnamed: list[str],
    code: str,
) -> None:
    refuse(scene, code, status=403, message=message)
    scene.configure(scene.sensor())
    instance = scene.instance()
    error = error_of(running_event(instance))
    texts = [error, *(r.getMessage() for r in caplog.records if instance in r.getMessage())]
    assert (len(texts), "1 failed" in error) == (2, True)
    for text in texts:
        assert missing(text, *named) == []
        assert [word for word in [*unnamed, ENCODED[:20]] if word in text] == []


def test_a_denied_create_is_delivered_again_and_its_neighbours_are_tried(scene: Scene) -> None:
    """A policy may deny by tag: what is denied for one need not be denied for the next."""
    scene.configure(scene.sensor(quota=100))
    instances = scene.instances(12)
    denied = scene.first_interface(instances[3])
    refuse(scene, "UnauthorizedOperation", denied, status=403)
    assert deliver(sqs_event(*map(running_event, instances))).again == [3]
    assert len(scene.sessions()) == 11


TEXTS = ["line one\nERROR line two", "a\r\nb", "\x1b[31mred", "tab\there", "nel\x85x", "\u2028"]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize("code", ["UnauthorizedOperation", "SomethingNew", "InternalError"])
def test_what_aws_says_is_shown_on_one_line(
    scene: Scene,
    caplog: pytest.LogCaptureFixture,
    no_sleep: Sleeps,
    code: str,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_request = botocore.endpoint.Endpoint.make_request

    def refused(endpoint: Any, operation_model: Any, request: Any) -> Any:
        response, answer = make_request(endpoint, operation_model, request)
        if "Error" in answer:
            answer["Error"]["Message"] = text
        return response, answer

    caplog.set_level("DEBUG", "lambda_traffic_mirror")
    monkeypatch.setattr(botocore.endpoint.Endpoint, "make_request", refused)
    refuse(scene, code, status=500 if code == "InternalError" else 400)
    scene.configure(scene.sensor())
    delivery = deliver(running_event(scene.instance()))
    texts = [r.getMessage() for r in caplog.records if r.name == "lambda_traffic_mirror"]
    if delivery.result:
        entry = delivery.answer.entry
        texts += [entry["reason"], entry["sensors"][0]["reason"]]
    else:
        texts.append(delivery.error)
    assert [text for text in texts if len(text.splitlines()) != 1 or "\x1b" in text] == []
