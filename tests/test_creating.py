"""How the session is created, and what happens when AWS refuses."""

from __future__ import annotations

import re
import threading
import time
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
    SimulatedAccount,
    running_event,
    scheduled_event,
    sqs_event,
)
from conftest import Run, Sleeps, answer_of

from lambda_traffic_mirror import MirroringError, lambda_handler

Configure = Callable[..., None]

CREATE = "CreateTrafficMirrorSession"
READ_SESSIONS = "DescribeTrafficMirrorSessions"
AT_ONCE = 10  # creates that are under way at a time


pytestmark = pytest.mark.usefixtures("shared_client")


def created(account: SimulatedAccount) -> list[dict[str, Any]]:
    """The parameters of each create, refused ones too."""
    return [call.parameters for call in account.calls if call.operation == CREATE]


def refuse(
    account: SimulatedAccount,
    code: str,
    *,
    target: str | None = None,
    interfaces: Iterable[str] | None = None,
    times: int | None = None,
    status: int = 400,
) -> None:
    """AWS refuses every create with this code, or those to this target, or of these interfaces."""
    only = None if interfaces is None else set(interfaces)
    account.fail(
        CREATE,
        code,
        status=status,
        times=times,
        where=lambda parameters: (
            target in (None, parameters["TrafficMirrorTargetId"])
            and (only is None or parameters["NetworkInterfaceId"] in only)
        ),
    )


def interface_of(account: SimulatedAccount, instance: str, index: int = 0) -> str:
    return account.interfaces_of(instance)[index]


def again(event: dict[str, Any]) -> list[int]:
    """The positions of the SQS messages that are to be delivered again."""
    result = lambda_handler(event, LambdaContext())
    ids = [record["messageId"] for record in event["Records"]]
    return [ids.index(item["itemIdentifier"]) for item in result["batchItemFailures"]]


def error_of(event: object, context: object = None) -> str:
    """What the handler raises."""
    with pytest.raises(MirroringError) as raised:
        lambda_handler(event, context or LambdaContext())
    return str(raised.value)


Change = Callable[[str, dict[str, Any]], None]


@pytest.fixture
def change_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """AWS's answers, as botocore has read them, go through `change(operation, answer)` first."""

    def change_answers(change: Change) -> None:
        make_request = botocore.endpoint.Endpoint.make_request

        def changed(endpoint: Any, operation_model: Any, request: Any) -> Any:
            response, answer = make_request(endpoint, operation_model, request)
            if response.status_code == 200:
                change(operation_model.name, answer)
            return response, answer

        monkeypatch.setattr(botocore.endpoint.Endpoint, "make_request", changed)

    return change_answers


@pytest.fixture
def replace_page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Whatever AWS answers to an operation, this page arrives instead."""

    def replace_page(operation: str, status: int, page: bytes) -> None:
        read = botocore.endpoint.convert_to_response_dict

        def replaced(response: Any, operation_model: Any) -> Any:
            if operation_model.name == operation:
                response.status_code = status
                return {"status_code": status, "headers": {}, "body": page, "context": {}}
            return read(response, operation_model)

        monkeypatch.setattr(botocore.endpoint, "convert_to_response_dict", replaced)

    return replace_page


# --------------------------------------------------------------------------------------
# What is created
# --------------------------------------------------------------------------------------


def test_the_session_is_created_with_exactly_these_parameters(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    target, instance = account.sensor(), account.instance()
    (interface,) = account.interfaces_of(instance)
    configure(target, SESSION_NUMBER="7", VIRTUAL_NETWORK_ID="4711", PACKET_LENGTH="256")
    run(instance)
    (parameters,) = created(account)
    name = f"eh-mirror-{interface[4:8]}{target[4:8]}"
    tags = {"ResourceType": "traffic-mirror-session", "Tags": [{"Key": "Name", "Value": name}]}
    assert parameters == {
        "NetworkInterfaceId": interface,
        "TrafficMirrorTargetId": target,
        "TrafficMirrorFilterId": account.filter_id,
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


def test_the_name_tag_is_made_of_both_ids(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    target, instance = account.sensor(), account.instance()
    backend = account._backend
    rename(backend.enis, account.interfaces_of(instance)[0], "eni-055061bf5573d0a3b")
    configure(rename(backend.traffic_mirror_targets, target, "tmt-0bce8038d06d6c745"))
    assert run(instance).entry["session_name"] == "eh-mirror-05500bce"


def test_the_session_shows_the_name_that_the_result_shows(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor())
    entry = run(account.instance()).entry
    (session,) = account.sessions()
    assert session["Tags"] == [{"Key": "Name", "Value": entry["session_name"]}]


def test_there_is_one_session_per_interface(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure([account.sensor(), account.sensor()])
    instance = account.instance(interfaces=3)
    for _ in range(2):
        run(instance)
    assert [len(account.sessions(interface_id=i)) for i in account.interfaces_of(instance)] == [
        1,
        1,
        1,
    ]


def tags_of(parameters: dict[str, Any]) -> dict[str, str]:
    """The tags that a create gives to the session."""
    (specification,) = parameters["TagSpecifications"]
    assert specification["ResourceType"] == "traffic-mirror-session"
    tags = {tag["Key"]: tag["Value"] for tag in specification["Tags"]}
    assert len(tags) == len(specification["Tags"])
    return tags


def test_session_tags_come_besides_the_name(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor(), SESSION_TAGS="team=net=work, cost-center=42,Empty=")
    entry = run(account.instance()).entry
    (parameters,) = created(account)
    wanted = {"team": "net=work", "cost-center": "42", "Empty": "", "Name": entry["session_name"]}
    assert tags_of(parameters) == wanted
    (session,) = account.sessions()
    assert {tag["Key"]: tag["Value"] for tag in session["Tags"]} == wanted


def test_a_session_takes_fifty_tags(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    tags = {f"key-{number}": f"value-{number}" for number in range(49)}
    text = ",".join(f"{key}={value}" for key, value in tags.items())
    configure(account.sensor(), SESSION_TAGS=text)
    entry = run(account.instance()).entry
    (parameters,) = created(account)
    assert tags_of(parameters) == tags | {"Name": entry["session_name"]}


# --------------------------------------------------------------------------------------
# Alongside another tool's sessions
# --------------------------------------------------------------------------------------


class TwoTools:
    """An interface whose first sessions go to the targets of another tool."""

    def __init__(self, account: SimulatedAccount, configure: Configure) -> None:
        self.account = account
        self.ours, self.theirs = account.sensor(), account.sensor(sessions=2)
        self.instance = account.instance()
        self.interface = interface_of(account, self.instance)
        self.their_session = account.session(self.interface, self.theirs)
        self.configure = configure

    def alongside(self, value: str = "true", number: int = 2, **variables: str) -> None:
        self.configure(self.ours, MIRROR_ALONGSIDE=value, SESSION_NUMBER=str(number), **variables)

    def our_sessions(self) -> list[dict[str, Any]]:
        return self.account.sessions(interface_id=self.interface, target_id=self.ours)


@pytest.fixture
def two_tools(account: SimulatedAccount, configure: Configure, no_sleep: Sleeps) -> TwoTools:
    return TwoTools(account, configure)


@pytest.mark.parametrize(
    ("value", "outcome"), [("true", "created"), ("false", "exists"), ("", "exists")]
)
def test_a_session_of_ours_is_created_besides_anothers(
    two_tools: TwoTools, run: Run, value: str, outcome: str
) -> None:
    two_tools.alongside(value)
    found = run(two_tools.instance).outcomes
    assert (found, len(two_tools.our_sessions())) == ([outcome], int(outcome == "created"))


def test_besides_it_there_is_one_of_ours_only(two_tools: TwoTools, run: Run) -> None:
    two_tools.alongside()
    entries = [run(two_tools.instance).entry for _ in range(3)]
    assert [entry["outcome"] for entry in entries] == ["created", "exists", "exists"]
    assert {entry["session_id"] for entry in entries} == {entries[0]["session_id"]}
    assert {entry["target_id"] for entry in entries} == {two_tools.ours}


def test_alongside_an_event_may_be_tried_out(two_tools: TwoTools, run: Run) -> None:
    two_tools.alongside(DRY_RUN="true")
    assert (run(two_tools.instance).outcomes, two_tools.our_sessions()) == (["planned"], [])


def test_alongside_a_sweep_creates_too(two_tools: TwoTools, run: Run) -> None:
    two_tools.alongside(EXCLUDE_TAGS="sensor")
    run(scheduled_event())
    assert len(two_tools.our_sessions()) == 1


def test_a_number_that_the_other_tool_uses_is_no_session_of_ours(
    two_tools: TwoTools, run: Run
) -> None:
    """AWS refuses the number; the other tool's session is not what another invocation created."""
    two_tools.alongside(number=1)
    entry = run(two_tools.instance).entry
    assert (entry["outcome"], "InvalidParameterValue" in entry["reason"]) == ("unmirrored", True)


