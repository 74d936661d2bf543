"""Random AWS accounts, one for each seed; what the function makes of them; how that differs from
what the model expects.

`play` builds the account of a seed, hands the function its events and returns the differences.
"""

from __future__ import annotations

import io
import ipaddress
import itertools
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any
from unittest.mock import patch

import boto3
import model
from aws import (
    ACCOUNT_ID,
    OTHER_ACCOUNT_ID,
    REGION,
    LambdaContext,
    SimulatedAccount,
    acl_entry,
    route,
    rule,
    running_event,
    scheduled_event,
)
from aws.transport import CREDENTIALS
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from model import Creates, ExpectedInterface, ExpectedSensor, Settings, World
from moto.moto_api._internal import mock_random

import lambda_traffic_mirror

ZONES = ("a", "b", "c", "d")
PORT_RANGES = ((4789, 4789), (4789, 4789), (4788, 4788), (4790, 4790), (4788, 4789), (4789, 4790))
PORT_RANGES += ((4788, 4790), (0, 4788), (0, 65535), (4790, 65535), None)
TAGS = {"mirror": ("yes", "no", ""), "team": ("blue", "red=green"), "Name": ("web",)}
# What becomes of the role in an account with sensors: whether there is one, and what it may read.
FATES = ("works",) * 5 + ("denied", "a read is denied", "a read fails", "none")
TAG_RULES = ("mirror=yes", "mirror", "mirror=", "team=red=green", "team", "Mirror=yes")
TAG_RULES += ("mirror=yes,team=blue", "absent,Name")
# What a world is mostly about: one after the other, so that few worlds cover every rule.
THEMES = ("everything", "acls", "groups", "unseen", "load balancers", "limits", "routes")
THEMES += ("accounts", "sweep", "tags", "unanswered", "warm", "sources")
SENSOR_KINDS = {
    "here": ("plain",) * 9 + ("unattached", "stopped"),
    "everything": ("plain",) * 12
    + ("unattached", "unattached", "stopped", "missing", "deleted", "nlb", "nlb")
    + ("gwlb", "foreign", "foreign", "foreign nlb", "deleted nlb"),
    "sweep": ("plain",) * 5 + ("unattached", "stopped", "missing", "deleted", "nlb", "foreign"),
    "unseen": ("plain", "plain", "plain", "foreign", "deleted", "foreign nlb"),
    "load balancers": ("nlb", "nlb", "nlb", "gwlb"),
    # Of another account: some of what is there is not shared.
    "abroad": ("plain",) * 8
    + ("unattached", "stopped", "deleted", "nlb", "nlb", "gwlb", "deleted nlb", "private"),
}
NEXT_HOPS = ("pcx", "tgw", "vpce", "eni", "instance", "vgw", "lgw", "core_network", "igw")
NEXT_HOPS += ("nat", "eigw", "cagw", "pcx", "tgw")
# How each field of a World is read, and the rows' IDs.
READS = {
    "reservations": ("describe_instances", "Reservations"),
    "interfaces": ("describe_network_interfaces", "NetworkInterfaces"),
    "targets": ("describe_traffic_mirror_targets", "TrafficMirrorTargets"),
    "sessions": ("describe_traffic_mirror_sessions", "TrafficMirrorSessions"),
    "groups": ("describe_security_groups", "SecurityGroups"),
    "acls": ("describe_network_acls", "NetworkAcls"),
    "route_tables": ("describe_route_tables", "RouteTables"),
}
CREATE = "CreateTrafficMirrorSession"
# Refusals of one create that AWS may answer with, whatever the account looks like.
REFUSALS = ("InterfaceInUseByTrafficMirrorTarget", "InvalidNetworkInterfaceID.NotFound")
REFUSALS += ("AuthFailure", "OperationNotPermitted", "NetworkInterfaceNotSupported")
REFUSALS += ("TagPolicyViolation",)


@dataclass
class Case:
    """One account, its settings, and the events that it gets.

    `instance_ids` is None for a sweep. `change` happens between two events; None: there is one.
    `missing` holds what AWS will not answer that reading the account does not show.
    """

    account: SimulatedAccount
    settings: Settings
    environment: dict[str, str]
    instance_ids: list[str] | None
    event: dict[str, Any]
    others: dict[str, SimulatedAccount | None] = field(default_factory=dict)
    missing: dict[str, bool] = field(default_factory=dict)
    change: Callable[[], Any] | None = None


# --------------------------------------------------------------------------------------
# A random account
# --------------------------------------------------------------------------------------


