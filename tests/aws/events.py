"""What Lambda hands over: its context and events."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
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
    function_version: str = "$LATEST"
    memory_limit_in_mb: int = 256
    account: str = ACCOUNT_ID
    region: str = REGION

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds
        self.invoked_function_arn = (
            f"arn:aws:lambda:{self.region}:{self.account}:function:{self.function_name}"
        )
        self.log_group_name = f"/aws/lambda/{self.function_name}"
        self.log_stream_name = "simulated"

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._end - self.clock()) * 1000))


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def running_event(
    instance_id: str,
    event_id: str | None = None,
    state: str = "running",
    *,
    account: str = ACCOUNT_ID,
    region: str = REGION,
) -> dict[str, Any]:
    """EventBridge's EC2 Instance State-change Notification; a bus may bring those of others."""
    return {
        "version": "0",
        "id": event_id or str(uuid.uuid4()),
        "detail-type": "EC2 Instance State-change Notification",
        "source": "aws.ec2",
        "account": account,
        "time": _now(),
        "region": region,
        "resources": [f"arn:aws:ec2:{region}:{account}:instance/{instance_id}"],
        "detail": {"instance-id": instance_id, "state": state},
    }


def scheduled_event() -> dict[str, Any]:
    """What a schedule of EventBridge sends."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT_ID,
        "time": _now(),
        "region": REGION,
        "resources": [f"arn:aws:events:{REGION}:{ACCOUNT_ID}:rule/traffic-mirror-sweep"],
        "detail": {},
    }


def sqs_event(*bodies: Mapping[str, Any] | str) -> dict[str, Any]:
    """A batch as Lambda reads it from an SQS queue; text is taken as the body as it is."""

    def records() -> Iterator[dict[str, Any]]:
        for body in bodies:
            text = body if isinstance(body, str) else json.dumps(body)
            sent = str(int(datetime.now(timezone.utc).timestamp() * 1000))
            yield {
                "messageId": str(uuid.uuid4()),
                "receiptHandle": uuid.uuid4().hex,
                "body": text,
                "attributes": {
                    "ApproximateReceiveCount": "1",
                    "SentTimestamp": sent,
                    "SenderId": "AIDAIT2UOQQY3AUEKVGXU",
                    "ApproximateFirstReceiveTimestamp": sent,
                },
                "messageAttributes": {},
                "md5OfBody": hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:traffic-mirror",
                "awsRegion": REGION,
            }

    return {"Records": list(records())}
