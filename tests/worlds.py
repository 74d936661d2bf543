"""Random AWS accounts, one for each seed, and how what the function makes of them differs from
what the model expects: see `play`.
"""

from __future__ import annotations

import io
import ipaddress
import itertools
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import fields, replace
from functools import cache, partial
from typing import Any

import boto3
import model
import pytest
from aws import SimulatedAccount, acl_entry, route, rule, running_event, scheduled_event
from aws.transport import CREDENTIALS, OTHER_ACCOUNT_ID
from botocore.exceptions import ClientError
from calls import ASSUME, CREATE
from conftest import Scene, deliver, warm
from model import Creates, ExpectedInterface, Settings, World
from moto.moto_api._internal import mock_random

# What a world is mostly about: one after the other, so that few worlds cover every rule.
THEMES = ("everything", "acls", "groups", "unseen", "balancers", "limits", "routes")
THEMES += ("accounts", "sweep", "tags", "unanswered", "warm", "sources")
# Kinds of sensors, each as often as it stands there.
ODD = ["unattached", "stopped", "missing", "deleted", "nlb", "foreign"]
SENSOR_KINDS = {
    "here": ["plain"] * 18 + ["unattached", "unattached", "stopped", "stopped", "adopted"],
    "everything": ["plain"] * 12 + ODD + ODD + ["gwlb", "foreign nlb", "deleted nlb"],
    "sweep": ["plain"] * 5 + ODD,
    "unseen": ["plain", "plain", "plain", "foreign", "deleted", "foreign nlb"],
    "balancers": ["nlb", "nlb", "nlb", "gwlb"],
    "sources": ["plain"] * 9 + ["unattached", "stopped", "adopted", "adopted"],
    "abroad": ["plain"] * 8
    + ["unattached", "stopped", "deleted", "nlb", "nlb", "gwlb", "deleted nlb", "private"],
}
PORT_RANGES = ((4789, 4789), (4789, 4789), (4788, 4788), (4790, 4790), (4788, 4789), (4789, 4790))
PORT_RANGES += ((4788, 4790), (0, 4788), (0, 65535), (4790, 65535), None)
TAGS = {"mirror": ("yes", "no", ""), "team": ("blue", "red=green"), "Name": ("web",)}
TAG_RULES = ("mirror=yes", "mirror", "mirror=", "team=red=green", "team", "Mirror=yes")
TAG_RULES += ("mirror=yes,team=blue", "absent,Name")
# Whether there is a role in an account with sensors, and what it may read.
FATES = ("works",) * 5 + ("denied", "a read is denied", "a read fails", "none")
NEXT_HOPS = ("pcx", "tgw", "pcx", "tgw", "vpce", "eni", "instance", "vgw", "lgw", "core_network")
NEXT_HOPS += ("igw", "nat", "eigw", "cagw")
# How each field of a World is read, and the rows' name.
READS = {
    "reservations": ("describe_instances", "Reservations"),
    "interfaces": ("describe_network_interfaces", "NetworkInterfaces"),
    "targets": ("describe_traffic_mirror_targets", "TrafficMirrorTargets"),
    "sessions": ("describe_traffic_mirror_sessions", "TrafficMirrorSessions"),
    "groups": ("describe_security_groups", "SecurityGroups"),
    "acls": ("describe_network_acls", "NetworkAcls"),
    "route_tables": ("describe_route_tables", "RouteTables"),
}
# Refusals of one create that AWS may answer with, whatever the account looks like.
REFUSALS = ("InterfaceInUseByTrafficMirrorTarget", "InvalidNetworkInterfaceID.NotFound")
REFUSALS += ("AuthFailure", "OperationNotPermitted", "NetworkInterfaceNotSupported")
REFUSALS += ("TagPolicyViolation",)
NO_BLOCK = {"IpProtocol": "udp", "IpRanges": [{"CidrIp": "no block"}]}
# What makes a row about a sensor unreadable: it lacks what the rules need, or holds no block.
DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "DescribeInstances": lambda row: row.update(State={}),
    "DescribeNetworkInterfaces": lambda row: row.pop("AvailabilityZone"),
    "DescribeTrafficMirrorTargets": lambda row: row.pop("NetworkInterfaceId"),
    "DescribeSecurityGroups": lambda row: row.update(IpPermissions=[NO_BLOCK]),
    "DescribeNetworkAcls": lambda row: row["Entries"].insert(0, acl_entry(0, "allow", "no block")),
}


def seeds(text: str) -> range:
    """Which seeds to run: `100` are the first ones, `500-700` those from 500 to 699."""
    first, _, end = text.rpartition("-")
    return range(int(first or 0), int(end))


# --- A random account