class Builder:
    """Fills an account, and others whose targets it sees, with what one seed makes of them.

    `alone`: there are no others, and AWS answers whatever it is asked.
    """

    def __init__(self, account: SimulatedAccount, seed: int, alone: bool = False) -> None:
        self.account = account
        self.random = rng = random.Random(seed)
        self.theme = theme = THEMES[seed % len(THEMES)]
        mixed = theme in ("everything", "unseen", "load balancers", "accounts", "unanswered")
        # How many subnets have the usual ACL, and how many sensors an open group.
        self.open_acls = {"acls": 0.1, "unseen": 0.3, "load balancers": 0.2}.get(theme, 0.8)
        self.open_groups = {"groups": 0.0, "unseen": 0.1, "acls": 0.9}.get(theme, 0.7)
        self.unseen = 0.4 if theme == "unseen" else 0.1 * mixed
        wide = mixed or theme in ("acls", "groups", "routes", "warm")
        self.zones = ZONES[: rng.choice((1, 2, 2, 3, 4) if wide else (1, 1, 2))]
        self.abroad = 0.7 if theme == "accounts" else 0.3  # how many sensors are there
        self.others: list[SimulatedAccount] = []
        if not alone and self.often({"accounts": 1.0, "sweep": 0.4}.get(theme, 0.15)):
            for number in range(rng.choice((1, 1, 2))):
                ids = [account.zone_id(zone) for zone in self.zones]
                rng.shuffle(ids)
                zones = dict(zip(self.zones, ids, strict=True))
                self.others.append(account.other(f"21098765432{number}", zones=zones))
        self.alone = alone
        self.subnets_of: dict[str, list[tuple[str, str, str]]] = {}  # subnet, zone, VPC
        self.blocks: list[str] = []  # of all VPCs
        self.source_groups: list[str] = []
        self.prefix_lists: dict[str, list[str]] = {}  # by account
        self.filters: list[str] = []
        self.sources: list[tuple[str, str]] = []  # interface, address
        self.instances: list[str] = []
        self.sensors: list[str] = []
        self.load_balancers = False

    def often(self, probability: float) -> bool:
        return self.random.random() < probability

    @property
    def accounts(self) -> list[SimulatedAccount]:
        return [self.account, *self.others]

    @property
    def subnets(self) -> list[tuple[str, str, str]]:
        return self.subnets_of[self.account.account_id]

    def networks(self) -> None:
        """VPCs, subnets with the default ACL, groups for the sources."""
        rng = self.random
        sizes = {"routes": (2, 3), "groups": (1, 2, 3)}.get(self.theme, (1, 1, 2))
        for place, account in enumerate(self.accounts):
            subnets = self.subnets_of.setdefault(account.account_id, [])
            for index in range(rng.choice(sizes)):
                # Blocks of VPCs may be the same: nothing may depend on the address alone.
                different = f"10.{4 * place + index}.0.0/16"
                cidr = rng.choice(("10.0.0.0/16", different, different, "192.168.0.0/16"))
                vpc = account.vpc(cidr)
                self.blocks.append(cidr)
                for zone in self.zones:
                    for _ in range(rng.choice((1, 2, 3))):
                        subnets.append((account.subnet(zone, vpc=vpc), zone, vpc))
        vpcs = sorted({vpc for _, _, vpc in self.subnets})
        for _ in range(rng.randint(1, 4)):
            self.source_groups.append(self.account.group(vpc=rng.choice(vpcs)))

    def source_instance(self) -> str:
        """An instance with one to four interfaces, in subnets of one zone."""
        account, rng = self.account, self.random
        subnet, zone, vpc = rng.choice(self.subnets)
        odd = 0.2 if self.theme == "sources" else 0.04
        instance = account.instance(
            subnet,
            self.some_source_groups(),
            tags={key: rng.choice(values) for key, values in TAGS.items() if self.often(0.5)},
            instance_type=rng.choice(("m5.large", "t3.micro", "c5.large")),
            interface_type="efa" if self.often(odd / 2) else "interface",
            ipv6_only=self.often(odd / 2),
            managed=self.often(0.2 if self.theme in ("limits", "sweep") else 0.03),
        )
        sizes = (1, 1, 2) if self.theme == "sweep" else (1, 1, 1, 2, 3, 4)
        for index in range(1, rng.choice(sizes)):
            near = [s for s, z, v in self.subnets if z == zone and (v == vpc or self.often(0.2))]
            extra = account.interface(
                rng.choice(near),
                self.some_source_groups(),
                type=rng.choice(("efa", "branch")) if self.often(odd) else "interface",
                ipv6_only=self.often(odd),
            )
            account.ec2.attach_network_interface(
                NetworkInterfaceId=extra, InstanceId=instance, DeviceIndex=index
            )
        if self.often(odd):
            states = ("pending",) * 4 + ("stopped", "terminated", "shutting-down")
            account.set_state(instance, rng.choice(states))
        return instance

    def some_source_groups(self) -> list[str]:
        size = self.random.randint(1, min(2, len(self.source_groups)))
        return self.random.sample(self.source_groups, size)

    def database(self) -> None:
        """An interface of RDS or ElastiCache, or one that only looks like it."""
        account, (subnet, _, _) = self.account, self.random.choice(self.subnets)
        groups = self.some_source_groups()
        kind = self.random.choice(("rds", "rds", "elasticache", "custom", "own", "other service"))
        if kind == "own":
            account.interface(subnet, groups, "RDSNetworkInterface")
        elif kind == "other service":
            account.requester_managed(
                subnet, groups, requester="amazon-elb", description="ElastiCache cluster-1"
            )
        else:
            account.database(
                subnet, groups, elasticache=kind == "elasticache", custom=kind == "custom"
            )

    def addresses(self, account: SimulatedAccount) -> list[tuple[str, str]]:
        """The interfaces of an account, with their addresses."""
        rows = account.ec2.describe_network_interfaces()["NetworkInterfaces"]
        found = [(row["NetworkInterfaceId"], row.get("PrivateIpAddress")) for row in rows]
        return [(interface_id, address) for interface_id, address in found if address]

    def block(self, addresses: Sequence[tuple[str, str]] = ()) -> str:
        """An IPv4 block that contains one of the addresses, or just misses it, or neither."""
        rng, addresses = self.random, addresses or self.sources
        if not addresses or self.often(0.1):
            return rng.choice(("0.0.0.0/0", "172.16.0.0/12", "10.0.0.0/8"))
        _, address = rng.choice(addresses)
        length = rng.choice((8, 16, 16, 20, 24, 24, 28, 32))
        network = ipaddress.ip_network(f"{address}/{length}", strict=False)
        if self.often(0.5):
            return str(network)
        beside = int(network.network_address) ^ (1 << (32 - length))  # the other half of its parent
        return f"{ipaddress.IPv4Address(beside)}/{length}"

    def rule(self, account: SimulatedAccount) -> dict[str, Any]:
        rng = self.random
        protocol = rng.choice(("udp", "udp", "udp", "17", "-1", "tcp", "icmp"))
        ports = rng.choice(PORT_RANGES)
        kind = rng.choice(("block", "block", "group", "group", "list", "list", "ipv6", "any"))
        if kind == "block":
            return rule(protocol, ports, cidr=self.block())
        if kind == "group":
            peering = rng.choice((None, None, "active", "deleted", "deleted", "pending-acceptance"))
            group, owner = rng.choice(self.source_groups), self.account.account_id
            return rule(protocol, ports, group=group, peering=peering, owner=owner)
        if kind == "list" and self.prefix_lists[account.account_id]:
            listed = rng.choice(self.prefix_lists[account.account_id])
            return rule(protocol, ports, prefix_list=listed)
        return rule(protocol, ports, cidr="::/0") if kind == "ipv6" else rule(protocol, ports)

    def some_prefix_lists(self, account: SimulatedAccount) -> None:
        lists = self.prefix_lists.setdefault(account.account_id, [])
        for _ in range(self.random.choice((0, 1, 3))):
            far = [f"172.16.{n}.0/24" for n in range(self.random.choice((0, 1, 3, 130)))]
            if far:
                far[-1] = self.block()  # the one that may matter comes last: on the last page
            lists.append(account.prefix_list(*far))

    def route_tables(self) -> None:
        """Random routes for most VPCs and some subnets, mostly with a way to all other VPCs."""
        everyone = [pair for account in self.accounts for pair in self.addresses(account)]
        for vpc in sorted({vpc for _, _, vpc in self.subnets}):
            if self.often(0.8):
                self.account.route_table(vpc, self.routes(everyone), main=True)
            for subnet, _, its_vpc in self.subnets:
                if its_vpc == vpc and self.often(0.3):
                    self.account.route_table(vpc, self.routes(everyone), subnets=[subnet])

    def routes(self, everyone: list[tuple[str, str]]) -> list[dict[str, Any]]:
        rng = self.random
        found: dict[str, dict[str, Any]] = {}

        def add(block: str, hops: tuple[str, ...]) -> None:
            hop = rng.choice(hops)
            state = rng.choice(("active",) * 5 + ("blackhole", "blackhole", "filtered"))
            if hop in ("pcx", "tgw") and self.often(0.5):
                state = "active"
            to = rng.choice(self.instances) if hop == "instance" else True
            found.setdefault(block, route(block, state=state, **{hop: to}))

        for block in self.blocks:
            if self.often(0.8):
                add(block, ("pcx", "tgw") * 4 + NEXT_HOPS)
        for _ in range(rng.choice((0, 0, 1, 2, 3, 6, 50))):
            add(self.block(everyone), NEXT_HOPS)
        routes = list(found.values())
        for block, static in found.items():
            for origin in ("EnableVgwRoutePropagation", "Advertisement"):
                if self.often(0.1):
                    hop, state = (
                        rng.choice(("vgw", "tgw", "eni")),
                        rng.choice(("active", "blackhole")),
                    )
                    routes.append({**route(block, state=state, **{hop: True}), "Origin": origin})
            if self.often(0.05):  # no static route beside the others
                routes.remove(static)
        for number in range(rng.choice((0, 0, 1, 1, 2))):
            hop = rng.choice(("vpce", "lattice", "lattice", "tgw", "nat", "igw", "vgw"))
            state = rng.choice(("active", "active", "filtered", "blackhole"))
            to = {"igw": "VpcLattice"} if hop == "lattice" else {hop: True}
            routes.append(route(f"pl-0123456789abcdef{number}", state=state, **to))
        if self.often(0.2):
            routes.append(route("::/0", igw=True))
        rng.shuffle(routes)
        return routes

    def acls(self, account: SimulatedAccount) -> None:
        """Random ACLs for some subnets; each contradicts itself as often as it likes."""
        rng = self.random
        everyone = [pair for one in self.accounts for pair in self.addresses(one)]
        for subnet, _, _ in self.subnets_of[account.account_id]:
            if self.often(self.open_acls):
                continue
            entries: list[dict[str, Any]] = []
            for egress in (False, True):
                for number in rng.sample(range(1, 500), rng.randint(1, 6)):
                    protocol = rng.choice(("-1", "-1", "17", "17", "17", "6", "1"))
                    block = "::/0" if self.often(0.1) else self.block(everyone if egress else ())
                    ports, action = rng.choice(PORT_RANGES), rng.choice(("allow", "deny"))
                    entry = acl_entry(number, action, block, protocol, ports, egress)
                    if protocol == "-1" and ports is not None and self.often(0.6):
                        entry["PortRange"] = {"From": ports[0], "To": ports[1]}
                    entries.append(entry)
                if self.often(0.6):
                    number = rng.randint(500, 999)
                    entries.append(acl_entry(number, "allow", protocol="-1", egress=egress))
            rng.shuffle(entries)
            acl = account.acl(subnet, entries)
            if account is self.account and self.often(self.unseen):
                account.hide(acl)

    def sensor_groups(self, vpc: str, account: SimulatedAccount) -> list[str] | None:
        """The groups of one sensor, rarely all of them in sight; None for an open one."""
        if self.often(self.open_groups):
            return None
        groups = []
        for _ in range(self.random.choice((1, 1, 2, 3))):
            rules = [self.rule(account) for _ in range(self.random.choice((0, 1, 1, 2, 4)))]
            groups.append(account.group(*rules, vpc=vpc))
            if account is self.account and self.often(self.unseen):
                account.hide(groups[-1])
        return groups

    def sensor(self) -> str:
        """One sensor of any kind, here or in another account."""
        if not self.others or not self.often(self.abroad):
            return self.sensor_in(self.account, SENSOR_KINDS.get(self.theme, SENSOR_KINDS["here"]))
        owner = self.random.choice(self.others)
        kind = self.random.choice(SENSOR_KINDS["abroad"])
        made = self.sensor_in(owner, ("plain",) if kind == "private" else (kind,))
        if kind != "private":
            owner.share(made, interface=self.often(0.6))
        for _ in range(self.random.choice((0, 0, 1, 2))):  # of ours
            self.account.session(f"eni-{self.random.getrandbits(68):017x}", made)
        return made

    def sensor_in(self, account: SimulatedAccount, kinds: tuple[str, ...]) -> str:
        rng, subnets = self.random, self.subnets_of[account.account_id]
        subnet, _, vpc = rng.choice(subnets)
        quota = rng.choice((0, 1, 1, 2, 3) if self.theme == "limits" else (2, 5, 10, 10))
        sessions = rng.choice((0, 0, 1, 1, 2, 3, 7))
        groups = self.sensor_groups(vpc, account)
        kind = rng.choice(kinds)
        if "nlb" in kind or kind == "gwlb":
            self.load_balancers = True
            inside = [one for one, _, its_vpc in subnets if its_vpc == vpc]
            inside = rng.sample(inside, min(rng.choice((1, 2, 2, 3)), len(inside)))
            if kind == "gwlb":
                return account.gwlb_sensor(inside, colon=self.often(0.5))
            made = account.nlb_sensor(inside, groups or ())
            account._load(made, sessions)
            if kind == "foreign nlb":  # shared by an account that is not simulated
                target = account._backend.traffic_mirror_targets[made]
                target.simulated_owner = OTHER_ACCOUNT_ID
                for interface in account._sensor_interfaces(made):
                    account.hide(interface)
            if kind == "deleted nlb":
                account.delete_sensor_interface(made)
            return made
        if kind == "missing":
            return account.missing_sensor()
        if kind == "foreign":
            return account.foreign_sensor(subnet, groups, quota=quota, sessions=sessions)
        state = "running"
        if kind == "stopped":
            state = rng.choice(("stopped", "stopping", "shutting-down", "pending"))
        options = {"quota": quota, "sessions": sessions, "state": state}
        made = account.sensor(subnet, groups, attached=kind != "unattached", **options)
        if kind == "deleted":
            account.delete_sensor_interface(made)
        return made

    def look_alike(self) -> None:
        """An interface whose description nearly is that of a load balancer of ours."""
        rows = self.account.ec2.describe_network_interfaces()["NetworkInterfaces"]
        texts = [
            row["Description"] for row in rows if row["Description"].startswith(("ELB", "VPC"))
        ]
        if texts:
            text = self.random.choice(texts)
            near = self.random.choice((text + "0", text[:-1], "my " + text, text.rsplit("/")[0]))
            self.account.interface(self.random.choice(self.subnets)[0], description=near)

    def sessions(self) -> None:
        """Some interfaces have sessions already, to our sensors, to those of others, to none."""
        rng = self.random
        decoys = [self.account.sensor(self.subnets[0][0], sessions=1) for _ in range(2)]
        share = {"sources": 0.5, "sweep": 0.6}.get(self.theme, 0.05)
        for interface_id, _ in self.sources:
            if self.often(share):
                targets = rng.choice((self.sensors, decoys, decoys, [*self.sensors, *decoys]))
                if self.often(0.1) or not targets:
                    targets = [self.account.missing_sensor()]
                for number in rng.sample((1, 2, 9), rng.choice((1, 1, 2, 3))):
                    self.account.session(interface_id, rng.choice(targets), number)

    def adopt_sensor(self) -> None:
        """Attach the interface of a sensor to one of the source instances."""
        running = [i for i in self.instances if self.state(i) in ("running", "pending")]
        if running and self.often(0.2 if self.theme == "sources" else 0.03):
            made = self.account.sensor(self.subnets[0][0], attached=False)
            self.account.ec2.attach_network_interface(
                NetworkInterfaceId=self.account.sensor_interface(made),
                InstanceId=self.random.choice(running),
                DeviceIndex=7,
            )
            self.sensors.append(made)

    def state(self, instance_id: str) -> str:
        return str(self.account._instance(instance_id)._state.name)

    def build(self) -> Case:
        """The account, the settings and the events."""
        rng, account, theme = self.random, self.account, self.theme
        self.networks()
        few = theme in ("unseen", "load balancers", "sweep")
        sizes = (1, 2) if theme == "sweep" else (1, 3, 5)
        self.instances = [self.source_instance() for _ in range(rng.choice(sizes))]
        self.sources = self.addresses(account)
        for one in self.accounts:
            self.some_prefix_lists(one)
        sizes = (1, 2, 3, 4) if few else (0, 1, 2, 3, 5, 8, 12, 30)
        self.sensors = [self.sensor() for _ in range(rng.choice(sizes))]
        for one in self.accounts:
            self.acls(one)
        self.adopt_sensor()
        self.look_alike()
        for _ in range(rng.choice((0, 1, 2)) if theme in ("sweep", "everything") else 0):
            self.database()
        self.sources = [pair for pair in self.addresses(account) if self.is_source(pair[0])]
        self.sessions()
        self.route_tables()
        settings = self.settings()
        self.steer(settings)
        case = Case(account, settings, self.environment(settings), None, scheduled_event())
        case.others = self.roles(case.environment)
        self.event(case)
        self.trouble(case)
        return case

    def is_source(self, interface_id: str) -> bool:
        nic = self.account._backend.enis[interface_id]
        of_database = nic.requester_managed and nic.description.startswith(("RDS", "ElastiCache"))
        return of_database or bool(nic.instance and nic.instance.id in self.instances)

    def settings(self) -> Settings:
        rng, theme = self.random, self.theme
        targets = list(self.sensors) or [self.account.missing_sensor()]
        rng.shuffle(targets)
        if self.others and self.often(0.4):
            targets = self.by_account(targets)
        settings = Settings(
            targets=targets,
            filter_id=self.account.filter_id,
            local_zone_only=self.often(0.4 if theme in ("everything", "accounts") else 0.2),
            local_vpc_only=self.often(0.1 if theme in ("routes", "accounts") else 0.3),
            allow_unverified=self.often(0.8 if theme == "unseen" else 0.3),
            mirror_databases=theme == "sweep" and self.often(0.7),
            mirror_alongside=self.often(0.7 if theme in ("sources", "sweep") else 0.1),
            session_number=rng.choice((1, 1, 2, 9)),
            dry_run=self.often(0.15),
        )
        if self.load_balancers and self.often(0.8):
            settings.exclude_tags = ["absent"]
        if self.often({"sources": 0.4, "tags": 0.6, "sweep": 0.4}.get(theme, 0.1)):
            settings.exclude_tags = rng.choice(TAG_RULES).split(",")
            if self.often(0.3):
                settings.include_tags = rng.choice(TAG_RULES).split(",")
        return settings

    def by_account(self, targets: list[str]) -> list[str]:
        """The targets, those of one account in one word for all of them, wherever it stands."""
        rng = self.random
        owner = rng.choice([*self.others, *self.others, self.account])
        entries = [one for one in targets if one not in owner._backend.traffic_mirror_targets]
        if self.often(0.3):
            entries = targets  # those are named besides
        entries.insert(rng.randint(0, len(entries)), owner.account_id)
        if self.often(0.1):
            entries.insert(rng.randint(0, len(entries)), "9" * 12)  # shows no target
        return entries

    def steer(self, settings: Settings) -> None:
        """Tags of instances that name a filter, or the targets that they may go to."""
        rng = self.random
        if not self.often(0.8 if self.theme == "tags" else 0.1):
            return
        settings.filter_tag, settings.targets_tag = rng.choice(("filter", "")), "sensors"
        further = self.account.filter()
        filters = (further, further, "tmf-0123456789abcdef0", " ", "")
        words = [*self.sensors * 2, ACCOUNT_ID, "tmt-none", "arn:aws:ec2:::tmt-x", "x" * 120]
        for instance_id in self.instances:
            if self.often(0.3) or self.state(instance_id) == "terminated":
                continue
            named = rng.sample(words, rng.choice((0, 1, 2, 3, 3)))
            text = rng.choice((" ", "\t")).join(named)[:256]
            tags = {"filter": rng.choice(filters), "sensors": text}
            self.account._backend.create_tags([instance_id], tags)

    def roles(self, environment: dict[str, str]) -> dict[str, SimulatedAccount | None]:
        """The accounts for which there is a role, whether it can be assumed or not."""
        rng, arns = self.random, []
        accounts: dict[str, SimulatedAccount | None] = {}
        for other in self.others:
            fate = rng.choice(FATES)
            if fate == "none":
                continue
            trusted = None if fate != "denied" else ["999999999999"]
            arns.append(other.role("reader", trusted, path=rng.choice(("/", "/sensors/"))))
            accounts[other.account_id] = None if fate == "denied" else other
            if fate.startswith("a read"):
                call = operation(rng.choice(list(READS.values())[:-1])[0])
                other.deny(f"ec2:{call}") if fate == "a read is denied" else other.fail(call)
        if self.often(0.1):
            arns.append(self.account.role("own"))  # not used
        if self.often(0.1):
            arns.append("arn:aws:iam::333333333333:role/of-nobody-s-sensors")  # nor needed
        rng.shuffle(arns)
        if arns and self.often(0.05):
            self.account.deny("sts:AssumeRole")
            accounts = dict.fromkeys(accounts)
        if self.others and self.often(0.1):  # a boto3 that does not know the IDs of zones
            self.account._stack.enter_context(self.account.old_botocore("AvailabilityZoneId"))
        if arns:
            environment["SENSOR_ROLE_ARNS"] = rng.choice((",", " ", "\n")).join(arns)
        return accounts

    def event(self, case: Case) -> None:
        """One instance, several, or a sweep; once or twice, with a change between."""
        rng = self.random
        instance_ids = list(self.instances)
        hosts = [one for one in self.sensors if self.is_hosted(one)]
        if hosts and self.often(0.2 if self.theme == "sources" else 0.02):
            instance_ids = [self.account.sensor_instance(rng.choice(hosts))]
        if self.theme != "sweep":
            case.instance_ids = instance_ids
            if len(instance_ids) == 1 and self.often(0.8):
                case.event = running_event(instance_ids[0])
            else:
                if self.often(0.05):
                    instance_ids.append(f"i-{rng.getrandbits(68):017x}")
                rng.shuffle(instance_ids)
                case.event = {"instance-ids": instance_ids}
        if case.settings.dry_run and self.often(0.5):
            case.event["dry_run"] = True
        elif case.settings.dry_run:
            case.environment["DRY_RUN"] = "true"
        if self.theme == "warm":
            case.environment["CACHE_SECONDS"] = rng.choice(("0", "60", "60"))
            case.change = lambda: [self.change() for _ in range(rng.choice((1, 2, 3)))]

    def is_hosted(self, target_id: str) -> bool:
        target = self.account._backend.traffic_mirror_targets.get(target_id)
        interface = target and self.account._backend.enis.get(target.network_interface_id)
        return bool(interface and interface.instance)

    def change(self) -> None:
        """Something that matters to a sensor happens between two events."""
        rng, account = self.random, self.account
        backend = account._backend
        known = [one for one in self.sensors if one in backend.traffic_mirror_targets]
        hosted = [one for one in known if self.is_hosted(one)]
        what = rng.choice(("stop", "target", "group", "acl", "routes", "nothing"))
        if what == "stop" and hosted:
            account.stop(account.sensor_instance(rng.choice(hosted)))
        if what == "target" and known:
            account.delete_target(rng.choice(known))
        if what == "group" and hosted:
            nic = backend.enis[account.sensor_interface(rng.choice(hosted))]
            for group in nic._group_set:
                group.ingress_rules.clear()
                if self.often(0.5):
                    account._add_rule(group, rule())
        if what == "acl":
            action = rng.choice(("allow", "deny"))
            entries = [acl_entry(1, action, protocol="-1", egress=e) for e in (True, False)]
            account.acl(rng.choice(self.subnets)[0], entries)
        if what == "routes":
            self.route_tables()

    def trouble(self, case: Case) -> None:
        """What AWS refuses to create, what it does not answer, and rows that cannot be read."""
        rng, account, theme = self.random, self.account, self.theme
        limited = {"limits": 0.3, "tags": 0.1, "sweep": 0.1}.get(theme, 0.03)
        if self.often(limited):
            account.unsupported_types = {"t3.micro"}
        elif self.often(limited):
            account.account_quota = len(account.sessions()) + rng.randint(0, 2)
        elif self.often(limited) and self.sources and theme != "warm":
            account.refuse(rng.choice(self.sources)[0], rng.choice(REFUSALS))
        for one in self.accounts:
            if self.prefix_lists[one.account_id] and self.often(0.2):
                one.deny("ec2:GetManagedPrefixListEntries")
        if self.often(0.1):
            account.deny("ec2:DescribeRouteTables")
        if self.alone or not self.often({"unanswered": 1.0, "sweep": 0.2}.get(theme, 0.0)):
            return
        calls = ["DescribeSecurityGroups", "DescribeRouteTables", "GetManagedPrefixListEntries"]
        calls += ["rows", "rows"]
        if not self.others:  # AMBIGUOUS: whether the source's own outbound ACL is needed
            calls.append("DescribeNetworkAcls")
        if theme != "sweep":  # which also reads databases and instances so
            calls += ["DescribeNetworkInterfaces", "hosts"]
        call = rng.choice(calls)
        denied = self.often(0.5)
        if call == "rows":
            self.damage(case.instance_ids)
        elif call == "hosts":
            hosts = [account.sensor_instance(one) for one in self.sensors if self.is_hosted(one)]
            hosts = [one for one in hosts if one not in (case.instance_ids or ())]
            case.missing["hosts"] = denied
            how = {"code": "UnauthorizedOperation", "status": 403} if denied else {}
            account.fail(
                "DescribeInstances",
                where=lambda parameters: any(host in str(parameters) for host in hosts),
                **how,
            )
        elif denied:
            account.deny(f"ec2:{call}")
        else:
            account.fail(call)

    def damage(self, instance_ids: Sequence[str] | None) -> None:
        """Some rows about sensors lack what the rules need, or hold what is no address."""
        rows: dict[str, Callable[[dict[str, Any]], Any]] = {}
        bad_rule = {"IpProtocol": "udp", "IpRanges": [{"CidrIp": "no block"}]}
        bad_entry = {**acl_entry(1, "allow", "no block"), "RuleNumber": 0}
        for one in filter(self.is_hosted, self.sensors):
            nic = self.account._backend.enis[self.account.sensor_interface(one)]
            kind = self.random.choice(("host", "face", "group", "acl", "target", "", "", ""))
            if kind == "host":
                if instance_ids is not None and nic.instance.id not in instance_ids:
                    rows[nic.instance.id] = lambda row: row.update(State={})
            elif kind == "face":
                rows[nic.id] = lambda row: row.pop("AvailabilityZone")
            elif kind == "target":
                rows[one] = lambda row: row.pop("NetworkInterfaceId")
            elif kind == "acl":
                rows[nic.subnet.id] = lambda row: row["Entries"].insert(0, bad_entry)
            elif kind == "group":
                change = lambda row: row.update(IpPermissions=[bad_rule])  # noqa: E731
                rows.update(dict.fromkeys([group.id for group in nic._group_set], change))
        self.account._stack.enter_context(rows_instead(rows))

    def environment(self, settings: Settings) -> dict[str, str]:
        """The settings as environment variables, some of the defaults left out."""
        separator = self.random.choice((",", ", ", " ", "\n"))
        result = {"filter_id": settings.filter_id, "targets": separator.join(settings.targets)}
        for one in fields(settings):
            value = getattr(settings, one.name)
            if one.name in ("filter_id", "targets", "dry_run"):
                continue
            if value != getattr(Settings(), one.name) or self.often(0.3):
                text = value if isinstance(value, (str, int)) else ",".join(value)
                result[one.name.upper()] = str(text)
        return result


