"""How the session is created, and what follows from each kind of refusal by AWS.

test_rounds.py has what many creates at a time add, test_races.py other invocations.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import Counter
from collections.abc import Callable
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
from calls import CREATE, INSTANCES, SESSIONS, TARGETS
from conftest import Clock, Scene, deliver, error_of, missing

import lambda_traffic_mirror as function

AT_ONCE = 10  # creates that are under way at a time

pytestmark = pytest.mark.usefixtures("shared_client", "clock")


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


def at_create(scene: Scene, number: int, act: Callable[[], object]) -> None:
    """Do this when the n-th create is sent."""
    sent = itertools.count(1)
    scene.gates.append(lambda call, _: call == CREATE and next(sent) == number and act())


# --------------------------------------------------------------------------------------
# What is created
# --------------------------------------------------------------------------------------


def test_the_session_is_created_with_exactly_these_parameters(scene: Scene) -> None:
    target, instance = scene.sensor(), scene.instance()
    numbers = {"SESSION_NUMBER": "7", "VIRTUAL_NETWORK_ID": "0", "PACKET_LENGTH": "256"}
    scene.configure(target, **numbers, SESSION_TAGS="team=net=work,Empty=")
    interface = scene.run(instance).entry["interface_id"]
    (parameters,) = created(scene)
    tags = {"Name": f"eh-mirror-{interface[4:8]}{target[4:8]}", "team": "net=work", "Empty": ""}
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    assert parameters == {
        "NetworkInterfaceId": interface,
        "TrafficMirrorTargetId": target,
        "TrafficMirrorFilterId": scene.filter_id,
        "SessionNumber": 7,
        "VirtualNetworkId": 0,
        "PacketLength": 256,
        "TagSpecifications": [{"ResourceType": "traffic-mirror-session", "Tags": pairs}],
        "ClientToken": parameters["ClientToken"],
    }


def test_the_name_tag_is_made_of_both_ids(scene: Scene) -> None:
    backend, instance = scene._backend, scene.instance()
    interface, target = "eni-055061bf5573d0a3b", "tmt-0bce8038d06d6c745"
    for resources, old, new in (
        (backend.traffic_mirror_targets, scene.sensor(), target),
        (backend.enis, scene.first_interface(instance), interface),
    ):
        resources[new] = resources.pop(old)
        resources[new].id = new
    scene.configure(target)
    assert scene.run(instance).entry["session_name"] == "eh-mirror-05500bce"


# --------------------------------------------------------------------------------------
# Alongside another tool's sessions
# --------------------------------------------------------------------------------------


class TwoTools:
    """An interface whose first session goes to the target of another tool."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.ours, self.theirs = scene.sensor(), scene.sensor(sessions=2)
        self.instance = scene.instance()
        self.interface = scene.first_interface(self.instance)
        self.session = scene.session(self.interface, self.theirs)

    def alongside(self, value: str = "true", number: int = 2, **variables: str) -> None:
        number_text = str(number)
        self.scene.configure(
            self.ours, MIRROR_ALONGSIDE=value, SESSION_NUMBER=number_text, **variables
        )


@pytest.fixture
def two_tools(scene: Scene) -> TwoTools:
    return TwoTools(scene)


@pytest.mark.parametrize(("value", "first"), [("true", "created"), ("false", "exists")])
def test_with_mirror_alongside_there_is_one_session_of_ours_besides_the_other_tools(
    two_tools: TwoTools, scene: Scene, value: str, first: str
) -> None:
    two_tools.alongside(value)
    entries = [scene.run(two_tools.instance).entry for _ in range(3)]
    assert [entry["outcome"] for entry in entries] == [first, "exists", "exists"]
    target = two_tools.ours if first == "created" else two_tools.theirs
    shown = {(entry["session_id"], entry["target_id"]) for entry in entries}
    assert (len(shown), shown.pop()[1]) == (1, target)
    assert scene.sessions_of(two_tools.instance) == [1 + (first == "created")]


# Numbers of the other tool's further sessions, and SESSION_NUMBER.
NO_ROOM = {"the number is taken": ((), 1), "there are three sessions": ((3, 4), 2)}


