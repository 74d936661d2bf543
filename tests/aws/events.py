"""What Lambda hands over: its context and events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from time import monotonic  # bound here: a patched time.sleep changes nothing
from typing import Any

from aws.transport import ACCOUNT_ID, REGION


@dataclass
class LambdaContext:
    """Lambda's context object; the remaining time runs down from its creation."""

    seconds: float = 60.0
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_name: str = "traffic-mirror"
    clock: Callable[[], float] = monotonic

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds
        function = f"function:{self.function_name}"
        self.invoked_function_arn = f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:{function}"

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._end - self.clock()) * 1000))


def _eventbridge(kind: str, source: str, resource: str, detail: Any, **more: str) -> dict[str, Any]:
    """An event in EventBridge's envelope."""
    place = {"account": ACCOUNT_ID, "region": REGION, **more}
    arn = f"arn:aws:{resource.partition('/')[0]}:{place['region']}:{place['account']}:"
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": kind,
        "source": f"aws.{source}",
        "time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "resources": [arn + resource.partition("/")[2]],
        "detail": detail,
        **place,
    }


def running_event(
    instance_id: str, event_id: str = "", state: str = "running", **place: str
) -> dict[str, Any]:
    """EventBridge's EC2 Instance State-change Notification, or another `account`'s, `region`'s."""
    kind = "EC2 Instance State-change Notification"
    detail = {"instance-id": instance_id, "state": state}
    event = _eventbridge(kind, "ec2", f"ec2/instance/{instance_id}", detail, **place)
    return event | ({"id": event_id} if event_id else {})


def scheduled_event() -> dict[str, Any]:
    """What a schedule of EventBridge sends."""
    return _eventbridge("Scheduled Event", "events", "events/rule/traffic-mirror-sweep", {})


def sqs_event(*bodies: Mapping[str, Any] | str) -> dict[str, Any]:
    """A batch as Lambda reads it from an SQS queue; text is taken as the body as it is."""
    return {
        "Records": [
            {
                "messageId": str(uuid.uuid4()),
                "receiptHandle": uuid.uuid4().hex,
                "body": body if isinstance(body, str) else json.dumps(body),
                "attributes": {"ApproximateReceiveCount": "1"},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:traffic-mirror",
                "awsRegion": REGION,
            }
            for body in bodies
        ]
    }
