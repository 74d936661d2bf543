"""The role's policy against the calls that the function makes: neither lacks anything.

Before each call the simulated account holds the policy against the actions, resources and condition
keys that the call has in the Service Authorization Reference, as AWS does.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from aws import (
    ACCOUNT_ID,
    OTHER_ACCOUNT_ID,
    REGION,
    LambdaContext,
    Refusal,
    SimulatedAccount,
    acl_entry,
    route,
    rule,
    running_event,
    scheduled_event,
    sqs_event,
)
from checks import DESCRIBES, PREFIX_LISTS, ROUTES
from cloudformation import DEPLOY, allows, as_list, resolve, role_statements
from conftest import Answer, Scene, Sleeps

import lambda_traffic_mirror
from lambda_traffic_mirror import MirroringError

CREATES = ("ec2:CreateTrafficMirrorSession", "ec2:CreateTags")
EIGHT = (*DESCRIBES, *CREATES)

Statements = list[dict[str, Any]]
Request = tuple[str, str, tuple[tuple[str, str], ...]]  # action, resource, condition keys


def template_role(filter_id: str, *targets: str, **parameters: str) -> Statements:
    """What the template's role may do in EC2. The rest is what Lambda itself does with the role."""
    parameters |= {"FilterId": filter_id, "Targets": ",".join(targets)}
    code = {"CodeBucket": "my-bucket", "CodeKey": "lambda_traffic_mirror.zip"}
    resolved = resolve(parameters=parameters | code, region=REGION, account=ACCOUNT_ID)
    return [
        statement
        for statement in role_statements(resolved)
        if as_list(statement["Action"])[0].startswith("ec2:")
    ]


def without(statements: Statements, permission: str) -> Statements:
    """The statements with one action taken away."""
    less = copy.deepcopy(statements)
    for statement in less:
        statement["Action"] = [one for one in as_list(statement["Action"]) if one != permission]
    return [statement for statement in less if statement["Action"]]


def permissions_in(text: str) -> set[str]:
    """The permissions that a text names."""
    return set(re.findall(r"\bec2:[A-Z]\w+", text))


# The policy in force


@dataclass
class Enforced:
    """A gate of the simulated account that lets through what the statements allow."""

    statements: Statements
    owners: Mapping[str, str]  # of the targets
    requests: set[Request] = field(default_factory=set)
    refused: set[Request] = field(default_factory=set)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        for request in self.requests_of(operation, parameters):
            self.requests.add(request)
            action, resource, keys = request
            if not allows(self.statements, action, resource, dict(keys)):
                self.refused.add(request)
                raise Refusal(
                    "UnauthorizedOperation",
                    "You are not authorized to perform this operation. User: "
                    f"arn:aws:sts::{ACCOUNT_ID}:assumed-role/traffic-mirror/traffic-mirror is not "
                    f"authorized to perform: {action} on resource: {resource} because no "
                    f"identity-based policy allows the {action} action. Encoded authorization "
                    "failure message: " + 40 * "abcdefgh",
                    403,
                )

    def requests_of(self, operation: str, parameters: Mapping[str, Any]) -> Iterator[Request]:
        """Every action and resource that a call has."""
        action = f"ec2:{operation}"
        here = f"arn:aws:ec2:{REGION}:{ACCOUNT_ID}"
        if operation == "CreateTrafficMirrorSession":
            target = parameters["TrafficMirrorTargetId"]
            owner = self.owners.get(target, ACCOUNT_ID)
            session = f"{here}:traffic-mirror-session/tms-0123456789abcdef0"
            yield action, f"{here}:network-interface/{parameters['NetworkInterfaceId']}", ()
            yield action, f"arn:aws:ec2:{REGION}:{owner}:traffic-mirror-target/{target}", ()
            filter_id = parameters["TrafficMirrorFilterId"]
            yield action, f"{here}:traffic-mirror-filter/{filter_id}", ()
            yield action, session, ()
            if parameters.get("TagSpecifications"):
                yield "ec2:CreateTags", session, (("ec2:CreateAction", operation),)
        elif operation == "GetManagedPrefixListEntries":
            yield action, f"{here}:prefix-list/{parameters['PrefixListId']}", ()
        else:
            assert operation.startswith("Describe"), operation
            yield action, "*", ()