@pytest.mark.parametrize("event", ["event", "dry run", "sweep"])
@pytest.mark.parametrize(("theirs", "number"), NO_ROOM.values(), ids=NO_ROOM)
def test_where_there_is_no_room_for_one_more_session_no_create_is_sent(
    two_tools: TwoTools, scene: Scene, theirs: tuple[int, ...], number: int, event: str
) -> None:
    for other in theirs:
        scene.session(two_tools.interface, two_tools.theirs, other)
    two_tools.alongside(number=number, EXCLUDE_TAGS="sensor")
    sent: dict[str, Any] = running_event(two_tools.instance)
    sent = scheduled_event() if event == "sweep" else sent | {"dry_run": event == "dry run"}
    entry = scene.run(sent).of(two_tools.instance)
    assert (entry["outcome"], entry["sensors"], scene.count(CREATE)) == ("unmirrored", [], 0)
    assert two_tools.session in entry["reason"]


def test_alongside_a_session_of_the_other_tool_is_none_that_a_faster_invocation_created(
    two_tools: TwoTools, scene: Scene
) -> None:
    two_tools.alongside()
    at_create(scene, 1, lambda: scene.session(two_tools.interface, two_tools.theirs, 2))
    entry = scene.run(two_tools.instance).entry
    assert (entry["outcome"], "InvalidParameterValue" in entry["reason"]) == ("unmirrored", True)


# --------------------------------------------------------------------------------------
# ClientToken
# --------------------------------------------------------------------------------------


class Tokens:
    """Mirrors the same interface again and again, and shows the tokens. AWS refuses each create, so
    that there is no session the next time."""

    def __init__(self, scene: Scene) -> None:
        refuse(scene, "TrafficMirrorSessionLimitExceeded")
        self.scene = scene
        self.instance, self.target = scene.instance(), scene.sensor()

    def of(self, event_id: object, context: object = None, **variables: str) -> str:
        self.scene.configure(self.target, **variables)
        self.scene.forget_calls()
        event = running_event(self.instance) | {"id": event_id}
        self.scene.run({k: v for k, v in event.items() if v is not None}, context)
        return str(created(self.scene)[0]["ClientToken"])


@pytest.fixture
def tokens(scene: Scene) -> Tokens:
    return Tokens(scene)


def test_the_same_event_has_the_same_token_whoever_delivers_it(tokens: Tokens) -> None:
    token = tokens.of("event-1")
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert tokens.of("event-1") == token


@pytest.mark.parametrize("event_id", [None, "", 7, ["event-1"]], ids=ascii)
def test_without_a_text_as_event_id_the_request_id_takes_its_place_in_the_token(
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
    "value of a session tag": ("event-1", {"SESSION_TAGS": "team=b"}),
    "key of a session tag": ("event-1", {"SESSION_TAGS": "group=a"}),
}