def operation(method: str) -> str:
    """The name of the call that a client's method makes."""
    return method.title().replace("_", "")


def rows_instead(rows: dict[str, Callable[[dict[str, Any]], Any]]) -> Any:
    """The function and the model are shown these rows, by ID (an ACL: its subnet), changed."""
    ask = BaseClient._make_api_call

    def shown(client: Any, name: str, parameters: Any) -> Any:
        found = ask(client, name, parameters)
        instances = [row for group in found.get("Reservations", ()) for row in group["Instances"]]
        for row in instances:
            rows.get(row["InstanceId"], len)(row)
        for row in found.get("NetworkAcls", ()):
            for association in row["Associations"]:
                rows.get(association["SubnetId"], len)(row)
        for kind, key in (
            ("NetworkInterfaces", "NetworkInterfaceId"),
            ("SecurityGroups", "GroupId"),
            ("TrafficMirrorTargets", "TrafficMirrorTargetId"),
        ):
            for row in found.get(kind, ()):
                rows.get(row[key], len)(row)
        return found

    return patch.object(BaseClient, "_make_api_call", shown)


# --------------------------------------------------------------------------------------
# Reading the account
# --------------------------------------------------------------------------------------


@cache
def reader(key: str = CREDENTIALS["aws_access_key_id"]) -> Any:
    """A client that sees what the function sees, with the key of an account; one for all worlds,
    as making one is slow."""
    credentials = {**CREDENTIALS, "aws_access_key_id": key}
    return boto3.Session().client("ec2", region_name=REGION, **credentials)


