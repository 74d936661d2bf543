"""What a sweep holds in memory does not grow with the number of instances, nor with the pages."""

from __future__ import annotations

import copy
import gc
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from aws import LambdaContext, scheduled_event
from botocore.client import BaseClient
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
    """Shows the function many instances like one of the scene's, and notes what is held meanwhile.

    Attributes:
        held: bytes that are held as each page is asked for.
        rows: of the instances, as long as something refers to them.
    """

    def __init__(self, scene: Scene, instances: int, page: int) -> None:
        one = scene.instance()
        found = scene.ec2.describe_instances(InstanceIds=[one])
        self.template = found["Reservations"][0]["Instances"][0]
        self.instances, self.page = instances, page
        self.held: list[int] = []
        self.rows: weakref.WeakSet[Row] = weakref.WeakSet()

    def row(self, number: int) -> Row:
        row = Row(copy.deepcopy(self.template))
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
            return ask(client, name, parameters)

        self.patch = patch.object(BaseClient, "_make_api_call", called)
        self.patch.start()
        tracemalloc.start()
        return self

    def __exit__(self, *error: object) -> None:
        tracemalloc.stop()
        self.patch.stop()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest would keep all log records."""
    monkeypatch.setattr(lambda_traffic_mirror.logger, "disabled", True)


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
    held: list[int] = []
    with LargeAccount(scene, 100, page=50) as account:
        scene.gates.append(
            lambda call, _: held.append(len(account.rows)) if call in (ACLS, CREATE) else None
        )
        scene.fail(CREATE, "Refused", status=400)
        deliver(scheduled_event(), LambdaContext(600))
    assert len(held) > 100
    assert set(held) == {0}


def look_ups(scene: Scene, interfaces: int) -> int:
    """Bytes held as so many interfaces of a page, which AWS refused, are looked up together."""
    held: list[int] = []

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call == SESSIONS and "Filters" in parameters and not held:
            scene.forget_calls()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    scene.gates.append(gate)
    with LargeAccount(scene, interfaces, page=1_000):
        deliver(scheduled_event(), LambdaContext(600))
    scene.gates.remove(gate)
    return held[0]


def test_interfaces_that_wait_for_another_look_keep_no_verdicts_of_theirs(scene: Scene) -> None:
    """But for the hundred that may be listed."""
    scene.configure([scene.sensor() for _ in range(30)])
    scene.fail(CREATE, "Refused", status=400)
    few, many = look_ups(scene, 220), look_ups(scene, 520)
    assert (many - few) / 300 < 4_000