class Builder:
    """One account, others whose targets it sees, the function's settings, and its event.

    `instance_ids` is None for a sweep. `roles` has the accounts for which there is a role, None
    where it cannot be assumed. `missing` holds what AWS will not answer that reading the account
    does not show. `alone`: there are no other accounts, and AWS answers whatever it is asked.
    """

    def __init__(self, account: Scene, seed: int, alone: bool = False) -> None:
        self.account, self.alone = account, alone
        self.random = rng = random.Random(seed)
        self.theme = THEMES[seed % len(THEMES)]
        few = (1, 1, 2)
        count = self.pick((1, 2, 2, 3, 4), limits=few, sweep=few, tags=few, sources=few)
        self.zones = ("a", "b", "c", "d")[:count]
        self.others: list[SimulatedAccount] = []
        if not alone and self.often(0.15, accounts=1.0, sweep=0.4):
            for number in range(rng.choice((1, 1, 2))):
                ids = [account.zone_id(zone) for zone in self.zones]
                rng.shuffle(ids)
                zones = dict(zip(self.zones, ids, strict=True))
                self.others.append(account.other(f"21098765432{number}", zones=zones))
        self.accounts: list[SimulatedAccount] = [account, *self.others]
        self.subnets_of: dict[str, list[tuple[str, str, str]]] = {}  # subnet, zone, VPC
        self.blocks: list[str] = []  # of all VPCs
        self.source_groups: list[str] = []
        self.prefix_lists: dict[str, list[str]] = {}  # by account
        self.sources: list[tuple[str, str]] = []  # interface, address
        self.instances: list[str] = []
        self.sensors: list[str] = []
        self.load_balancers = False
        self.instance_ids: list[str] | None = None
        self.event: dict[str, Any] = scheduled_event()
        self.roles: dict[str, SimulatedAccount | None] = {}
        self.missing: dict[str, bool] = {}

    def often(self, usual: float, **themes: float) -> bool:
        """True with this probability, or the theme's own."""
        return self.random.random() < themes.get(self.theme, usual)

    def pick(self, usual: Sequence[Any], **themes: Sequence[Any]) -> Any:
        """One of these, or of the theme's own."""
        return self.random.choice(themes.get(self.theme, usual))

    @property
    def subnets(self) -> list[tuple[str, str, str]]:
        return self.subnets_of[self.account.account_id]

    def build(self) -> Builder:
        self.networks()
        some = (1, 2, 3, 4)
        self.instances = [self.source() for _ in range(self.pick((1, 3, 5), sweep=(1, 2)))]
        for _ in range(self.pick((0,), sweep=(0, 1, 2))):
            self.database()
        self.sources = self.addresses(self.account)
        for account in self.accounts:
            self.some_prefix_lists(account)
        sizes = (0, 1, 2, 3, 5, 8, 12, 30)
        for _ in range(self.pick(sizes, unseen=some, balancers=some, sweep=some)):
            self.sensors.append(self.sensor())
        for account in self.accounts:
            self.acls(account)
        self.look_alike()
        self.sessions()
        self.route_tables()
        self.settings = self.some_settings()
        self.steer()
        self.environment = self.variables()
        self.make_roles()
        self.make_event()
        self.refusals()
        if not self.alone and self.often(0.0, unanswered=1.0, sweep=0.2):
            self.faults()
        return self

    # --- Networks

    def networks(self) -> None:
        """VPCs, subnets with the default ACL, groups for the sources."""
        rng = self.random
        for place, account in enumerate(self.accounts):
            subnets = self.subnets_of.setdefault(account.account_id, [])
            for index in range(self.pick((1, 1, 2), routes=(2, 3), groups=(1, 2, 3))):
                # Blocks of VPCs may be the same: nothing may depend on the address alone.
                own = f"10.{4 * place + index}.0.0/16"
                self.blocks.append(rng.choice(("10.0.0.0/16", own, own, "192.168.0.0/16")))
                vpc = account.vpc(self.blocks[-1])
                for zone in self.zones:
                    for _ in range(rng.choice((1, 2, 3))):
                        subnets.append((account.subnet(zone, vpc=vpc), zone, vpc))
        for _ in range(rng.randint(1, 4)):
            _, _, vpc = rng.choice(self.subnets)
            self.source_groups.append(self.account.group(vpc=vpc))

    def addresses(self, *accounts: SimulatedAccount) -> list[tuple[str, str]]:
        found = [a.ec2.describe_network_interfaces()["NetworkInterfaces"] for a in accounts]
        rows = [row for page in found for row in page if row.get("PrivateIpAddress")]
        return [(row["NetworkInterfaceId"], row["PrivateIpAddress"]) for row in rows]

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

    def some_prefix_lists(self, account: SimulatedAccount) -> None:
        lists = self.prefix_lists.setdefault(account.account_id, [])
        for _ in range(self.random.choice((0, 1, 3))):
            far = [f"172.16.{n}.0/24" for n in range(self.random.choice((0, 1, 3, 130)))]
            # The one that may matter comes last: on the last page.
            lists.append(account.prefix_list(*far[1:], *([self.block()] if far else [])))

    def acls(self, account: SimulatedAccount) -> None:
        """Random ACLs for some subnets; each contradicts itself as often as it likes."""
        rng, everyone = self.random, self.addresses(*self.accounts)
        for subnet, _, _ in self.subnets_of[account.account_id]:
            if self.often(0.8, acls=0.1, unseen=0.3, balancers=0.2):
                continue
            entries: list[dict[str, Any]] = []
            for egress in (False, True):
                for number in rng.sample(range(1, 500), rng.randint(1, 6)):
                    block = "::/0" if self.often(0.1) else self.block(everyone if egress else ())
                    protocol = rng.choice(("-1", "-1", "17", "17", "17", "6", "1"))
                    action, ports = rng.choice(("allow", "deny")), rng.choice(PORT_RANGES)
                    entry = acl_entry(number, action, block, protocol, ports, egress)
                    if protocol == "-1" and ports and self.often(0.6):
                        entry["PortRange"] = {"From": ports[0], "To": ports[1]}
                    entries.append(entry)
                if self.often(0.6):
                    last = rng.randint(500, 999)
                    entries.append(acl_entry(last, "allow", protocol="-1", egress=egress))
            rng.shuffle(entries)
            self.perhaps_hide(account, account.acl(subnet, entries))

    def perhaps_hide(self, account: SimulatedAccount, resource_id: str) -> None:
        mixed = dict.fromkeys(("everything", "balancers", "accounts", "unanswered"), 0.1)
        if account is self.account and self.often(0.0, unseen=0.4, **mixed):
            account.hide(resource_id)

    def route_tables(self) -> None:
        """Random routes for most VPCs and some subnets, mostly with a way to all other VPCs."""
        for vpc in sorted({vpc for _, _, vpc in self.subnets}):
            if self.often(0.8):
                self.account.route_table(vpc, self.routes(), main=True)
            for subnet, _, its_vpc in self.subnets:
                if its_vpc == vpc and self.often(0.3):
                    self.account.route_table(vpc, self.routes(), subnets=[subnet])

    def routes(self) -> list[dict[str, Any]]:
        rng, everyone = self.random, self.addresses(*self.accounts)

        def some(block: str, hops: Sequence[str], origin: str = "CreateRoute") -> dict[str, Any]:
            hop = rng.choice(hops)
            state = rng.choice(("active",) * 6 + ("blackhole", "filtered"))
            to = {hop: rng.choice(self.instances) if hop == "instance" else True}
            to = {"igw": "VpcLattice"} if hop == "lattice" else to
            return {**route(block, state=state, **to), "Origin": origin}

        blocks = [block for block in self.blocks if self.often(0.8)]
        blocks += [self.block(everyone) for _ in range(rng.choice((0, 0, 1, 2, 3, 6, 50)))]
        routes = []
        for block in dict.fromkeys(blocks):
            origins = ("EnableVgwRoutePropagation", "Advertisement")
            further = [origin for origin in origins if self.often(0.1)]
            routes += [some(block, ("vgw", "tgw", "eni"), origin) for origin in further]
            if not further or self.often(0.7):
                likely = ("pcx", "tgw") * 4 if block in self.blocks else ()
                routes.append(some(block, (*likely, *NEXT_HOPS)))
        hops = ("vpce", "lattice", "lattice", "tgw", "nat", "igw", "vgw")
        lists = [f"pl-0123456789abcdef{n}" for n in range(rng.choice((0, 0, 1, 1, 2)))]
        routes += [some(one, hops) for one in lists]
        routes += [route("::/0", igw=True)] * self.often(0.2)
        rng.shuffle(routes)
        return routes

    # --- Sources

    def source(self) -> str:
        """An instance with one to four interfaces, in subnets of one zone."""
        account, rng = self.account, self.random
        subnet, zone, vpc = rng.choice(self.subnets)
        instance = account.instance(
            subnet,
            self.some_source_groups(),
            tags={key: rng.choice(values) for key, values in TAGS.items() if self.often(0.5)},
            instance_type=rng.choice(("m5.large", "t3.micro", "c5.large")),
            interface_type="efa" if self.often(0.02, sources=0.1) else "interface",
            ipv6_only=self.often(0.02, sources=0.1),
            managed=self.often(0.03, limits=0.2, sweep=0.2),
        )
        for index in range(1, self.pick((1, 1, 1, 2, 3, 4), sweep=(1, 1, 2))):
            near = [s for s, z, v in self.subnets if z == zone and (v == vpc or self.often(0.2))]
            extra = account.interface(
                rng.choice(near),
                self.some_source_groups(),
                type="branch" if self.often(0.04, sources=0.2) else "interface",
                ipv6_only=self.often(0.04, sources=0.2),
            )
            self.attach(extra, instance, index)
        if self.often(0.04, sources=0.2):
            states = ("pending",) * 4 + ("stopped", "terminated", "shutting-down")
            account.set_state(instance, rng.choice(states))
        return instance

    def attach(self, interface_id: str, instance_id: str, index: int) -> None:
        self.account.ec2.attach_network_interface(
            NetworkInterfaceId=interface_id, InstanceId=instance_id, DeviceIndex=index
        )

    def some_source_groups(self) -> list[str]:
        size = self.random.randint(1, min(2, len(self.source_groups)))
        return self.random.sample(self.source_groups, size)

    def database(self) -> None:
        """An interface of RDS or ElastiCache, or one that only looks like it."""
        account, rng = self.account, self.random
        where = rng.choice(self.subnets)[0], self.some_source_groups()
        kind = rng.choice(("rds", "rds", "elasticache", "custom", "own", "other service"))
        if kind == "own":
            account.interface(*where, "RDSNetworkInterface")
        elif kind == "other service":
            text = "ElastiCache cluster-1"
            account.requester_managed(*where, requester="amazon-elb", description=text)
        else:
            account.database(*where, elasticache=kind == "elasticache", custom=kind == "custom")

    def sessions(self) -> None:
        """Some interfaces have sessions already, to our sensors, to those of others, to none."""
        rng = self.random
        decoys = [self.account.sensor(self.subnets[0][0], sessions=1) for _ in range(2)]
        for interface_id, _ in self.sources:
            if self.often(0.05, sources=0.5, sweep=0.6):
                several = [*self.sensors, *decoys]
                targets = rng.choice((self.sensors, self.sensors, decoys, decoys, several))
                if self.often(0.1) or not targets:
                    targets = [self.account.missing_sensor()]
                for number in rng.sample((1, 2, 9), rng.choice((1, 1, 2, 3))):
                    self.account.session(interface_id, rng.choice(targets), number)

    # --- Sensors

    def sensor(self) -> str:
        """One sensor of any kind, here or in another account."""
        if not self.others or not self.often(0.3, accounts=0.7):
            return self.sensor_in(self.account, self.pick(SENSOR_KINDS["here"], **SENSOR_KINDS))
        owner, kind = self.random.choice(self.others), self.random.choice(SENSOR_KINDS["abroad"])
        made = self.sensor_in(owner, kind)
        if kind != "private":
            owner.share(made, interface=self.often(0.6))
        for _ in range(self.random.choice((0, 0, 1, 2))):  # of ours
            self.account.session(f"eni-{self.random.getrandbits(68):017x}", made)
        return made

    def sensor_in(self, account: SimulatedAccount, kind: str) -> str:
        rng, subnets = self.random, self.subnets_of[account.account_id]
        subnet, _, vpc = rng.choice(subnets)
        quota = self.pick((2, 5, 10, 10), limits=(0, 1, 1, 2, 3))
        sessions = rng.choice((0, 0, 1, 1, 2, 3, 7))
        groups = self.sensor_groups(vpc, account)
        if kind == "missing":
            return account.missing_sensor()
        if kind == "foreign":
            return account.foreign_sensor(subnet, groups, quota=quota, sessions=sessions)
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
        else:
            states = ("stopped", "stopping", "shutting-down", "pending")
            state = rng.choice(states) if kind == "stopped" else "running"
            options = {"quota": quota, "sessions": sessions, "state": state}
            attached = kind not in ("unattached", "adopted")
            made = account.sensor(subnet, groups, attached=attached, **options)
        if kind.startswith("deleted"):
            account.delete_sensor_interface(made)
        if kind == "adopted":  # attached to one of the source instances
            running = [one for one in self.instances if self.state(one) in ("running", "pending")]
            for instance in running[:1]:
                self.attach(account.sensor_interface(made), instance, 7 + len(self.sensors))
        return made

    def sensor_groups(self, vpc: str, account: SimulatedAccount) -> list[str] | None:
        """The groups of one sensor, rarely all of them in sight; None for an open one."""
        if self.often(0.7, groups=0.0, unseen=0.1, acls=0.9):
            return None
        groups = []
        for _ in range(self.random.choice((1, 1, 2, 3))):
            rules = [self.rule(account) for _ in range(self.random.choice((0, 1, 1, 2, 4)))]
            groups.append(account.group(*rules, vpc=vpc))
            self.perhaps_hide(account, groups[-1])
        return groups

    def rule(self, account: SimulatedAccount) -> dict[str, Any]:
        rng, lists = self.random, self.prefix_lists[account.account_id]
        protocol = rng.choice(("udp", "udp", "udp", "17", "-1", "tcp", "icmp"))
        peering = rng.choice((None, None, "active", "deleted", "deleted", "pending-acceptance"))
        group = {"group": rng.choice(self.source_groups), "peering": peering}
        group["owner"] = self.account.account_id
        listed = {"prefix_list": rng.choice(lists)} if lists else {}
        block = {"cidr": self.block()}
        origins = (block, block, group, group, listed, listed, {"cidr": "::/0"}, {})
        return rule(protocol, rng.choice(PORT_RANGES), **rng.choice(origins))

    def look_alike(self) -> None:
        """An interface whose description nearly is that of a load balancer of ours."""
        rows = self.account.ec2.describe_network_interfaces()["NetworkInterfaces"]
        texts = [row["Description"] for row in rows]
        if texts := [text for text in texts if text.startswith(("ELB", "VPC"))]:
            text = self.random.choice(texts)
            near = self.random.choice((text + "0", text[:-1], "my " + text, text.rsplit("/")[0]))
            self.account.interface(self.random.choice(self.subnets)[0], description=near)

    def state(self, instance_id: str) -> str:
        return str(self.account._instance(instance_id)._state.name)

    @property
    def hosted(self) -> list[str]:
        """The sensors here whose interface is attached to an instance."""
        targets, enis = self.account._backend.traffic_mirror_targets, self.account._backend.enis
        known = [one for one in self.sensors if one in targets]
        faces = {one: enis.get(targets[one].network_interface_id) for one in known}
        return [one for one, face in faces.items() if face and face.instance]

    # --- Settings

    def some_settings(self) -> Settings:
        rng = self.random
        targets = list(self.sensors) or [self.account.missing_sensor()]
        rng.shuffle(targets)
        if self.others and self.often(0.4):
            targets = self.by_account(targets)
        settings = Settings(
            targets=targets,
            filter_id=self.account.filter_id,
            local_zone_only=self.often(0.2, everything=0.4, accounts=0.4),
            local_vpc_only=self.often(0.3, routes=0.1, accounts=0.1),
            allow_unverified=self.often(0.3, unseen=0.8),
            mirror_databases=self.often(0.0, sweep=0.7),
            mirror_alongside=self.often(0.1, sources=0.7, sweep=0.7),
            session_number=rng.choice((1, 1, 2, 9)),
            dry_run=self.often(0.15, limits=0.05),
        )
        if self.load_balancers and self.often(0.8):
            settings.exclude_tags = ["absent"]
        if self.often(0.1, sources=0.4, tags=0.6, sweep=0.4):
            settings.exclude_tags = rng.choice(TAG_RULES).split(",")
            if self.often(0.3):
                settings.include_tags = rng.choice(TAG_RULES).split(",")
        return settings

    def by_account(self, targets: list[str]) -> list[str]:
        """The targets, those of one account in one word for all of them, wherever it stands."""
        rng, owner = self.random, self.random.choice([*self.others, *self.others, self.account])
        if self.often(0.7):  # else those are named besides
            owned = owner._backend.traffic_mirror_targets
            targets = [one for one in targets if one not in owned]
        for account_id in (owner.account_id, *(["9" * 12] if self.often(0.1) else [])):
            targets.insert(rng.randint(0, len(targets)), account_id)  # the nines show no target
        return targets

    def steer(self) -> None:
        """Tags of instances that name a filter, or the targets that they may go to."""
        rng, settings = self.random, self.settings
        if not self.often(0.1, tags=0.8):
            return
        settings.filter_tag, settings.targets_tag = rng.choice(("filter", "")), "sensors"
        further = self.account.filter()
        filters = (further, further, "tmf-0123456789abcdef0", " ", "")
        words = [*self.sensors * 2, self.account.account_id]
        words += ["tmt-none", "arn:aws:ec2:::tmt-x", "x" * 120]
        for instance_id in self.instances:
            if self.often(0.7) and self.state(instance_id) != "terminated":
                named = rng.sample(words, rng.choice((0, 1, 2, 3, 3)))
                text = rng.choice((" ", "\t")).join(named)[:256]
                tags = {"filter": rng.choice(filters), "sensors": text}
                self.account._backend.create_tags([instance_id], tags)

    def variables(self) -> dict[str, str]:
        """The settings as environment variables, some of the defaults left out."""
        settings, separator = self.settings, self.random.choice((",", ", ", " ", "\n"))
        result = {"filter_id": settings.filter_id, "targets": separator.join(settings.targets)}
        for one in fields(settings):
            value = getattr(settings, one.name)
            if one.name in ("filter_id", "targets", "dry_run"):
                continue
            if value != getattr(Settings(), one.name) or self.often(0.3):
                text = value if isinstance(value, (str, int)) else ",".join(value)
                result[one.name.upper()] = str(text)
        return result

    def make_roles(self) -> None:
        """Roles in the other accounts, whether they can be assumed or not."""
        rng, arns = self.random, []
        for other in self.others:
            fate = rng.choice(FATES)
            if fate == "none":
                continue
            trusted = ["999999999999"] if fate == "denied" else None
            arns.append(other.role("reader", trusted, path=rng.choice(("/", "/sensors/"))))
            self.roles[other.account_id] = None if fate == "denied" else other
            method, _ = rng.choice(list(READS.values())[:-1])
            call = method.title().replace("_", "")
            if fate == "a read is denied":
                other.deny(f"ec2:{call}")
            elif fate == "a read fails":
                other.fail(call)
        if self.often(0.1):
            arns.append(self.account.role("own"))  # not used
        if self.often(0.1):
            arns.append("arn:aws:iam::333333333333:role/of-nobody-s-sensors")  # nor needed
        rng.shuffle(arns)
        if arns and self.often(0.05):
            self.account.deny(ASSUME)
            self.roles = dict.fromkeys(self.roles)
        if self.others and self.often(0.1):  # a boto3 that does not know the IDs of zones
            self.account._stack.enter_context(self.account.old_botocore("AvailabilityZoneId"))
        if arns:
            self.environment["SENSOR_ROLE_ARNS"] = rng.choice((",", " ", "\n")).join(arns)

    # --- The event, and what happens meanwhile

    def make_event(self) -> None:
        rng = self.random
        if self.theme != "sweep":
            self.instance_ids = ids = list(self.instances)
            if self.hosted and self.often(0.02, sources=0.2):
                ids[:] = [self.account.sensor_instance(rng.choice(self.hosted))]
            if self.often(0.03):
                ids.append(f"i-{rng.getrandbits(68):017x}")
            rng.shuffle(ids)
            single = len(ids) == 1 and self.often(0.8)
            self.event = running_event(ids[0]) if single else {"instance-ids": ids}
        if self.settings.dry_run and self.often(0.5):
            self.event["dry_run"] = True
        elif self.settings.dry_run:
            self.environment["DRY_RUN"] = "true"
        if self.theme == "warm":
            self.environment["CACHE_SECONDS"] = rng.choice(("0", "60", "60"))

    def change(self) -> None:
        """Something that matters to a sensor happens between two events."""
        rng, account, hosted = self.random, self.account, self.hosted
        known = [one for one in self.sensors if one in account._backend.traffic_mirror_targets]
        what = rng.choice(("stop", "target", "group", "acl", "routes", "nothing"))
        if what == "stop" and hosted:
            account.stop(account.sensor_instance(rng.choice(hosted)))
        if what == "target" and known:
            account.delete_target(rng.choice(known))
        if what == "group" and hosted:
            nic = account._backend.enis[account.sensor_interface(rng.choice(hosted))]
            for group in nic._group_set:
                group.ingress_rules.clear()
                if self.often(0.5):
                    account._add_rule(group, rule())
        if what == "acl":
            self.acls(account)
        if what == "routes":
            self.route_tables()

    def refusals(self) -> None:
        """What AWS refuses to create, and permissions that are optional."""
        rng, account = self.random, self.account
        limited = {"limits": 0.35, "tags": 0.1, "sweep": 0.1}
        if self.often(0.03, **limited):
            account.unsupported_types = {"t3.micro"}
        elif self.often(0.03, **limited):
            account.account_quota = len(account.sessions()) + rng.randint(0, 2)
        elif self.sources and self.often(0.03, **limited, warm=0.0):
            account.refuse(rng.choice(self.sources)[0], rng.choice(REFUSALS))
        for one in self.accounts:
            if self.prefix_lists[one.account_id] and self.often(0.2):
                one.deny("ec2:GetManagedPrefixListEntries")
        if self.often(0.1):
            account.deny("ec2:DescribeRouteTables")

    def faults(self) -> None:
        """A call that AWS does not answer, or rows that cannot be read."""
        account, denied = self.account, self.often(0.5)
        calls = ["DescribeSecurityGroups", "DescribeRouteTables", "GetManagedPrefixListEntries"]
        calls += ["GetManagedPrefixListEntries", "rows", "rows"]
        if not self.others:  # AMBIGUOUS: whether the source's own outbound ACL is needed
            calls.append("DescribeNetworkAcls")
        if self.theme != "sweep":  # which also reads databases and instances so
            calls += ["DescribeNetworkInterfaces", "hosts"]
        call = self.random.choice(calls)
        hosts = {account.sensor_instance(one) for one in self.hosted} - {*(self.instance_ids or ())}
        if call == "rows":
            self.damage(hosts)
        elif call == "hosts":
            self.missing["hosts"] = denied
            how = {"code": "UnauthorizedOperation", "status": 403} if denied else {}
            asked = lambda parameters: any(one in str(parameters) for one in hosts)  # noqa: E731
            account.fail("DescribeInstances", where=asked, **how)
        elif denied:
            account.deny(f"ec2:{call}")
        else:
            account.fail(call)

    def damage(self, hosts: set[str]) -> None:
        """One row of some sensors cannot be read, whoever asks."""
        for one in self.hosted:
            nic = self.account._backend.enis[self.account.sensor_interface(one)]
            host = nic.instance.id if self.instance_ids and nic.instance.id in hosts else "none"
            named = [host, nic.id, one, nic._group_set[0].id, nic.subnet.id]
            name, call = self.random.choice(list(zip(named, DAMAGES, strict=True)))
            if self.often(0.7):
                self.account.show(call, partial(damaged, name, DAMAGES[call]))