def read_world(case: Case) -> World:
    """What the function could know: hidden resources are left out."""
    world = read_account(case.account)
    world.missing |= case.missing
    unasked = World(missing={"account": True})
    accounts = {key: read_account(one) if one else unasked for key, one in case.others.items()}
    return replace(world, accounts=accounts)


def read_account(account: SimulatedAccount) -> World:
    client = reader(account._access_key)
    found: dict[str, Any] = {}
    missing: dict[str, bool] = {}

    def read(name: str, method: str, key: str, **parameters: Any) -> list[Any] | None:
        try:
            pages = client.get_paginator(method).paginate(**parameters)
            return [row for page in pages for row in page[key]]
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if not code.endswith("NotFound"):
                missing[name] = code == "UnauthorizedOperation"
            return None

    for name, (method, key) in READS.items():
        hidden = {"IncludeManagedResources": True} if name in ("reservations", "interfaces") else {}
        found[name] = read(name, method, key, **hidden) or []
    if "reservations" in missing:
        missing["hosts"] = missing["reservations"]
    permissions = [one for group in found["groups"] for one in group["IpPermissions"]]
    listed = {one["PrefixListId"] for rule in permissions for one in rule.get("PrefixListIds", [])}
    entries = {
        one: read(one, "get_managed_prefix_list_entries", "Entries", PrefixListId=one)
        for one in listed
    }
    lists = {key: rows for key, rows in entries.items() if rows is not None}
    # Without the permission a rule that names the list does not match; that is no missing answer.
    missing = {key: final for key, final in missing.items() if not (key in listed and final)}
    return World(account.account_id, prefix_lists=lists, missing=missing, **found)


