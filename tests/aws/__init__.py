"""Simulated AWS: what EC2 shows, refuses and hides, in memory."""

from aws.account import (
    ACCOUNT_ID,
    OTHER_ACCOUNT_ID,
    REGION,
    VXLAN_PORT,
    Call,
    LambdaContext,
    Refusal,
    SimulatedAccount,
    acl_entry,
    rule,
    running_event,
    scheduled_event,
    sqs_event,
)

__all__ = [
    "ACCOUNT_ID",
    "OTHER_ACCOUNT_ID",
    "REGION",
    "VXLAN_PORT",
    "Call",
    "LambdaContext",
    "Refusal",
    "SimulatedAccount",
    "acl_entry",
    "rule",
    "running_event",
    "scheduled_event",
    "sqs_event",
]