def test_an_interface_that_other_tools_have_filled_is_unmirrored(
    two_tools: TwoTools, run: Run
) -> None:
    for number in (3, 4):
        two_tools.account.session(two_tools.interface, two_tools.theirs, number)
    two_tools.alongside()
    entry = run(two_tools.instance).entry
    code = "TrafficMirrorSessionsPerInterfaceLimitExceeded"
    assert (entry["outcome"], code in entry["reason"]) == ("unmirrored", True)


def test_a_lost_create_is_not_taken_for_the_other_tools_session(two_tools: TwoTools) -> None:
    two_tools.account.time_out(CREATE)
    two_tools.alongside()
    error = error_of(running_event(two_tools.instance))
    assert (error.startswith("1 failed"), two_tools.our_sessions()) == (True, [])


def test_a_lost_create_that_was_carried_out_is_found_alongside(
    two_tools: TwoTools, run: Run
) -> None:
    two_tools.account.time_out(CREATE, lose_answer=True)
    two_tools.alongside()
    entry = run(two_tools.instance).entry
    (session,) = two_tools.our_sessions()
    assert (entry["outcome"], entry["session_id"]) == ("created", session["TrafficMirrorSessionId"])


# --------------------------------------------------------------------------------------
# ClientToken
# --------------------------------------------------------------------------------------


class Tokens:
    """Tries to mirror the same interface again and again, and shows the tokens.

    AWS refuses each create, so that there is no session the next time.
    """

    def __init__(self, account: SimulatedAccount, configure: Configure, run: Run) -> None:
        refuse(account, "TrafficMirrorSessionLimitExceeded")
        self.account, self.configure, self.run = account, configure, run
        self.instance, self.target = account.instance(), account.sensor()
        self.configure(self.target)

    def of(self, event_id: object, context: object = None, **variables: str) -> str:
        self.configure(self.target, **variables)
        event = running_event(self.instance) | {"id": event_id}
        if event_id is None:
            del event["id"]
        self.account.forget_calls()
        self.run(event, context)
        (parameters,) = created(self.account)
        return str(parameters["ClientToken"])


@pytest.fixture
def tokens(account: SimulatedAccount, configure: Configure, run: Run) -> Tokens:
    return Tokens(account, configure, run)


def test_the_token_is_a_sha_256_in_hexadecimal(tokens: Tokens) -> None:
    assert re.fullmatch("[0-9a-f]{64}", tokens.of("event-1"))


def test_the_same_event_has_the_same_token_whoever_delivers_it(tokens: Tokens) -> None:
    assert tokens.of("event-1") == tokens.of("event-1")


def test_without_an_event_id_the_request_id_takes_its_place(tokens: Tokens) -> None:
    one, two = (LambdaContext(aws_request_id=name) for name in ("request-1", "request-2"))
    first, again, other = tokens.of(None, one), tokens.of(None, one), tokens.of(None, two)
    assert (first == again, first == other) == (True, False)


