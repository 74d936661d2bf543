"""Simulated AWS: what EC2 shows, refuses and hides, in memory.

account: the account and its builders; describe: the Describe operations; sessions: what creating
a session takes; transport: the way of a request, the log, faults; words: rules, entries, routes;
events: what Lambda hands over.
"""
# ruff: noqa: F401

from aws.account import SimulatedAccount
from aws.events import LambdaContext, running_event, scheduled_event, sqs_event
from aws.transport import ACCOUNT_ID, OTHER_ACCOUNT_ID, REGION, Call, Refusal
from aws.words import VXLAN_PORT, acl_entry, route, rule