def enforce(account: SimulatedAccount, statements: Statements) -> Enforced:
    """Puts the statements in force, in place of earlier ones."""
    targets = account.ec2.describe_traffic_mirror_targets()["TrafficMirrorTargets"]
    gate = Enforced(statements, {one["TrafficMirrorTargetId"]: one["OwnerId"] for one in targets})
    account.gates[:] = [gate]
    return gate


# Every call is allowed, and nothing is allowed in vain


class NoTimeLeft(LambdaContext):
    """A context whose time is over after the first look at it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._looks = 0

    def get_remaining_time_in_millis(self) -> int:
        self._looks += 1
        return 60_000 if self._looks == 1 else 0


@dataclass
class Played:
    """What came of the scenarios."""

    gate: Enforced
    outcomes: set[str]
    statements: Statements


@pytest.fixture
def play(
    scene: Scene, no_sleep: Sleeps, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Played]:
    """Runs the handler through every kind of event and outcome, with the policy in force."""

    def play(allow_prefix_lists: str, allow_routes: str = "true") -> Played:
        monkeypatch.setattr(lambda_traffic_mirror, "_client", scene.client())
        far = "10.0.200.0/24"
        acl = [acl_entry(90, "deny", far), acl_entry(100, "allow")]
        near = scene.sensor(scene.subnet("a", acl=acl))
        full = scene.sensor(zone="a", quota=0)
        nlb = scene.nlb_sensor([scene.subnet("a")], [scene.group(rule())])
        gwlb = scene.gwlb_sensor([scene.subnet("a")])
        foreign = scene.foreign_sensor(zone="b")
        listed = scene.sensor(
            zone="c", groups=[scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))]
        )
        vpc = scene.vpc("10.9.0.0/16")
        scene.route_table(routes=[route("10.9.0.0/16", pcx=True)], main=True)
        distant = scene.sensor(scene.subnet("a", vpc=vpc))
        targets = [near, nlb, gwlb, foreign, listed, distant]
        allowed = {"AllowPrefixLists": allow_prefix_lists, "AllowRoutes": allow_routes}
        statements = template_role(scene.filter_id, *targets, full, **allowed)
        gate = enforce(scene, statements)
        assert gate.owners[foreign] == OTHER_ACCOUNT_ID
        outcomes: set[str] = set()

        def send(event: object, context: object = None) -> Answer:
            answer = scene.run(event, context)
            outcomes.update(answer.outcomes)
            return answer

        def fails(event: object) -> None:
            with pytest.raises(MirroringError, match="1 failed"):
                scene.run(event)
            outcomes.add("failed")

        def instance(zone: str = "a") -> str:
            return scene.instance(scene.subnet(zone), interfaces=2)

        # One sensor after the other takes a session; the load balancers need a tag.
        tags = {"EXCLUDE_TAGS": "traffic-mirror=sensor"}
        for target in (near, nlb, gwlb, distant):
            scene.configure(target, **tags)
            assert send(instance()).outcomes == ["created", "created"]
        scene.configure(foreign, ALLOW_UNVERIFIED="true")
        assert send(instance("b")).outcomes == ["created", "created"]
        scene.configure(listed)
        answer = send(instance("c"))
        expected = "created" if allow_prefix_lists == "true" else "unmirrored"
        assert answer.outcomes == [expected, expected]

        # Further events: twice, by hand, as a batch, from the cache, with a full sensor.
        options = {"CACHE_SECONDS": "60", "VIRTUAL_NETWORK_ID": "7", "PACKET_LENGTH": "100"}
        scene.configure([full, near], **options)
        event = running_event(instance())
        assert send(event).outcomes == ["created", "created"]
        assert send(event).outcomes == ["exists", "exists"]
        by_hand = {"instance-ids": [instance(), instance()], "dry_run": True}
        assert set(send(by_hand).outcomes) == {"planned"}
        assert send(scene.missing_sensor().replace("tmt", "i")).outcomes == ["skipped"]
        assert set(send(instance("e")).outcomes) == {"unmirrored"}
        batch = sqs_event(running_event(instance()), running_event(instance()), "not JSON")
        result = lambda_traffic_mirror.lambda_handler(batch, LambdaContext())
        assert [one["itemIdentifier"] for one in result["batchItemFailures"]] == [
            batch["Records"][2]["messageId"]
        ]

        # AWS does not answer, or refuses.
        scene.configure(near)
        scene.fail("DescribeNetworkAcls", status=500)
        fails(running_event(scene.instance()))
        scene.heal()
        scene.time_out("CreateTrafficMirrorSession", times=5, lose_answer=True)
        assert send(scene.instance()).outcomes == ["created"]
        scene.heal()
        scene.fail("CreateTrafficMirrorSession", "InvalidParameterValue", status=400)
        assert send(scene.instance()).outcomes == ["unmirrored"]
        scene.heal()

        # A sweep heals what is left, finds a session that packets cannot take, and stops in time.
        far_instance = scene.instance(scene.subnet("a", cidr=far))
        scene.session(scene.first_interface(far_instance), near)
        scene.configure([near, nlb, gwlb], **tags)
        answer = send(scheduled_event())
        assert {"blocked", "exists", "skipped"} <= set(answer.outcomes)
        scene.instance()
        send({"sweep": True}, NoTimeLeft())
        return Played(gate, outcomes, statements)

    return play


def test_every_call_is_allowed_and_nothing_is_allowed_in_vain(
    play: Callable[[str], Played],
) -> None:
    played = play("true")
    assert played.outcomes == set(lambda_traffic_mirror.OUTCOMES)
    assert played.gate.refused == set()
    assert {action for action, _, _ in played.gate.requests} == {*EIGHT, PREFIX_LISTS, ROUTES}

    def all_allowed(statements: Statements) -> bool:
        return all(
            allows(statements, action, resource, dict(keys))
            for action, resource, keys in played.gate.requests
        )

    assert all_allowed(played.statements)
    tried = 0
    for number, statement in enumerate(played.statements):
        for key in ("Action", "Resource"):
            for part in as_list(statement[key]):
                less = copy.deepcopy(played.statements)
                less[number][key] = [one for one in as_list(statement[key]) if one != part]
                assert not all_allowed(less), (statement["Sid"], part)
                tried += 1
    assert tried > 15


@pytest.mark.parametrize("allow_routes", ["true", "false"])
def test_without_the_optional_permissions_only_they_are_missed(
    play: Callable[..., Played], allow_routes: str
) -> None:
    """The guide's eight are enough for all that needs no other, sensors in other VPCs included."""
    played = play("false", allow_routes)
    assert played.outcomes == set(lambda_traffic_mirror.OUTCOMES)
    refused = {PREFIX_LISTS} if allow_routes == "true" else {PREFIX_LISTS, ROUTES}
    assert {action for action, _, _ in played.gate.refused} == refused
    assert {action for action, _, _ in played.gate.requests} == {*EIGHT, PREFIX_LISTS, ROUTES}
    # The policy to paste allows the same.
    text = (DEPLOY / "permissions.json").read_text(encoding="utf-8")
    pasted = json.loads(text.replace("FILTER_ID", "*"))["Statement"]
    for action, resource, keys in played.gate.requests:
        allowed = allows(pasted, action, resource, dict(keys))
        assert allowed == (action not in (PREFIX_LISTS, ROUTES)), action