# --------------------------------------------------------------------------------------
# Playing a case
# --------------------------------------------------------------------------------------

ENTRY_KEYS = ("interface_id", "instance_id", "outcome", "reason", "target_id", "session_id")
ENTRY_KEYS += ("session_name", "sensors")
Body = dict[str, Any]


class Entries(logging.Handler):
    """The entries that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Body] = []

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "outcome"):
            self.entries.append({key: getattr(record, key, None) for key in ENTRY_KEYS})


def handle(event: dict[str, Any], environment: dict[str, str]) -> Body:
    """The body of the result, its status and the metrics. Where the handler raises there is no
    result: then what is logged, and the error."""
    logged, printed, logger = Entries(), io.StringIO(), lambda_traffic_mirror.logger
    level = logger.level
    logger.addHandler(logged)
    logger.setLevel(logging.DEBUG)
    try:
        with patch.dict(os.environ, environment), redirect_stdout(printed):
            result = lambda_traffic_mirror.lambda_handler(event, LambdaContext())
        body = {"status": result["statusCode"], **json.loads(result["body"])}
    except lambda_traffic_mirror.MirroringError as error:
        summary = Counter(entry["outcome"] for entry in logged.entries)
        body = {"error": str(error), "interfaces": logged.entries, "summary": summary}
    finally:
        logger.removeHandler(logged)
        logger.setLevel(level)
    body["metrics"] = {}
    for line in printed.getvalue().splitlines():
        if line.startswith("{") and "_aws" in line:
            values = json.loads(line)
            if "TargetId" in values:
                body["metrics"][values["TargetId"]] = values["Sessions"]
            else:
                body["metrics"] |= values
    return body


def creates_of(case: Case, start: int) -> Creates:
    """What AWS answered to the creates since this place in the log of calls."""
    found: Creates = {}
    for call in case.account.calls[start:]:
        if call.operation == CREATE:
            names = ("NetworkInterfaceId", "TrafficMirrorTargetId", "TrafficMirrorFilterId")
            key = [call.parameters[name] for name in names]
            found.setdefault((key[0], key[1], key[2]), []).append(call.code)
            assert call.parameters["SessionNumber"] == case.settings.session_number
    return found


def play(seed: int) -> list[str]:
    """Build the account of a seed and return how the function differs from the model: a paragraph
    for each difference, and what matters of the interface and the sensor."""
    random.seed(seed)  # IDs decide ties: the same seed makes the same IDs
    mock_random.seed(seed)
    with ExitStack() as stack:
        account = stack.enter_context(SimulatedAccount())
        fresh: dict[str, Any] = {"_memory": {}, "_unsupported": {}}
        fresh["_clients"] = {None: (reader(), None)}
        stack.enter_context(patch.multiple(lambda_traffic_mirror, **fresh))
        case = Builder(account, seed).build()
        remembered: World | None = None
        not_supported: set[str] = set()
        found: list[str] = []
        for turn in range(2 if case.change else 1):
            if turn and case.change:
                case.change()
            world = read_world(case)
            start = len(account.calls)
            body = handle({**case.event, "id": f"turn-{turn}"}, case.environment)
            creates = creates_of(case, start)
            context = Compared(case, world, body, creates, remembered, not_supported)
            found += [f"event {turn + 1}: {each}" for each in context.differences()]
            if case.environment.get("CACHE_SECONDS", "0") != "0":
                remembered = world
            unsupported = "NetworkInterfaceNotSupported"
            not_supported |= {key[0] for key, codes in creates.items() if unsupported in codes}
    return found


# --------------------------------------------------------------------------------------
# Comparing
# --------------------------------------------------------------------------------------


@dataclass
class Compared:
    """One event's result beside what the model expects."""

    case: Case
    world: World
    body: Body
    creates: Creates
    remembered: World | None
    not_supported: set[str]

    def expect(self, order: Sequence[str] = ()) -> tuple[list[ExpectedInterface], Creates]:
        """What the model expects, and the creates that it cannot explain."""
        creates = {key: list(codes) for key, codes in self.creates.items()}
        found = model.expect(
            self.world,
            self.case.settings,
            self.case.instance_ids,
            creates,
            self.remembered,
            self.not_supported,
            order,
        )
        return found, {key: codes for key, codes in creates.items() if codes}

    def differences(self) -> list[str]:
        """One paragraph for each. A sweep chooses its order: the one that explains most counts."""
        orders: Iterator[tuple[str, ...]] = iter([()])
        if self.case.instance_ids is None:
            tried = {key[0] for key in self.creates}
            pages: dict[bool, list[str]] = {False: [], True: []}
            for item in self.expect()[0]:
                if item.interface_id in tried or item.sensors != []:
                    pages[item.instance_id is None].append(str(item.interface_id))
            first, then = (itertools.permutations(page[:5]) for page in pages.values())
            orders = (one + other for one, other in itertools.product(first, then))
        best: list[str] | None = None
        for order in orders:
            found = list(self.against(*self.expect(order)))
            if best is None or len(found) < len(best):
                best = found
            if not best:
                break
        return best or []

    def against(self, results: list[ExpectedInterface], left: Creates) -> Iterator[str]:
        body, sweep = self.body, self.case.instance_ids is None
        entries = {(e["instance_id"], e["interface_id"]): e for e in body["interfaces"]}
        named = [(item.instance_id, item.interface_id) for item in results]
        if sweep:  # what shows no interface is not mentioned
            entries = {key: entry for key, entry in entries.items() if key[1]}
            results = [item for item in results if item.interface_id]
            named = [key for key in named if key[1]]
        in_order = list(entries) if not (sweep or "error" in body) else sorted(entries, key=str)
        wanted = named if not (sweep or "error" in body) else sorted(named, key=str)
        # Where an instance without any interface to name stands in the list is not promised.
        if [key for key in wanted if key[1]] != [key for key in in_order if key[1]]:
            yield f"interfaces: expected {wanted}, got {in_order}"
        for key, codes in left.items():
            yield f"a create that nothing explains: {key}, answered {codes}"
        for item in results:
            entry = entries.get((item.instance_id, item.interface_id))
            if entry is None:
                yield f"{item.instance_id} is not mentioned"
                continue
            for difference in self.of_interface(item, entry):
                yield f"{item.interface_id or item.instance_id}: {difference}\n{self.about(item)}"
        outcomes = Counter(item.outcome for item in results)
        if not sweep and {k: v for k, v in body["summary"].items() if v} != dict(outcomes):
            yield f"summary {body['summary']}, expected {dict(outcomes)}"
        if outcomes["failed"]:
            if f"{outcomes['failed']} failed" not in body.get("error", ""):
                yield f"{outcomes['failed']} failed, the error says {body.get('error')}"
        elif body.get("status") != (400 if outcomes["unmirrored"] or outcomes["blocked"] else 200):
            yield f"status {body.get('status')}"
        yield from self.of_metrics(results, outcomes)

    def of_metrics(self, results: list[ExpectedInterface], outcomes: Counter[str]) -> Iterator[str]:
        metrics, settings = self.body["metrics"], self.case.settings
        if self.case.event.get("dry_run"):
            return
        wanted: dict[str, float] = {}
        if self.case.instance_ids is None and not outcomes["failed"]:
            wanted = model.sweep_metrics(self.world, settings, results)
        for outcome in ("created", "planned", "exists", "unmirrored", "blocked", "failed"):
            wanted[outcome] = outcomes[outcome]
        for name, value in wanted.items():
            if metrics.get(name) is None or abs(metrics[name] - value) > 0.1:
                yield f"metric {name}: {metrics.get(name)}, expected {value}"

    def of_interface(self, item: ExpectedInterface, entry: Body) -> Iterator[str]:
        if set(entry) != set(ENTRY_KEYS):
            yield f"keys {sorted(entry)}"
        if item.outcome != entry["outcome"]:
            yield f"{entry['outcome']} ({entry['reason']}), expected {item.outcome}"
        if item.sessions and item.outcome in ("exists", "blocked"):
            pair = (entry["target_id"], entry["session_id"])
            if pair not in item.sessions:
                yield f"names {pair}, expected one of {item.sessions}"
        elif item.outcome != "failed" and entry["target_id"] != item.target_id:
            yield f"target {entry['target_id']}, expected {item.target_id}"
        if item.outcome in ("created", "planned"):
            tag = f"eh-mirror-{str(item.interface_id)[4:8]}{str(item.target_id)[4:8]}"
            if entry["session_name"] != tag:
                yield f"session name {entry['session_name']}, expected {tag}"
        shown = entry["sensors"]
        if item.sensors is None or shown is None or (item.outcome == "failed" and not shown):
            return
        wanted = [sensor.target_id for sensor in item.sensors]
        if wanted != [sensor["target_id"] for sensor in shown]:
            yield f"sensors {[sensor['target_id'] for sensor in shown]}, expected {wanted}"
            return
        for sensor, found in zip(item.sensors, shown, strict=True):
            for difference in self.of_sensor(sensor, found):
                yield f"{sensor.target_id}: {difference}\n{self.about(item, sensor.target_id)}"

    @staticmethod
    def of_sensor(sensor: ExpectedSensor, found: Body) -> Iterator[str]:
        if set(found) != {"target_id", "verdict", "stage", "reason", "sessions"}:
            yield f"keys {sorted(found)}"
        if (found["verdict"], found["stage"]) != (sensor.verdict, sensor.stage):
            yield (
                f"{found['verdict']} at {found['stage']} ({found['reason']}), "
                f"expected {sensor.verdict} at {sensor.stage}"
            )
        elif not found["stage"] and sensor.behind not in (None, "ranked last" in found["reason"]):
            yield f"behind {sensor.behind}, not {found['reason']}"
        elif found["sessions"] not in (None, sensor.sessions):
            yield f"{found['sessions']} sessions, expected {sensor.sessions}"

    def about(self, item: ExpectedInterface, target_id: str = "") -> str:
        """What matters of a source, and of a sensor: rows as AWS shows them."""
        lines: list[Any] = [self.case.settings, f"not answered: {self.world.missing}"]
        lines += [self.world.instance(item.instance_id or "")]
        lines += rows_about(self.world, item.interface_id)
        target = model.find(self.world.targets, "TrafficMirrorTargetId", target_id)
        if target:
            view, faces = model.owner_of(self.world, target), model.faces_of(self.world, target)
            lines += [target, f"not answered there: {view.missing}"]
            for face in [] if isinstance(faces, str) else faces:
                lines += [view.instance((face.get("Attachment") or {}).get("InstanceId", ""))]
                lines += rows_about(view, face["NetworkInterfaceId"])
        return "\n".join(f"    {str(line)[:1500]}" for line in lines)


def rows_about(world: World, interface_id: str | None) -> list[Any]:
    """An interface, its groups, its subnet's ACL and its VPC's route tables."""
    row = model.find(world.interfaces, "NetworkInterfaceId", interface_id) or {}
    group_ids = [group["GroupId"] for group in row.get("Groups", ())]
    groups = [group for group in world.groups if group["GroupId"] in group_ids]
    tables = [table for table in world.route_tables if table["VpcId"] == row.get("VpcId")]
    return [row, *groups, model.acl_of(world, row.get("SubnetId", "")), *tables]