def damaged(name: str, change: Callable[[dict[str, Any]], Any], answer: dict[str, Any]) -> None:
    """Changes the rows of an answer that have this name in them."""
    for row in itertools.chain(*(rows for rows in answer.values() if isinstance(rows, list))):
        for one in row.get("Instances", [row]):
            if name in str(one):
                change(one)


# --- Reading the account


@cache
def reader(key: str) -> Any:
    """A client that sees what the function sees, with the key of an account; one for all worlds,
    as making one is slow."""
    credentials = {**CREDENTIALS, "aws_access_key_id": key}
    return boto3.Session().client("ec2", **credentials)


def read_world(case: Builder) -> World:
    """What the function could know: hidden resources are left out."""
    unasked = World(missing={"account": True})
    accounts = {key: read_account(one) if one else unasked for key, one in case.roles.items()}
    world = read_account(case.account)
    return replace(world, accounts=accounts, missing=world.missing | case.missing)


def read_account(account: SimulatedAccount) -> World:
    client, missing = reader(account._access_key), {}

    def read(name: str, method: str, key: str, **parameters: Any) -> list[Any] | None:
        try:
            pages = client.get_paginator(method).paginate(**parameters)
            return [row for page in pages for row in page[key]]
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if not code.endswith("NotFound"):
                missing[name] = code == "UnauthorizedOperation"
            return None

    hidden = {name: {"IncludeManagedResources": True} for name in ("reservations", "interfaces")}
    found = {name: read(name, *how, **hidden.get(name, {})) or [] for name, how in READS.items()}
    if "reservations" in missing:
        missing["hosts"] = missing["reservations"]
    rules = [one for group in found["groups"] for one in group["IpPermissions"]]
    listed = {one["PrefixListId"] for rule in rules for one in rule.get("PrefixListIds", [])}
    how = ("get_managed_prefix_list_entries", "Entries")
    lists = {one: read(one, *how, PrefixListId=one) for one in listed}
    lists = {key: rows for key, rows in lists.items() if rows is not None}
    # Without the permission a rule that names the list does not match; that is no missing answer.
    missing = {key: final for key, final in missing.items() if not (key in listed and final)}
    return World(account.account_id, prefix_lists=lists, missing=missing, **found)