@pytest.mark.parametrize(("event_id", "variables"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_the_token_differs_with_the(
    tokens: Tokens, event_id: str, variables: dict[str, str]
) -> None:
    usual = {"SESSION_TAGS": "team=a"}
    assert tokens.of("event-1", **usual) != tokens.of(event_id, **(usual | variables))


def test_the_token_differs_with_interface_and_target(scene: Scene) -> None:
    full = [scene.sensor(quota=0) for _ in range(2)]
    scene.configure([*full, scene.sensor(sessions=1)])
    scene.run(scene.instance(interfaces=2))
    tokens = {parameters["ClientToken"] for parameters in created(scene)}
    assert len(tokens) == len(created(scene)) == 4


# --------------------------------------------------------------------------------------
# AWS refuses because of the target: the next best one
# --------------------------------------------------------------------------------------

TARGET_CODES = [
    "TrafficMirrorSourcesPerTargetLimitExceeded",
    "TrafficMirrorSessionsPerTargetLimitExceeded",
    "InvalidTrafficMirrorTarget",
    "InvalidTrafficMirrorTargetId.NotFound",
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
    assert missing(answer.entry["reason"], "create", TARGET_CODES[0]) == []


def test_a_refused_sensor_is_tried_again_in_the_next_invocation_only(scene: Scene) -> None:
    full, other = scene.sensor(quota=0), scene.sensor(sessions=3, quota=1_000)
    scene.configure([full, other])
    answer = scene.run({"instance-ids": scene.instances(120)})
    tried = Counter(parameters["TrafficMirrorTargetId"] for parameters in created(scene))
    assert (answer.summary, tried[other]) == ({"created": 120}, 120)
    assert 1 <= tried[full] <= AT_ONCE  # those that were on their way already
    scene.quota[full] = 1
    assert scene.run(scene.instance()).entry["target_id"] == full


# --------------------------------------------------------------------------------------
# AWS does not mirror the interface, or its instance type
# --------------------------------------------------------------------------------------

NOT_SUPPORTED = "NetworkInterfaceNotSupported"
IN_USE = "InterfaceInUseByTrafficMirrorTarget"  # it is a sensor of another tool's


@pytest.mark.parametrize("code", [NOT_SUPPORTED, IN_USE])
def test_what_aws_does_not_mirror_is_skipped_and_not_looked_up(
    scene: Scene, clock: Clock, code: str
) -> None:
    refuse(scene, code)
    scene.configure([scene.sensor(), scene.sensor()])
    answer = scene.run(scene.instance())
    assert (answer.status, answer.outcomes, clock.seconds) == (200, ["skipped"], [])
    assert code in answer.entry["reason"]
    assert (scene.count(CREATE), scene.count(SESSIONS)) == (1, 1)


def view_of(instance: str, change: Callable[[dict[str, Any]], Any]) -> Callable[..., None]:
    """What DescribeInstances shows of this instance is changed."""

    def changed(answer: dict[str, Any]) -> None:
        views = (view for rows in answer["Reservations"] for view in rows["Instances"])
        for view in views:
            if view["InstanceId"] == instance:
                change(view)

    return changed


def attached(**members: Any) -> Callable[[dict[str, Any]], None]:
    return lambda view: view["NetworkInterfaces"][0]["Attachment"].update(members)


def managed(says: bool) -> Callable[[dict[str, Any]], None]:
    return lambda view: view.update(Operator={"Managed": says, "Principal": "eks.amazonaws.com"})


def without_type(view: dict[str, Any]) -> None:
    del view["InstanceType"]


def as_it_is(view: dict[str, Any]) -> None:
    """Nothing is changed."""


OTHERS = 14  # more than go out together
# The code, which of the instance's interfaces is refused, how DescribeInstances shows the instance,
# and whether the other instances of its type are set aside.
ASIDE: dict[str, tuple[str, int, Callable[[dict[str, Any]], Any], bool]] = {
    "the first interface": (NOT_SUPPORTED, 0, as_it_is, True),
    "the first interface, not managed": (NOT_SUPPORTED, 0, managed(says=False), True),
    "of an instance that a service manages": (NOT_SUPPORTED, 0, managed(says=True), False),
    "at device index 1": (NOT_SUPPORTED, 0, attached(DeviceIndex=1), False),
    "on network card 1": (NOT_SUPPORTED, 0, attached(NetworkCardIndex=1), False),
    "the second interface": (NOT_SUPPORTED, 1, as_it_is, False),
    "of an instance without a type": (NOT_SUPPORTED, 0, without_type, False),
    "a sensor of another tool": (IN_USE, 0, as_it_is, False),
}


@pytest.mark.parametrize(("code", "index", "change", "aside"), ASIDE.values(), ids=ASIDE)
def test_whether_an_interface_that_aws_does_not_mirror_sets_its_instance_type_aside(
    scene: Scene, code: str, index: int, change: Callable[[dict[str, Any]], Any], aside: bool
) -> None:
    """The others that are on their way wait for the refusal."""
    scene.configure(scene.sensor(quota=1_000))
    instance, others = scene.instance(interfaces=2), scene.instances(OTHERS)
    interface = scene.interfaces_of(instance)[index]
    scene.show(INSTANCES, view_of(instance, change))
    is_refused = threading.Event()

    def gate(operation: str, parameters: dict[str, Any]) -> None:
        if operation != CREATE:
            return
        if parameters["NetworkInterfaceId"] == interface:
            is_refused.set()
            raise Refusal(code)
        is_refused.wait(1)
        threading.Event().wait(0.02)  # until the refusal has come back

    scene.gates.append(gate)
    answer = scene.run({"instance-ids": [instance, *others]})
    outcomes = {entry["interface_id"]: entry["outcome"] for entry in answer.interfaces}
    assert outcomes.pop(interface) == "skipped"
    assert "skipped" in outcomes.values() if aside else set(outcomes.values()) == {"created"}
    assert scene.count(CREATE) <= (AT_ONCE if aside else 2 + OTHERS)


@pytest.mark.parametrize(("minutes", "creates"), [(0, 0), (59, 0), (61, 1), (24 * 60, 1)], ids=str)
@pytest.mark.parametrize("kind", ["event", "dry run", "sweep"])
def test_an_interface_that_aws_does_not_mirror_is_remembered_for_an_hour(
    scene: Scene, clock: Clock, kind: str, minutes: int, creates: int
) -> None:
    refuse(scene, NOT_SUPPORTED)
    scene.configure(scene.sensor(), EXCLUDE_TAGS="sensor")
    instance = scene.instance()
    scene.run(instance)
    scene.forget_calls()
    clock.advance(60 * minutes)
    event = {**running_event(instance), "dry_run": kind == "dry run"}
    answer = scene.run(scheduled_event() if kind == "sweep" else event)
    if creates and kind == "dry run":
        assert answer.of(instance)["outcome"] == "planned"
        return
    assert (answer.of(instance)["outcome"], scene.count(CREATE)) == ("skipped", creates)
    assert NOT_SUPPORTED in answer.of(instance)["reason"]


def test_being_skipped_does_not_prolong_the_hour_and_its_type_is_not_remembered(
    scene: Scene, clock: Clock
) -> None:
    refuse(scene, NOT_SUPPORTED, times=1)
    scene.configure(scene.sensor())
    one, other = scene.instances(2)
    outcomes = []
    for _ in range(3):
        outcomes += scene.run(one).outcomes
        clock.advance(31 * 60)
    assert outcomes == ["skipped", "skipped", "created"]
    assert scene.run(other).outcomes == ["created"]


def test_what_was_remembered_for_an_hour_takes_no_memory_afterwards(
    scene: Scene, sensor: str, clock: Clock
) -> None:
    refuse(scene, NOT_SUPPORTED)
    for instance in scene.instances(3):
        scene.run(instance)
        clock.advance(31 * 60)
    assert len(function._unsupported) == 2


# --------------------------------------------------------------------------------------
# EC2 does not know the interface yet, or it is gone
# --------------------------------------------------------------------------------------

UNKNOWN_INTERFACE = "InvalidNetworkInterfaceID.NotFound"


@pytest.mark.parametrize("times", [1, 2])
def test_an_interface_that_ec2_does_not_know_yet_is_created_in_a_round_that_follows(
    scene: Scene, sensor: str, clock: Clock, times: int
) -> None:
    refuse(scene, UNKNOWN_INTERFACE, times=times)
    answer = scene.run(scene.instance())
    assert (answer.outcomes, answer.stages) == (["created"], ["(selected)"])
    assert (scene.count(CREATE), clock.seconds) == (1 + times, [1.0] * times)


@pytest.mark.parametrize("code", [UNKNOWN_INTERFACE, "InvalidNetworkInterfaceId.NotFound"])
def test_an_interface_that_stays_unknown_after_two_more_rounds_is_failed_never_unmirrored(
    scene: Scene, sensor: str, code: str
) -> None:
    refuse(scene, code)
    instance = scene.instance()
    error = error_of(instance)
    assert missing(error, "1 failed", scene.first_interface(instance), code) == []
    assert scene.count(CREATE) == 3
    assert deliver(sqs_event(running_event(instance))).again == [0]


def test_what_is_gone_meanwhile_is_failed_and_skipped_when_it_is_delivered_again(
    scene: Scene, sensor: str
) -> None:
    instance = scene.instance()
    at_create(scene, 1, lambda: scene.terminate(instance))
    assert error_of(instance).startswith("1 failed")
    assert scene.run(instance).outcomes == ["skipped"]


def test_an_unknown_interface_whose_session_shows_meanwhile_exists(
    scene: Scene, sensor: str
) -> None:
    instance = scene.instance()
    refuse(scene, UNKNOWN_INTERFACE)
    at_create(scene, 2, lambda: scene.session(scene.first_interface(instance), sensor))
    assert scene.run(instance).outcomes == ["exists"]


def test_where_the_target_of_an_unknown_interface_is_refused_by_then_the_next_best_is_tried(
    scene: Scene,
) -> None:
    target, other = scene.sensor(), scene.sensor(sessions=3)
    scene.configure([target, other])
    refuse(scene, UNKNOWN_INTERFACE, times=1)
    at_create(scene, 2, lambda: scene.quota.update({target: 0}))
    assert (scene.run(scene.instance()).entry["target_id"], scene.count(CREATE)) == (other, 3)


def test_unknown_and_refused_ones_are_looked_up_together_and_their_neighbours_mirrored(
    scene: Scene, sensor: str
) -> None:
    unknown, refused, *others = scene.instances(14)
    refuse(scene, UNKNOWN_INTERFACE, scene.first_interface(unknown))
    refuse(scene, "SomethingNew", scene.first_interface(refused))
    event = sqs_event(*map(running_event, [unknown, refused, *others]))
    assert (deliver(event).again, scene.count(SESSIONS)) == ([0], 4)
    assert scene.sessions_of(unknown, refused, *others) == [0, 0, *[1] * 12]


# --------------------------------------------------------------------------------------
# AWS creates nothing at all
# --------------------------------------------------------------------------------------

TOTAL_CODES = [
    "TrafficMirrorSessionLimitExceeded",
    "TagPolicyViolation",
    "InvalidTrafficMirrorFilterId.NotFound",
    "InvalidTrafficMirrorFilter",
]


@pytest.mark.parametrize("code", TOTAL_CODES)
def test_nothing_more_is_created_after(scene: Scene, code: str) -> None:
    refuse(scene, code)
    scene.configure([scene.sensor(), scene.sensor(groups=[scene.group()])])
    answer = scene.run({"instance-ids": scene.instances(110)})
    assert (answer.status, answer.summary) == (400, {"unmirrored": 110})
    assert [e["instance_id"] for e in answer.interfaces if code not in e["reason"]] == []
    stages = {tuple(row["stage"] for row in entry["sensors"]) for entry in answer.interfaces}
    assert stages == {("create", "security_group")}
    assert 1 <= scene.count(CREATE) <= AT_ONCE  # what was on its way already


def test_when_the_account_is_full_what_no_sensor_can_take_keeps_its_own_reason(
    scene: Scene,
) -> None:
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
    assert missing(reason, "InvalidTrafficMirrorFilterId.NotFound", "tmf-00000000000000000") == []


# --------------------------------------------------------------------------------------
# AWS refuses for another reason: another invocation may have been faster
# --------------------------------------------------------------------------------------

# How many looks do not show the faster session yet; the outcome, and the looks that are taken.
LAGS = [(0, "exists", 1), (1, "exists", 2), (2, "exists", 3), (3, "unmirrored", 3)]


@pytest.mark.parametrize("ours", [True, False], ids=["our target", "another target"])
@pytest.mark.parametrize(("lag", "outcome", "looks"), LAGS)
def test_the_session_of_a_faster_invocation_is_looked_for_three_times_a_second_apart(
    scene: Scene, clock: Clock, lag: int, outcome: str, looks: int, ours: bool
) -> None:
    target, other, instance = scene.sensor(), scene.sensor(), scene.instance()
    goes_to = target if ours else other
    at_create(scene, 1, lambda: scene.session(scene.first_interface(instance), goes_to, lag=lag))
    scene.configure(target)
    entry = scene.run(instance).entry
    found = (entry["outcome"], scene.count(SESSIONS) - 1, clock.seconds)
    assert found == (outcome, looks, [1.0] * (looks - 1))
    if outcome == "exists":
        (session,) = scene.sessions()
        shown = (entry["session_id"], entry["target_id"], entry["sensors"])
        assert shown == (session["TrafficMirrorSessionId"], goes_to, [])
        assert ("not one of our targets" in entry["reason"]) == (not ours)
    else:
        assert missing(entry["reason"], "InvalidParameterValue", "Session number 1") == []


@pytest.mark.parametrize("code", ["InvalidParameterValue", "AuthFailure", "SomethingNew"])
def test_without_a_session_it_is_unmirrored_and_no_other_sensor_is_tried_after(
    scene: Scene, code: str
) -> None:
    refuse(scene, code)
    scene.configure([scene.sensor(), scene.sensor(sessions=1), scene.sensor(zone="b")])
    answer = scene.run(scene.instance())
    assert answer.outcomes == ["unmirrored"]
    assert missing(answer.entry["reason"], code, f"Simulated {code}") == []
    assert (answer.stages, scene.count(CREATE)) == (["create", "(eligible)", "zone"], 1)


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ("You do not have access to this resource", "unmirrored"),
        ("AWS was not able to validate the provided access credentials", "failed"),
    ],
)
def test_auth_failure_at_a_create_is_about_the_interface_unless_it_speaks_of_credentials(
    scene: Scene, caplog: pytest.LogCaptureFixture, message: str, outcome: str, status: int
) -> None:
    caplog.set_level("INFO", "lambda_traffic_mirror")
    scene.configure(scene.sensor(quota=100))
    instance, *others = scene.instances(12)
    interface = scene.first_interface(instance)
    refuse(scene, "AuthFailure", interface, status=status, message=message)
    again = deliver(sqs_event(*map(running_event, [instance, *others]))).again
    outcomes = {r.interface_id: r.outcome for r in caplog.records if hasattr(r, "outcome")}
    assert (outcomes.pop(interface), again) == (outcome, [0] if outcome == "failed" else [])
    assert set(outcomes.values()) == {"created"}


@pytest.mark.parametrize("operation", [INSTANCES, TARGETS, SESSIONS])
def test_auth_failure_at_a_read_is_a_failure(scene: Scene, sensor: str, operation: str) -> None:
    scene.fail(operation, "AuthFailure", status=401)
    assert missing(error_of(scene.instance()), "1 failed", "AuthFailure") == []


# --------------------------------------------------------------------------------------
# What is no refusal at all
# --------------------------------------------------------------------------------------

# Codes that botocore would send again, with a status that says otherwise, and codes that say
# nothing about the call.
NOT_FINAL = [
    *("RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete", "InternalError"),
    *("LimitExceededException", "BandwidthLimitExceeded", "SlowDown", "RequestLimitExceeded"),
    *("Throttling", "ThrottlingException", "ThrottledException", "EC2ThrottledException"),
    *("RequestThrottledException", "RequestThrottled", "TooManyRequestsException"),
    *("ProvisionedThroughputExceededException", "TransactionInProgressException"),
    *("InternalFailure", "ServiceUnavailable", "Unavailable"),
    *("Blocked", "OptInRequired", "PendingVerification"),
    *("RequestExpired", "ExpiredToken", "SignatureDoesNotMatch", "InvalidClientTokenId"),
]


@pytest.mark.parametrize("code", NOT_FINAL)
def test_no_final_refusal_is(scene: Scene, code: str) -> None:
    refuse(scene, code)
    scene.configure([scene.sensor(), scene.sensor(sessions=1)])
    instance = scene.instance()
    wanted = ("1 failed", scene.first_interface(instance), code)
    assert missing(error_of(instance), *wanted) == []
    assert scene.count(CREATE) == 1


# What a proxy answers in AWS's place, by status.
PAGES = {
    "nothing": b"",
    "a page": b"<html><body><h1>Not today</h1><br></body></html>",
    "an empty error": b"<Error></Error>",
    "a blank code": b"<Response><Errors><Error><Code> </Code></Error></Errors></Response>",
}
XML_PAGE = b"<html><body><h1>Not today</h1></body></html>"
CODE = b"<Response><Errors><Error><Code>Other</Code></Error></Errors></Response>"
PROXIES: dict[str, tuple[int, bytes]] = {
    **{f"400 with {name}": (400, page) for name, page in PAGES.items()},
    **{f"{status} with a page": (status, XML_PAGE) for status in (403, 407, 429, 502)},
    "403 with a text": (403, b"Forbidden"),
    "403 with JSON": (403, b'{"message": "no"}'),
    "403 with no error at all": (403, b"<Response/>"),
    "429 with any code": (429, CODE),  # botocore sends it again, whatever the code
    "503 with any code": (503, CODE),
}


@pytest.mark.parametrize(("status", "page"), PROXIES.values(), ids=PROXIES)
@pytest.mark.parametrize("carried_out", [False, True])
def test_an_error_without_a_code_of_ec2_is_no_final_refusal_and_what_it_hid_is_found_later(
    scene: Scene, sensor: str, status: int, page: bytes, carried_out: bool
) -> None:
    if not carried_out:
        scene.fail(CREATE)  # the create does not reach EC2
    scene.page_instead(CREATE, status, page)
    instance = scene.instance()
    assert missing(error_of(instance), "1 failed", scene.first_interface(instance)) == []
    if carried_out:
        assert scene.run(instance).outcomes == ["exists"]
    assert scene.sessions_of(instance) == [int(carried_out)]


# --------------------------------------------------------------------------------------
# A create that is denied
# --------------------------------------------------------------------------------------

ENCODED = "Zm9v-X_" * 60
CALLER = f"arn:aws:sts::{ACCOUNT_ID}:assumed-role/traffic-mirror/traffic-mirror"
SESSION_ARN = f"arn:aws:ec2:{REGION}:{ACCOUNT_ID}:traffic-mirror-session/*"
ACTIONS = SESSION_ACTION, TAGS_ACTION = "ec2:CreateTrafficMirrorSession", "ec2:CreateTags"


def denial(action: str, why: str) -> str:
    """What EC2 says; the encoded part only the operator can decode, at some effort."""
    return (
        f"You are not authorized to perform this operation. User: {CALLER} is not authorized to "
        f"perform: {action} on resource: {SESSION_ARN} {why}. Encoded authorization failure "
        f"message: {ENCODED}"
    )


# What AWS says; what the error names of it, and what it does not name.
DENIALS: dict[str, tuple[str, list[str], list[str]]] = {
    f"{action}, {why}": (denial(action, f"{how} {why}"), [action, SESSION_ARN, why], [other])
    for action, other in (ACTIONS, ACTIONS[::-1])
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
@pytest.mark.parametrize(("message", "named", "unnamed"), DENIALS.values(), ids=DENIALS)
def test_a_denied_create_names_what_aws_says_is_missing(
    scene: Scene, sensor: str, message: str, named: list[str], unnamed: list[str], code: str
) -> None:
    refuse(scene, code, status=403, message=message)
    error = error_of(scene.instance())
    assert missing(error, "1 failed", *named) == []
    assert [word for word in [*unnamed, ENCODED[:20]] if word in error] == []


def test_a_denied_create_is_delivered_again_and_its_neighbours_are_tried(
    scene: Scene, sensor: str
) -> None:
    """A policy may deny by tag: what is denied for one need not be denied for the next."""
    instances = scene.instances(12)
    refuse(scene, "UnauthorizedOperation", scene.first_interface(instances[3]), status=403)
    assert deliver(sqs_event(*map(running_event, instances))).again == [3]
    assert len(scene.sessions()) == 11


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "SomethingNew", "InternalError"])
def test_what_aws_says_is_shown_on_one_line(
    scene: Scene,
    sensor: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
) -> None:
    make_request = botocore.endpoint.Endpoint.make_request

    def refused(endpoint: Any, operation_model: Any, request: Any) -> Any:
        response, answer = make_request(endpoint, operation_model, request)
        if "Error" in answer:
            answer["Error"]["Message"] = "one\nERROR two\r\n\x1b[31mred\ttab\x85nel\u2028end"
        return response, answer

    caplog.set_level("DEBUG", "lambda_traffic_mirror")
    monkeypatch.setattr(botocore.endpoint.Endpoint, "make_request", refused)
    refuse(scene, code)
    delivery = deliver(running_event(scene.instance()))
    texts = [r.getMessage() for r in caplog.records if r.name == "lambda_traffic_mirror"]
    if delivery.result:
        entry = delivery.answer.entry
        texts += [entry["reason"], entry["sensors"][0]["reason"]]
    else:
        texts.append(delivery.error)
    assert any("two" in text for text in texts)
    assert [text for text in texts if len(text.splitlines()) != 1 or "\x1b" in text] == []