@pytest.mark.parametrize("event_id", ["", 7, True, ["event-1"]], ids=ascii)
def test_an_event_id_that_is_no_text_counts_for_nothing(tokens: Tokens, event_id: object) -> None:
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


def test_the_token_differs_with_interface_and_target(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    full = [account.sensor(quota=0) for _ in range(2)]
    configure([*full, account.sensor(sessions=1)])
    run(account.instance(interfaces=2))
    tokens = {parameters["ClientToken"] for parameters in created(account)}
    assert len(tokens) == len(created(account)) == 4


def test_the_token_differs_with_each_session_tag(tokens: Tokens) -> None:
    values = ["a=1", "a=2", "b=1", "a=1,b=1"]
    assert len({tokens.of("event-1", SESSION_TAGS=value) for value in values}) == len(values)


def test_a_second_delivery_that_does_not_see_the_session_yet_creates_no_other(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    account.session_lag = 5
    configure(account.sensor())
    event = running_event(account.instance())
    made = [run(event).entry["session_id"] for _ in range(2)]
    assert (made[0] == made[1], len(account.sessions()), account.count(CREATE)) == (True, 1, 2)


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
def test_the_next_best_sensor_is_tried_after(
    account: SimulatedAccount, configure: Configure, run: Run, code: str
) -> None:
    busy, best, next_best = (account.sensor(sessions=count) for count in (5, 0, 3))
    refuse(account, code, target=best)
    configure([busy, best, next_best])
    assert run(account.instance()).entry["target_id"] == next_best


@pytest.mark.parametrize("code", TARGET_CODES)
def test_the_refused_sensor_falls_at_create_and_the_reason_names(
    account: SimulatedAccount, configure: Configure, run: Run, code: str
) -> None:
    best, next_best = account.sensor(), account.sensor(sessions=3)
    refuse(account, code, target=best)
    configure([best, next_best])
    sensor = run(account.instance()).sensors[best]
    assert (sensor["verdict"], sensor["stage"], code in sensor["reason"]) == (
        "rejected",
        "create",
        True,
    )


def test_sensors_are_tried_by_sessions_to_the_last(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [account.sensor(sessions=count, quota=0) for count in (2, 0, 3, 1)]
    configure(targets)
    answer = run(account.instance())
    tried = [targets.index(parameters["TrafficMirrorTargetId"]) for parameters in created(account)]
    assert (answer.outcomes, tried) == (["unmirrored"], [1, 3, 0, 2])


def test_when_the_last_sensor_is_refused_the_reason_says_at_which_stage_it_fell(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    full = account.sensor(quota=0)
    configure([account.sensor(groups=[account.group()]), full])
    reason = run(account.instance()).entry["reason"]
    wanted = ("create", full, "TrafficMirrorSourcesPerTargetLimitExceeded")
    assert [word for word in wanted if word not in reason] == []


def test_a_refused_sensor_is_not_tried_again_in_the_invocation(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    full, other = account.sensor(quota=0), account.sensor(sessions=3, quota=100)
    configure([full, other])
    answer = run({"instance-ids": account.instances(40)})
    tried = Counter(parameters["TrafficMirrorTargetId"] for parameters in created(account))
    assert (answer.outcomes, tried[other]) == (["created"] * 40, 40)
    assert 1 <= tried[full] <= AT_ONCE  # those that were on their way already


def test_a_refused_sensor_is_tried_again_in_the_next_invocation(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    sensor = account.sensor(quota=0)
    configure([sensor, account.sensor(sessions=3)])
    run(account.instance())
    account.quota[sensor] = 1
    assert run(account.instance()).entry["target_id"] == sensor


def test_a_sensor_that_fills_up_meanwhile_gives_way(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    small, large = account.sensor(quota=2), account.sensor(sessions=3)
    configure([small, large])
    answer = run({"instance-ids": account.instances(4)})
    found = Counter(entry["target_id"] for entry in answer.interfaces)
    assert found == {small: 2, large: 2}


def test_the_codes_of_the_interface_are_no_refusals_of_the_target(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps
) -> None:
    refuse(account, "TrafficMirrorSessionsPerInterfaceLimitExceeded")
    configure([account.sensor(), account.sensor()])
    run(account.instance())
    assert account.count(CREATE) == 1


# --------------------------------------------------------------------------------------
# AWS does not mirror the interface, or its instance type
# --------------------------------------------------------------------------------------

NOT_SUPPORTED = "NetworkInterfaceNotSupported"


def test_an_instance_type_that_aws_does_not_mirror_is_skipped(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    account.unsupported_types.add("t2.micro")
    configure([account.sensor(), account.sensor()])
    answer = run(account.instance(instance_type="t2.micro"))
    assert (answer.status, answer.outcomes, NOT_SUPPORTED in answer.entry["reason"]) == (
        200,
        ["skipped"],
        True,
    )


def test_interfaces_of_that_type_are_not_tried_again_in_the_invocation(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    account.unsupported_types.add("t2.micro")
    configure(account.sensor(quota=100))
    instances = [
        *account.instances(15, instance_type="t2.micro"),
        *account.instances(5, instance_type="m5.large"),
        *account.instances(90, instance_type="t2.micro"),
    ]
    answer = run({"instance-ids": instances})
    assert answer.outcomes == ["skipped"] * 15 + ["created"] * 5 + ["skipped"] * 90
    # The other five, and those that were on their way when the first came back.
    assert 6 <= account.count(CREATE) <= 5 + AT_ONCE
    reasons = [entry["reason"] for entry in answer.interfaces if entry["outcome"] == "skipped"]
    assert all("t2.micro" in reason or NOT_SUPPORTED in reason for reason in reasons)


def test_nothing_is_looked_up_for_what_aws_does_not_support(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps
) -> None:
    refuse(account, NOT_SUPPORTED)
    configure(account.sensor())
    run(account.instance())
    assert (account.count(CREATE), account.count(READ_SESSIONS), no_sleep.seconds) == (1, 1, [])


def attachment(instance: str, **members: Any) -> Change:
    """The instance's first interface is attached otherwise."""

    def change(operation: str, answer: dict[str, Any]) -> None:
        for reservation in answer.get("Reservations", ()):
            for view in reservation["Instances"]:
                if view["InstanceId"] == instance and view["NetworkInterfaces"]:
                    view["NetworkInterfaces"][0]["Attachment"].update(members)

    return change


def managed(*instances: str, says: bool = True) -> Change:
    """These instances belong to a service, which manages them or says that it does not."""

    def change(operation: str, answer: dict[str, Any]) -> None:
        for reservation in answer.get("Reservations", ()):
            for view in reservation["Instances"]:
                if view["InstanceId"] in instances:
                    view["Operator"] = {"Managed": says, "Principal": "eks.amazonaws.com"}

    return change


class OnlyItself:
    """One interface is refused, and the others that are on their way wait for that."""

    def __init__(self, account: SimulatedAccount, configure: Configure) -> None:
        self.account = account
        configure(account.sensor(quota=1_000))
        self.refused, self.code = "", NOT_SUPPORTED
        self.is_refused = threading.Event()
        account.gates.append(self)

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
        self.refused = interface_of(self.account, instance, index)
        event = {"instance-ids": [instance, *others]}
        answer = answer_of(lambda_handler(event, LambdaContext()))
        found = {entry["interface_id"]: entry["outcome"] for entry in answer.interfaces}
        return found.pop(self.refused), set(found.values())


@pytest.fixture
def only_itself(account: SimulatedAccount, configure: Configure) -> OnlyItself:
    return OnlyItself(account, configure)


OTHERS = 14  # more than go out together


def test_a_first_interface_sets_its_type_aside(
    account: SimulatedAccount, only_itself: OnlyItself
) -> None:
    instance, *others = account.instances(1 + OTHERS)
    refused, rest = only_itself.outcomes(instance, others)
    assert (refused, "skipped" in rest) == ("skipped", True)
    assert account.count(CREATE) <= AT_ONCE


@pytest.mark.parametrize("index", [1, 2])
def test_a_further_interface_sets_aside_only_itself(
    account: SimulatedAccount, only_itself: OnlyItself, index: int
) -> None:
    instance, others = account.instance(interfaces=3), account.instances(OTHERS)
    assert only_itself.outcomes(instance, others, index) == ("skipped", {"created"})


ATTACHMENTS: dict[str, dict[str, Any]] = {
    "another device index": {"DeviceIndex": 1},
    "another network card": {"NetworkCardIndex": 1},
}


@pytest.mark.parametrize("members", ATTACHMENTS.values(), ids=ATTACHMENTS.keys())
def test_an_only_interface_sets_aside_only_itself_with(
    account: SimulatedAccount,
    only_itself: OnlyItself,
    change_answers: Callable[[Change], None],
    members: dict[str, Any],
) -> None:
    instance, *others = account.instances(1 + OTHERS)
    change_answers(attachment(instance, **members))
    assert only_itself.outcomes(instance, others) == ("skipped", {"created"})


@pytest.mark.parametrize(
    ("says", "skipped"), [(True, False), (False, True)], ids=["managed", "not managed"]
)
def test_only_of_an_instance_that_no_service_manages_a_first_interface_sets_its_type_aside(
    account: SimulatedAccount,
    only_itself: OnlyItself,
    change_answers: Callable[[Change], None],
    says: bool,
    skipped: bool,
) -> None:
    instance, *others = account.instances(1 + OTHERS)
    change_answers(managed(instance, says=says))
    refused, rest = only_itself.outcomes(instance, others)
    assert (refused, "skipped" in rest) == ("skipped", skipped)


# --- ... and that is remembered for an hour


class Time:
    """The clocks of the machine can be put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        for name in ("time", "monotonic"):
            clock = getattr(time, name)
            monkeypatch.setattr(f"time.{name}", lambda clock=clock: clock() + self.ahead)


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


@pytest.mark.parametrize(("minutes", "creates"), [(0, 0), (59, 0), (61, 1), (24 * 60, 1)], ids=str)
def test_what_is_not_supported_is_remembered_for_an_hour(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    hours: Time,
    minutes: int,
    creates: int,
) -> None:
    account.unsupported_types.add("t2.micro")
    configure(account.sensor())
    instance = account.instance(instance_type="t2.micro")
    run(instance)
    account.forget_calls()
    hours.ahead += 60 * minutes
    answer = run(instance)
    assert (answer.outcomes, answer.status, account.count(CREATE)) == (["skipped"], 200, creates)
    assert NOT_SUPPORTED in answer.entry["reason"]


def test_remembering_does_not_prolong_it(
    account: SimulatedAccount, configure: Configure, run: Run, hours: Time
) -> None:
    refuse(account, NOT_SUPPORTED, times=1)
    configure(account.sensor())
    instance = account.instance()
    outcomes = []
    for _ in range(3):
        outcomes += run(instance).outcomes
        hours.ahead += 31 * 60
    assert outcomes == ["skipped", "skipped", "created"]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("kind", ["event", "sweep"])
def test_events_and_sweeps_remember_alike(
    account: SimulatedAccount, configure: Configure, run: Run, kind: str, dry_run: bool
) -> None:
    refuse(account, NOT_SUPPORTED)
    configure(account.sensor(), EXCLUDE_TAGS="sensor")
    instance = account.instance()
    run(instance)
    account.forget_calls()
    event = (running_event(instance) if kind == "event" else scheduled_event()) | {
        "dry_run": dry_run
    }
    summary = run(event).body["summary"]
    assert (account.count(CREATE), set(summary)) == (0, {"skipped"})


def test_it_is_the_interface_that_is_remembered_not_the_type(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    account.unsupported_types.add("t2.micro")
    configure(account.sensor())
    one, two = account.instances(2, instance_type="t2.micro")
    run(one)
    account.unsupported_types.clear()
    assert (run(one).outcomes, run(two).outcomes) == (["skipped"], ["created"])


def test_a_thousand_interfaces_that_aws_does_not_support_cost_a_thousand_creates_in_an_hour(
    account: SimulatedAccount, configure: Configure, run: Run, hours: Time
) -> None:
    """Scaled down; each is a further interface, so that its type is not set aside."""
    configure(account.sensor(quota=1_000), EXCLUDE_TAGS="sensor")
    instances = account.instances(20, interfaces=2)
    refuse(account, NOT_SUPPORTED, interfaces=[interface_of(account, i, 1) for i in instances])
    account.forget_calls()
    for _ in range(11):
        run(scheduled_event())
        hours.ahead += 5 * 60
    refused = [call for call in account.calls if call.code == NOT_SUPPORTED]
    assert len(refused) == 20


# --- The interface is a sensor of somebody's


def test_the_interface_of_anothers_sensor_is_skipped(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps
) -> None:
    refuse(account, "InterfaceInUseByTrafficMirrorTarget")
    configure([account.sensor(), account.sensor()])
    answer = run(account.instance())
    found = answer.status, answer.outcomes, account.count(CREATE), account.count(READ_SESSIONS)
    assert (found, no_sleep.seconds) == ((200, ["skipped"], 1, 1), [])
    assert "InterfaceInUseByTrafficMirrorTarget" in answer.entry["reason"]


def test_others_of_its_type_are_mirrored_all_the_same(
    account: SimulatedAccount, only_itself: OnlyItself
) -> None:
    only_itself.code = "InterfaceInUseByTrafficMirrorTarget"
    instance, *others = account.instances(1 + OTHERS)
    assert only_itself.outcomes(instance, others) == ("skipped", {"created"})


# --------------------------------------------------------------------------------------
# EC2 does not know the interface yet
# --------------------------------------------------------------------------------------

UNKNOWN_INTERFACE = "InvalidNetworkInterfaceID.NotFound"


class Unknown:
    """An instance whose interface EC2 shows, and does not know when it is to be mirrored."""

    def __init__(self, account: SimulatedAccount, configure: Configure) -> None:
        self.account = account
        self.target, self.instance = account.sensor(quota=100), account.instance()
        self.interface = interface_of(account, self.instance)
        configure(self.target)

    def at_create(self, number: int, act: Callable[[], object]) -> None:
        """Do this when the interface's create is sent for the n-th time."""
        seen: list[str] = []

        def gate(operation: str, parameters: dict[str, Any]) -> None:
            if operation == CREATE and parameters["NetworkInterfaceId"] == self.interface:
                seen.append(operation)
                if len(seen) == number:
                    act()

        self.account.gates.append(gate)

    def refuse(self, times: int | None = None) -> None:
        refuse(self.account, UNKNOWN_INTERFACE, interfaces=[self.interface], times=times)

    def sent(self) -> int:
        return sum(
            parameters["NetworkInterfaceId"] == self.interface
            for parameters in created(self.account)
        )


@pytest.fixture
def unknown(account: SimulatedAccount, configure: Configure, no_sleep: Sleeps) -> Unknown:
    return Unknown(account, configure)


EVENTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "event": running_event,
    "SQS": lambda instance: sqs_event(running_event(instance)),
    "sweep": lambda instance: scheduled_event(),
}


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("kind", EVENTS)
def test_the_create_is_sent_again_at_each_look(
    unknown: Unknown, no_sleep: Sleeps, kind: str, times: int
) -> None:
    unknown.refuse(times)
    result = lambda_handler(EVENTS[kind](unknown.instance), LambdaContext())
    assert result.get("batchItemFailures", []) == []
    assert len(unknown.account.sessions(interface_id=unknown.interface)) == 1
    assert unknown.sent() == times + 1
    assert no_sleep.seconds == [1.0] * (times - 1)


def test_what_is_created_then_is_shown_like_any_other(unknown: Unknown, run: Run) -> None:
    unknown.refuse(1)
    entry = run(unknown.instance).entry
    (session,) = unknown.account.sessions()
    assert (entry["outcome"], entry["session_id"], entry["target_id"], entry["session_name"]) == (
        "created",
        session["TrafficMirrorSessionId"],
        unknown.target,
        session["Tags"][0]["Value"],
    )
    (sensor,) = entry["sensors"]
    assert sensor["verdict"] == "selected"


@pytest.mark.parametrize("kind", EVENTS)
def test_one_that_stays_unknown_is_failed_and_never_unmirrored(
    unknown: Unknown, no_sleep: Sleeps, kind: str
) -> None:
    unknown.refuse()
    event = EVENTS[kind](unknown.instance)
    if kind == "SQS":
        assert again(event) == [0]
    else:
        error = error_of(event)
        wanted = ("1 failed", unknown.interface, UNKNOWN_INTERFACE)
        assert [word for word in wanted if word not in error] == []
    assert (unknown.sent(), no_sleep.seconds) == (4, [1.0, 1.0])


def exchange_interface(unknown: Unknown) -> None:
    account, other = unknown.account, unknown.account.interface()
    account.delete_interface(unknown.interface)
    account.ec2.attach_network_interface(
        InstanceId=unknown.instance, NetworkInterfaceId=other, DeviceIndex=1
    )


GONE: dict[str, Callable[[Unknown], object]] = {
    "the instance is terminated": lambda u: u.account.terminate(u.instance),
    "the instance is shutting down": lambda u: u.account.set_state(u.instance, "shutting-down"),
    "the instance is stopped": lambda u: u.account.stop(u.instance),
    "the interface is detached and deleted": lambda u: u.account.delete_interface(u.interface),
    "another interface has taken its place": exchange_interface,
    "the instance is not shown any more": lambda u: u.account.hide(u.instance),
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


def test_a_session_that_shows_meanwhile_exists(unknown: Unknown, run: Run) -> None:
    unknown.refuse()
    account = unknown.account
    unknown.at_create(2, lambda: account.session(unknown.interface, unknown.target))
    assert run(unknown.instance).outcomes == ["exists"]


@pytest.mark.parametrize("fault", ["RequestLimitExceeded", "InternalError"])
def test_where_it_cannot_be_said_whether_it_is_gone_it_is_failed(
    unknown: Unknown, fault: str
) -> None:
    unknown.refuse()
    status = 503 if fault == "RequestLimitExceeded" else 500
    unknown.at_create(4, lambda: unknown.account.fail("DescribeInstances", fault, status=status))
    assert error_of(running_event(unknown.instance)).startswith("1 failed")


def test_the_neighbours_of_an_unknown_interface_are_mirrored(unknown: Unknown) -> None:
    unknown.refuse()
    others = unknown.account.instances(12)
    event = sqs_event(*map(running_event, [unknown.instance, *others]))
    assert again(event) == [0]
    assert len(unknown.account.sessions()) == 12


def test_unknown_and_refused_ones_are_looked_up_together(
    unknown: Unknown, no_sleep: Sleeps
) -> None:
    account = unknown.account
    refused = account.instance()
    refuse(account, "SomethingNew", interfaces=[interface_of(account, refused)])
    unknown.refuse()
    event = sqs_event(running_event(unknown.instance), running_event(refused))
    assert (again(event), account.count(READ_SESSIONS), no_sleep.seconds) == ([0], 4, [1.0, 1.0])


# --------------------------------------------------------------------------------------
# AWS creates nothing at all
# --------------------------------------------------------------------------------------

TOTAL_CODES = [
    "TrafficMirrorSessionLimitExceeded",
    "InvalidTrafficMirrorFilterId.NotFound",
    "InvalidTrafficMirrorFilter",
]


@pytest.mark.parametrize("code", TOTAL_CODES)
def test_nothing_more_is_created_after(
    account: SimulatedAccount, configure: Configure, run: Run, code: str
) -> None:
    refuse(account, code)
    configure([account.sensor(), account.sensor()])
    answer = run({"instance-ids": account.instances(110)})
    named = [code in entry["reason"] for entry in answer.interfaces]
    assert (answer.status, answer.outcomes, named) == (400, ["unmirrored"] * 110, [True] * 110)
    assert 1 <= account.count(CREATE) <= AT_ONCE  # what was on its way already


@pytest.mark.parametrize("code", TOTAL_CODES)
def test_the_others_are_judged_all_the_same_after(
    account: SimulatedAccount, configure: Configure, run: Run, code: str
) -> None:
    refuse(account, code)
    configure([account.sensor(), account.sensor(groups=[account.group()])])
    answer = run({"instance-ids": account.instances(2)})
    stages = [[row["stage"] for row in entry["sensors"]] for entry in answer.interfaces]
    assert stages == [["create", "security_group"]] * 2


def test_after_that_what_is_set_aside_and_what_no_sensor_can_take_keeps_its_own_reason(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    account.account_quota = 0
    configure(account.sensor())
    instances = [account.instance(), account.instance(zone="b"), account.instance(state="stopped")]
    answer = run({"instance-ids": instances})
    reasons = {entry["instance_id"]: entry["reason"] for entry in answer.interfaces}
    words = ("TrafficMirrorSessionLimitExceeded", "zone", "stopped")
    assert [word in reasons[i] for i, word in zip(instances, words, strict=True)] == [True] * 3


def test_a_filter_that_does_not_exist_is_named(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor(), filter_id="tmf-00000000000000000")
    reason = run(account.instance()).entry["reason"]
    wanted = ("InvalidTrafficMirrorFilterId.NotFound", "tmf-00000000000000000")
    assert [word for word in wanted if word not in reason] == []


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

    def __init__(self, account: SimulatedAccount, target: str, lag: int = 0) -> None:
        self.account, self.target, self.lag = account, target, lag
        account.gates.append(self)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        if operation == CREATE:
            self.account.session(parameters["NetworkInterfaceId"], self.target, lag=self.lag)


LAGS = {
    "the session shows at once": (0, "exists", 1),
    "the session shows a second later": (1, "exists", 2),
    "the session shows two seconds later": (2, "exists", 3),
    "the session does not show in time": (3, "unmirrored", 3),
}


@pytest.mark.parametrize(("lag", "outcome", "looks"), LAGS.values(), ids=LAGS.keys())
def test_another_invocation_was_faster(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    no_sleep: Sleeps,
    lag: int,
    outcome: str,
    looks: int,
) -> None:
    target = account.sensor()
    FasterInvocation(account, target, lag)
    configure(target)
    answer = run(account.instance())
    found = (answer.outcomes, account.count(READ_SESSIONS) - 1, no_sleep.seconds)
    assert found == ([outcome], looks, [1.0] * (looks - 1))


@pytest.mark.parametrize("ours", [True, False], ids=["to our target", "to another target"])
def test_the_session_of_the_faster_one_is_shown(
    account: SimulatedAccount, configure: Configure, run: Run, ours: bool
) -> None:
    target, other = account.sensor(), account.sensor()
    FasterInvocation(account, target if ours else other)
    configure(target)
    entry = run(account.instance()).entry
    (session,) = account.sessions()
    shown = (entry["session_id"], entry["target_id"], entry["sensors"])
    says_whose = "not one of our targets" in entry["reason"]
    assert (shown, says_whose) == (
        (session["TrafficMirrorSessionId"], session["TrafficMirrorTargetId"], []),
        not ours,
    )


@pytest.mark.parametrize("code", OTHER_CODES)
def test_without_a_session_it_is_unmirrored_with_code_and_message(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps, code: str
) -> None:
    refuse(account, code)
    configure(account.sensor())
    entry = run(account.instance()).entry
    wanted = (code, f"Simulated {code}")
    assert (entry["outcome"], [word for word in wanted if word not in entry["reason"]]) == (
        "unmirrored",
        [],
    )


@pytest.mark.parametrize("code", OTHER_CODES)
def test_the_chosen_sensor_is_rejected_at_create_and_no_other_is_tried_after(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps, code: str
) -> None:
    refuse(account, code)
    configure([account.sensor(), account.sensor(sessions=1), account.sensor(zone="b")])
    sensors = run(account.instance()).entry["sensors"]
    shown = [(row["verdict"], row["stage"]) for row in sensors]
    assert (shown, account.count(CREATE)) == (
        [("rejected", "create"), ("eligible", None), ("rejected", "zone")],
        1,
    )


def test_all_that_are_refused_so_are_looked_up_together_after_the_others_are_done(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps
) -> None:
    target, refused = account.sensor(), account.instances(2)
    interfaces = [i for instance in refused for i in account.interfaces_of(instance)]
    account.fail(
        CREATE,
        "InvalidParameterValue",
        status=400,
        where=lambda parameters: parameters["NetworkInterfaceId"] in interfaces,
    )
    configure(target)
    answer = run({"instance-ids": [refused[0], account.instance(), refused[1]]})
    operations = [call.operation for call in account.calls]
    last_create = len(operations) - 1 - operations[::-1].index(CREATE)
    assert (answer.outcomes, operations[last_create + 1 :]) == (
        ["unmirrored", "created", "unmirrored"],
        [READ_SESSIONS] * 3,
    )


def test_only_those_without_a_session_are_looked_up_again(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps
) -> None:
    target = account.sensor()
    faster = FasterInvocation(account, target)
    instances = account.instances(2)
    late = account.interfaces_of(instances[1])[0]
    account.gates.insert(
        0, lambda operation, p: setattr(faster, "lag", int(p.get("NetworkInterfaceId") == late))
    )
    configure(target)
    answer = run({"instance-ids": instances})
    asked = [
        call.parameters["Filters"][0]["Values"]
        for call in account.calls
        if call.operation == READ_SESSIONS and call.parameters.get("Filters")
    ]
    both = sorted(i for instance in instances for i in account.interfaces_of(instance))
    assert (answer.outcomes, asked) == (["exists", "exists"], [both, [late]])


def test_a_token_answered_with_a_session_to_another_target_means_that_it_exists(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    change_answers: Callable[[Change], None],
) -> None:
    target, instance = account.sensor(), account.instance()
    session = account.session(interface_of(account, instance), account.sensor(), 9, lag=5)
    (view,) = account.sessions()

    def change(operation: str, answer: dict[str, Any]) -> None:
        if operation == CREATE:
            answer["TrafficMirrorSession"] = view

    change_answers(change)
    configure(target)
    entry = run(instance).entry
    assert (entry["outcome"], entry["session_id"]) == ("exists", session)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_for_lack_of_authority_over_one_interface_is_final(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps, status: int
) -> None:
    configure(account.sensor(quota=100))
    instance, *others = account.instances(12)
    refuse(account, "AuthFailure", interfaces=[interface_of(account, instance)], status=status)
    answer = run({"instance-ids": [instance, *others]})
    assert answer.outcomes == ["unmirrored"] + ["created"] * 11
    assert "AuthFailure" in answer.interfaces[0]["reason"]


@pytest.mark.parametrize(
    "operation",
    ["DescribeInstances", "DescribeTrafficMirrorTargets", "DescribeTrafficMirrorSessions"],
)
def test_lack_of_authority_at_a_read_is_a_failure(
    account: SimulatedAccount, configure: Configure, operation: str
) -> None:
    configure(account.sensor())
    account.fail(operation, "AuthFailure", status=401)
    error = error_of(running_event(account.instance()))
    assert ("1 failed" in error, "AuthFailure" in error) == (True, True)


# --------------------------------------------------------------------------------------
# What is no refusal at all
# --------------------------------------------------------------------------------------

# Codes that botocore would send again, with a status that says otherwise.
NOT_FINAL = [
    "RequestTimeout",
    "RequestTimeoutException",
    "PriorRequestNotComplete",
    "LimitExceededException",
    "BandwidthLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottledException",
    "RequestThrottled",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "TransactionInProgressException",
    "RequestLimitExceeded",
    "SlowDown",
    "EC2ThrottledException",
    "InternalError",
]
# From the code and the status to the answer.
PROXIES: dict[str, tuple[int, bytes]] = {
    f"{status} with {name}": (status, page)
    for status in (403, 407, 429, 500, 502, 503, 504)
    for name, page in {
        "nothing": b"",
        "a page": b"<html><body><h1>Not today</h1><br></body></html>",
        "a page that is XML": b"<html><body><h1>Not today</h1></body></html>",
        "text": b"Forbidden",
        "an error without a code": b"<Response><Errors><Error/></Errors></Response>",
        "no error at all": b"<Response/>",
        "JSON": b'{"message": "no"}',
    }.items()
} | {
    f"400 with {name}": (400, page)
    for name, page in {
        "nothing": b"",
        "a page": b"<html><body><h1>Not today</h1><br></body></html>",
        "an empty error": b"<Error></Error>",
        "an error without a code": b"<Response><Errors><Error/></Errors></Response>",
        "an empty code": b"<Response><Errors><Error><Code/></Error></Errors></Response>",
        "a blank code": b"<Response><Errors><Error><Code> </Code></Error></Errors></Response>",
    }.items()
}


@pytest.mark.parametrize("code", NOT_FINAL)
def test_it_is_not_final(
    account: SimulatedAccount, configure: Configure, no_sleep: Sleeps, code: str
) -> None:
    refuse(account, code, status=500 if code.startswith("Internal") else 400)
    configure([account.sensor(), account.sensor(sessions=1)])
    instance = account.instance()
    error = error_of(running_event(instance))
    wanted = ("1 failed", interface_of(account, instance), code)
    assert [word for word in wanted if word not in error] == []
    assert again(sqs_event(running_event(instance))) == [0]


@pytest.mark.parametrize("code", ["RequestTimeout", "RequestTimeoutException", "InternalError"])
def test_what_was_carried_out_all_the_same_is_found(
    account: SimulatedAccount, configure: Configure, run: Run, code: str
) -> None:
    configure(account.sensor())
    status = 500 if code == "InternalError" else 408
    account.fail(CREATE, code, status=status, lose_answer=True)
    entry = run(account.instance()).entry
    (session,) = account.sessions()
    assert (entry["outcome"], entry["session_id"]) == ("created", session["TrafficMirrorSessionId"])


@pytest.mark.parametrize(("status", "page"), PROXIES.values(), ids=PROXIES.keys())
def test_a_proxys_answer_is_not_final(
    account: SimulatedAccount,
    configure: Configure,
    replace_page: Callable[..., None],
    no_sleep: Sleeps,
    status: int,
    page: bytes,
) -> None:
    account.fail(CREATE)  # the create has not reached EC2
    replace_page(CREATE, status, page)
    configure(account.sensor())
    instance = account.instance()
    error = error_of(running_event(instance))
    assert ("1 failed" in error, interface_of(account, instance) in error) == (True, True)
    assert again(sqs_event(running_event(instance))) == [0]


@pytest.mark.parametrize(("status", "page"), PROXIES.values(), ids=PROXIES.keys())
def test_behind_a_proxys_answer_a_session_may_have_been_created(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    replace_page: Callable[..., None],
    no_sleep: Sleeps,
    status: int,
    page: bytes,
) -> None:
    replace_page(CREATE, status, page)
    configure(account.sensor())
    entry = run(account.instance()).entry
    (session,) = account.sessions()
    assert (entry["outcome"], entry["session_id"]) == ("created", session["TrafficMirrorSessionId"])


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


SESSION_ACTION, TAGS_ACTION = "ec2:CreateTrafficMirrorSession", "ec2:CreateTags"
BY_SCP = "with an explicit deny in a service control policy"
BY_BOUNDARY = "because no permissions boundary allows the action"
BY_ROLE = "because no identity-based policy allows the action"

# What AWS says; what the error names of it, and what it does not name.
DENIALS: dict[str, tuple[str, list[str], list[str]]] = {
    "a service control policy": (
        denial(SESSION_ACTION, BY_SCP),
        [SESSION_ACTION, SESSION_ARN, "service control policy"],
        [TAGS_ACTION],
    ),
    "a permissions boundary": (
        denial(SESSION_ACTION, BY_BOUNDARY),
        [SESSION_ACTION, SESSION_ARN, "permissions boundary"],
        [TAGS_ACTION],
    ),
    "the role": (
        denial(SESSION_ACTION, BY_ROLE),
        [SESSION_ACTION, SESSION_ARN, "identity-based policy"],
        [TAGS_ACTION],
    ),
    "only the tags": (
        denial(TAGS_ACTION, BY_ROLE),
        [TAGS_ACTION, SESSION_ARN, "identity-based policy"],
        [SESSION_ACTION],
    ),
    "only the tags, by a service control policy": (
        denial(TAGS_ACTION, BY_SCP),
        [TAGS_ACTION, SESSION_ARN, "service control policy"],
        [SESSION_ACTION],
    ),
    "AWS does not say": (
        "You are not authorized to perform this operation. Encoded authorization failure message: "
        + ENCODED,
        [SESSION_ACTION, TAGS_ACTION],
        [],
    ),
    "AWS says nothing more": (
        "You are not authorized to perform this operation.",
        [SESSION_ACTION, TAGS_ACTION],
        [],
    ),
}


def deny_with(account: SimulatedAccount, message: str, code: str = "UnauthorizedOperation") -> None:
    def gate(operation: str, parameters: dict[str, Any]) -> None:
        if operation == CREATE:
            raise Refusal(code, message, 403)

    account.gates.append(gate)


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AccessDenied"])
@pytest.mark.parametrize(("message", "named", "unnamed"), DENIALS.values(), ids=DENIALS.keys())
def test_a_denied_create_names_what_aws_says_is_missing(
    account: SimulatedAccount,
    configure: Configure,
    caplog: pytest.LogCaptureFixture,
    message: str,
    named: list[str],
    unnamed: list[str],
    code: str,
) -> None:
    deny_with(account, message, code)
    configure(account.sensor())
    instance = account.instance()
    error = error_of(running_event(instance))
    assert "1 failed" in error
    texts = [error, *(r.getMessage() for r in caplog.records if instance in r.getMessage())]
    assert len(texts) == 2
    for text in texts:
        assert [word for word in named if word not in text] == []
        assert [word for word in [*unnamed, ENCODED[:20]] if word in text] == []


def test_a_denied_create_is_delivered_again_and_its_neighbours_are_tried(
    account: SimulatedAccount, configure: Configure
) -> None:
    """A policy may deny by tag: what is denied for one need not be denied for the next."""
    configure(account.sensor(quota=100))
    instances = account.instances(12)
    denied = interface_of(account, instances[3])

    def gate(operation: str, parameters: dict[str, Any]) -> None:
        if operation == CREATE and parameters["NetworkInterfaceId"] == denied:
            raise Refusal("UnauthorizedOperation", denial(SESSION_ACTION, BY_SCP), 403)

    account.gates.append(gate)
    assert again(sqs_event(*map(running_event, instances))) == [3]
    assert len(account.sessions()) == 11


@pytest.mark.parametrize(
    "text",
    ["line one\nERROR line two", "a\r\nb", "\x1b[31mred", "tab\there", "nel\x85x", "\u2028"],
    ids=ascii,
)
@pytest.mark.parametrize("code", ["UnauthorizedOperation", "SomethingNew", "InternalError"])
def test_what_aws_says_is_shown_on_one_line(
    account: SimulatedAccount,
    configure: Configure,
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
    refuse(account, code, status=500 if code == "InternalError" else 400)
    configure(account.sensor())
    texts: list[str] = []
    try:
        result = lambda_handler(running_event(account.instance()), LambdaContext())
        answer = answer_of(result)
        texts += [answer.entry["reason"], answer.entry["sensors"][0]["reason"]]
    except MirroringError as error:
        texts.append(str(error))
    texts += [r.getMessage() for r in caplog.records if r.name == "lambda_traffic_mirror"]
    assert [text for text in texts if len(text.splitlines()) != 1 or "\x1b" in text] == []
