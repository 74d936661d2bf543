"""What a sweep holds in memory does not grow with the number of instances, nor with the pages."""

from __future__ import annotations

import gc
import json
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
from aws import LambdaContext, scheduled_event
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from calls import ACLS, CREATE, INSTANCES, SESSIONS
from conftest import Scene, deliver

import lambda_traffic_mirror

pytestmark = pytest.mark.usefixtures("quick", "untraced")

# Bytes for each instance: its ID, by which the sweep knows what it has seen.
FOR_AN_ID = 400


class Row(dict[str, Any]):
    """A row of an answer that can be looked for after it should be gone."""

    __hash__ = object.__hash__


class LargeAccount:
    """Shows the function many instances like one of the scene's, refuses all creates, and notes
    what is held meanwhile.

    Attributes:
        held: bytes that are held as each page is asked for.
        rows: of the instances, as long as something refers to them.
        rows_left: how many there are as ACLs are read, and at each create.
    """

    def __init__(self, scene: Scene, instances: int, page: int) -> None:
        one = scene.instance()
        found = scene.ec2.describe_instances(InstanceIds=[one])
        self.template = json.dumps(found["Reservations"][0]["Instances"][0], default=str)
        self.instances, self.page = instances, page
        self.held: list[int] = []
        self.rows: weakref.WeakSet[Row] = weakref.WeakSet()
        self.rows_left: list[int] = []

    def row(self, number: int) -> Row:
        row = Row(json.loads(self.template))
        row["InstanceId"] = f"i-{number:017x}"
        row["NetworkInterfaces"][0]["NetworkInterfaceId"] = f"eni-{number:017x}"
        self.rows.add(row)
        return row

    def page_of(self, parameters: dict[str, Any]) -> dict[str, Any]:
        gc.collect()
        self.held.append(tracemalloc.get_traced_memory()[0])
        start = int(parameters.get("NextToken", 0))
        end = min(start + self.page, self.instances)
        answer: dict[str, Any] = {
            "Reservations": [{"Instances": [self.row(number)]} for number in range(start, end)]
        }
        return answer | ({"NextToken": str(end)} if end < self.instances else {})

    def __enter__(self) -> LargeAccount:
        ask = BaseClient._make_api_call

        def called(client: Any, name: str, parameters: dict[str, Any]) -> Any:
            if name == INSTANCES and "instance-state-name" in str(parameters):
                return self.page_of(parameters)
            if name in (ACLS, CREATE):
                self.rows_left.append(len(self.rows))
            if name == CREATE:
                raise ClientError({"Error": {"Code": "Refused", "Message": "No."}}, CREATE)
            return ask(client, name, parameters)

        self.patch = patch.object(BaseClient, "_make_api_call", called)
        self.patch.start()
        tracemalloc.start()
        return self

    def __exit__(self, *error: object) -> None:
        tracemalloc.stop()
        self.patch.stop()


@pytest.fixture(autouse=True)
def little_to_collect(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """pytest would keep all log records; and what is there before the test is no garbage of its."""
    monkeypatch.setattr(lambda_traffic_mirror.logger, "disabled", True)
    gc.freeze()
    yield
    gc.unfreeze()


def closed(scene: Scene) -> None:
    """No sensor admits: every interface is unmirrored."""
    scene.configure([scene.sensor(groups=[scene.group()]) for _ in range(2)])


def denied(scene: Scene) -> None:
    """Every interface is failed."""
    scene.configure([scene.sensor() for _ in range(2)])
    scene.deny("ec2:DescribeSecurityGroups")


@pytest.mark.parametrize("build", [closed, denied])
def test_what_a_sweep_holds_grows_with_ids_alone(
    scene: Scene, build: Callable[[Scene], None]
) -> None:
    """2,000 instances in 20 pages: the report keeps no more than the hundred that it lists."""
    build(scene)
    with LargeAccount(scene, 2_000, page=100) as account:
        delivery = deliver(scheduled_event(), LambdaContext(600))
    assert delivery.error.startswith("2000 failed") or sum(delivery.answer.summary.values()) == 2000
    assert (account.held[-1] - account.held[5]) / 1_400 < FOR_AN_ID


def test_the_rows_of_a_page_are_dropped_before_it_is_worked_on(scene: Scene) -> None:
    scene.configure(scene.sensor())
    with LargeAccount(scene, 100, page=50) as account:
        deliver(scheduled_event(), LambdaContext(600))
    assert account.rows_left == [0] * 101


def test_interfaces_that_wait_for_another_look_keep_no_verdicts_of_theirs(scene: Scene) -> None:
    """But for the hundred that may be listed: what 200 more of a page hold, once AWS has refused
    them all and they are looked up together."""
    scene.configure([scene.sensor() for _ in range(30)])
    held: list[int] = []

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call == SESSIONS and "Filters" in parameters:
            scene.forget_calls()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    scene.gates.append(gate)
    least = []
    for interfaces in (110, 310):
        held.clear()
        with LargeAccount(scene, interfaces, page=1_000):
            deliver(scheduled_event(), LambdaContext(600))
        least.append(min(held))
    assert (least[1] - least[0]) / 200 < 3_000