def test_the_module_holds_no_call_that_the_policy_lacks() -> None:
    """Whatever the scenarios leave out: the names of all calls stand in the module as text."""
    operations = boto3.Session().client("ec2", region_name=REGION).meta.method_to_api_mapping
    tree = ast.parse(inspect.getsource(lambda_traffic_mirror))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    called = {f"ec2:{operations[text]}" for text in texts if text in operations}
    # A tag is given while the session is created, which takes a permission and no call.
    statements = template_role("tmf-1", "tmt-1", AllowPrefixLists="true")
    allowed = {action for statement in statements for action in as_list(statement["Action"])}
    assert called | {"ec2:CreateTags"} == allowed == {*EIGHT, PREFIX_LISTS, ROUTES}


# What is taken away is missed by name


@dataclass
class Guarded:
    """An account with one sensor, whose policy is in force."""

    account: SimulatedAccount
    statements: Statements
    target: str

    def instance(self) -> str:
        """An instance in another subnet than the sensor, so that network ACLs count."""
        return self.account.instance(self.account.subnet("a"))


@pytest.fixture
def guarded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Guarded:
    monkeypatch.setattr(lambda_traffic_mirror, "_client", scene.client())
    target = scene.sensor()
    scene.configure(target)
    statements = template_role(scene.filter_id, target)
    return Guarded(scene, statements, target)