# --- Playing a world

Body = dict[str, Any]
# What was looked at, what the function says of it, and what would be right.
Check = tuple[str, Any, Sequence[Any]]
ENTRY_KEYS = ("interface_id", "instance_id", "outcome", "reason", "target_id", "session_id")
ENTRY_KEYS += ("session_name", "sensors")


def play(scene: Scene, seed: int, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Build the account of a seed and return how the function differs from the model: a paragraph
    for each difference, with what matters of the interface."""
    random.seed(seed)  # IDs decide ties: the same seed makes the same IDs
    mock_random.seed(seed)
    warm(reader(scene._access_key))
    case = Builder(scene, seed).build()
    remembered: World | None = None
    not_supported: set[str] = set()
    found: list[str] = []
    for turn in range(2 if case.theme == "warm" else 1):
        if turn:
            for _ in range(case.random.choice((1, 2, 3))):
                case.change()
        world = read_world(case)
        start = len(scene.calls)
        body = handle({**case.event, "id": f"turn-{turn}"}, case.environment, caplog)
        creates: Creates = {}  # what AWS answered to them
        for call in scene.calls[start:]:
            if call.operation == CREATE:
                named = ("NetworkInterfaceId", "TrafficMirrorTargetId", "TrafficMirrorFilterId")
                interface, target, filter_id = (call.parameters[name] for name in named)
                creates.setdefault((interface, target, filter_id), []).append(call.code)
                assert call.parameters["SessionNumber"] == case.settings.session_number
        wrong = differences(case, world, body, creates, remembered, not_supported)
        found += [f"event {turn + 1}: {each}" for each in wrong]
        remembered = world if case.environment.get("CACHE_SECONDS") == "60" else None
        unsupported = "NetworkInterfaceNotSupported"
        not_supported |= {key[0] for key, codes in creates.items() if unsupported in codes}
    return found


def handle(event: Body, environment: dict[str, str], caplog: pytest.LogCaptureFixture) -> Body:
    """The body of the result, its status and the metrics. Where the handler raises there is no
    result: then what is logged, and the error."""
    caplog.clear()
    os.environ.update(environment)
    with redirect_stdout(io.StringIO()) as printed:
        delivery = deliver(event)
    if delivery.error:
        logged = [vars(record) for record in caplog.records if hasattr(record, "outcome")]
        entries = [{key: entry.get(key) for key in ENTRY_KEYS} for entry in logged]
        summary = Counter(entry["outcome"] for entry in entries)
        body = {"error": delivery.error, "interfaces": entries, "summary": summary}
    else:
        body = {"status": delivery.answer.status, **delivery.answer.body}
    body["metrics"] = {}
    for line in printed.getvalue().splitlines():
        values = json.loads(line)
        of_target = "TargetId" in values
        body["metrics"] |= {values["TargetId"]: values["Sessions"]} if of_target else values
    return body


# --- Comparing


def differences(
    case: Builder, world: World, body: Body, creates: Creates, *known: Any
) -> list[str]:
    """How one event's result differs from what the model expects. A sweep chooses its order: the
    one that explains most counts."""

    def expect(order: Sequence[str] = ()) -> tuple[list[ExpectedInterface], Creates]:
        left = {key: list(codes) for key, codes in creates.items()}
        found = model.expect(world, case.settings, case.instance_ids, left, *known, order)
        return found, {key: codes for key, codes in left.items() if codes}

    orders: Iterable[tuple[str, ...]] = [()]
    if case.instance_ids is None:
        tried = {key[0] for key in creates}
        pages: dict[bool, list[str]] = {False: [], True: []}  # of instances, of databases
        for item in expect()[0]:
            if item.interface_id in tried or item.sensors != []:
                pages[item.instance_id is None].append(str(item.interface_id))
        both = (itertools.permutations(page[:5]) for page in pages.values())
        orders = (one + other for one, other in itertools.product(*both))
    best: list[str] | None = None
    for order in orders:
        found = list(compared(case, world, body, *expect(order)))
        if not found:
            return []
        best = found if best is None else min(best, found, key=len)
    return best or []


def compared(
    case: Builder, world: World, body: Body, results: list[ExpectedInterface], left: Creates
) -> Iterator[str]:
    """What differs of all together, and a paragraph for each interface of which something does."""
    sweep = case.instance_ids is None
    entries = {(e["instance_id"], e["interface_id"]): e for e in body["interfaces"]}
    results = [item for item in results if item.interface_id or not sweep]
    named = [key for key in entries if key[1]]
    wanted = [(item.instance_id, item.interface_id) for item in results if item.interface_id]
    if sweep or "error" in body:  # their order is not promised
        wanted, named = sorted(wanted, key=str), sorted(named, key=str)
    checks: list[Check] = [("interfaces", named, [wanted]), ("unexplained creates", left, [{}])]
    checks += of_all(case, world, body, results)
    yield from (
        f"{what}: {got}, expected {right}" for what, got, right in checks if got not in right
    )
    for item in results:
        entry = entries.get((item.instance_id, item.interface_id))
        checks = [*of_interface(item, entry)] if entry else [("entry", None, [item.outcome])]
        if wrong := {what: (got, right) for what, got, right in checks if got not in right}:
            lines = [f"{what}: {got}, expected {right}" for what, (got, right) in wrong.items()]
            lines += [entry, case.settings, f"not answered: {world.missing}"]
            lines += rows_about(world, {str(item.interface_id), str(item.instance_id), *wrong})
            yield "\n    ".join(str(line)[:1500] for line in (item.interface_id, *lines))


def of_all(
    case: Builder, world: World, body: Body, results: list[ExpectedInterface]
) -> Iterator[Check]:
    sweep, outcomes = case.instance_ids is None, Counter(item.outcome for item in results)
    if not sweep:
        yield "summary", {key: count for key, count in body["summary"].items() if count}, [outcomes]
    if failed := outcomes["failed"]:
        yield "error", f"{failed} failed" in body.get("error", ""), [True]
    else:
        status = 400 if outcomes["unmirrored"] or outcomes["blocked"] else 200
        yield "status", body.get("status"), [status]
    if not case.event.get("dry_run"):
        names = ("created", "planned", "exists", "unmirrored", "blocked", "failed")
        metrics: dict[str, float] = {name: outcomes[name] for name in names}
        if sweep and not failed:
            metrics |= model.sweep_metrics(world, case.settings, results)
        for name, value in metrics.items():
            yield f"metric {name}", body["metrics"].get(name), [pytest.approx(value, abs=0.1)]


def of_interface(item: ExpectedInterface, entry: Body) -> Iterator[Check]:
    yield "keys", set(entry), [set(ENTRY_KEYS)]
    yield "outcome", entry["outcome"], [item.outcome]
    if item.sessions and item.outcome in ("exists", "blocked"):
        yield "session", (entry["target_id"], entry["session_id"]), item.sessions
    elif item.outcome != "failed":
        yield "target", entry["target_id"], [item.target_id]
    if item.outcome in ("created", "planned"):
        tag = f"eh-mirror-{str(item.interface_id)[4:8]}{str(item.target_id)[4:8]}"
        yield "session name", entry["session_name"], [tag]
    shown = entry["sensors"]
    if item.sensors is None or shown is None or (item.outcome == "failed" and not shown):
        return
    named = [sensor["target_id"] for sensor in shown]
    yield "sensors", named, [[sensor.target_id for sensor in item.sensors]]
    for sensor, found in zip(item.sensors, shown, strict=False):
        right = [sensor.verdict, sensor.stage, sensor.behind]
        behind = "ranked last" in found["reason"] if sensor.behind in (True, False) else None
        verdict = [found["verdict"], found["stage"], None if found["stage"] else behind]
        yield sensor.target_id, verdict, [[*right[:2], None] if sensor.stage else right]
        keys = {"target_id", "verdict", "stage", "reason", "sessions"}
        yield f"keys of {sensor.target_id}", set(found), [keys]
        yield f"sessions of {sensor.target_id}", found["sessions"], [None, sensor.sessions]


def rows_about(world: World, ids: set[str]) -> Iterator[Any]:
    """The rows of every account that name one of these, and those that they lead to."""
    for view in (world, *world.accounts.values()):
        yield f"account {view.account}, not answered there: {view.missing}"
        instances = [row for group in view.reservations for row in group["Instances"]]
        for rows in (instances, view.targets, view.interfaces, view.groups, view.acls):
            named = {str(row): set(re.findall(r"\b[a-z]+-[0-9a-f]{8,}", str(row))) for row in rows}
            found = [row for row, names in named.items() if ids & names]
            if rows is not instances:
                ids = ids.union(*(named[row] for row in found))
            yield from found
        yield from view.route_tables