def test_with_its_policy_it_works(guarded: Guarded, scene: Scene) -> None:
    gate = enforce(guarded.account, guarded.statements)
    assert scene.run(guarded.instance()).outcomes == ["created"]
    assert gate.refused == set()
    assert {action for action, _, _ in gate.requests} == set(EIGHT)


@pytest.mark.parametrize("permission", EIGHT)
def test_a_permission_taken_away_is_named(guarded: Guarded, scene: Scene, permission: str) -> None:
    gate = enforce(guarded.account, without(guarded.statements, permission))
    instance = guarded.instance()
    with pytest.raises(MirroringError) as caught:
        scene.run(instance)
    assert permissions_in(str(caught.value)) == {permission}
    assert str(caught.value).startswith("1 failed. ")
    assert "Encoded authorization failure" not in str(caught.value)
    with pytest.raises(MirroringError) as caught:
        scene.run({"sweep": True})
    assert permissions_in(str(caught.value)) == {permission}
    batch = sqs_event(running_event(instance))
    result = lambda_traffic_mirror.lambda_handler(batch, LambdaContext())
    assert len(result["batchItemFailures"]) == 1
    # Nobody asked for anything else that is not allowed, and nothing was created.
    assert {action for action, _, _ in gate.refused} == {permission}
    assert guarded.account.sessions() == []


def test_a_tag_outside_of_a_create_is_not_allowed(guarded: Guarded, scene: Scene) -> None:
    """The condition is what keeps the role from tagging sessions that exist."""
    statements = copy.deepcopy(guarded.statements)
    (tagging,) = [one for one in statements if one["Action"] == "ec2:CreateTags"]
    tagging["Condition"]["StringEquals"]["ec2:CreateAction"] = "CreateTrafficMirrorTarget"
    gate = enforce(guarded.account, statements)
    with pytest.raises(MirroringError, match="needs ec2:CreateTags"):
        scene.run(guarded.instance())
    assert {action for action, _, _ in gate.refused} == {"ec2:CreateTags"}


@pytest.mark.parametrize("lacking", ["filter", "target"])
def test_a_policy_for_another_filter_or_target(
    guarded: Guarded, scene: Scene, lacking: str
) -> None:
    """Who changes a variable in the console and not the stack is told which permission lacks."""
    filter_id, target = guarded.account.filter_id, guarded.target
    if lacking == "filter":
        filter_id = "tmf-0123456789abcdef0"
    else:
        target = "tmt-0123456789abcdef0"
    gate = enforce(guarded.account, template_role(filter_id, target))
    with pytest.raises(MirroringError) as caught:
        scene.run(guarded.instance())
    assert permissions_in(str(caught.value)) == {"ec2:CreateTrafficMirrorSession"}
    ((action, resource, _),) = gate.refused
    assert action == "ec2:CreateTrafficMirrorSession"
    assert f":traffic-mirror-{lacking}/" in resource


def test_the_ninth_permission_is_named_by_the_verdict(guarded: Guarded, scene: Scene) -> None:
    account = guarded.account
    group = account.group(rule(prefix_list=account.prefix_list("10.0.0.0/8")))
    target = account.sensor(groups=[group])
    scene.configure(target)
    instance = guarded.instance()
    gate = enforce(account, template_role(account.filter_id, target))
    answer = scene.run(instance)
    assert (answer.status, answer.outcomes) == (400, ["unmirrored"])
    verdict = answer.sensors[target]
    assert (verdict["verdict"], verdict["stage"]) == ("rejected", "security_group")
    assert permissions_in(verdict["reason"]) == {PREFIX_LISTS}
    assert {action for action, _, _ in gate.refused} == {PREFIX_LISTS}

    gate = enforce(account, template_role(account.filter_id, target, AllowPrefixLists="true"))
    assert scene.run(instance).outcomes == ["created"]
    assert gate.refused == set()
