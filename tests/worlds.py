"""Random AWS accounts, some for each seed, and how a result differs from what the model expects."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest.mock import patch

import boto3
from aws import (
    OTHER_ACCOUNT_ID,
    REGION,
    LambdaContext,
    Refusal,
    SimulatedAccount,
    acl_entry,
    route,
    rule,
    running_event,
)
from botocore.exceptions import ClientError
from model import (
    Answer,
    ExpectedInterface,
    ExpectedSensor,
    Limits,
    World,
    acl_of,
    asked_about,
    behind_load_balancer,
    find,
    find_instance,
    interfaces_of,
)

import lambda_traffic_mirror

# --------------------------------------------------------------------------------------
# A random account
# --------------------------------------------------------------------------------------

ZONES = ("a", "b", "c", "d")
PORT_RANGES = (
    (4789, 4789),
    (4789, 4789),
    (4788, 4788),
    (4790, 4790),
    (4788, 4789),
    (4789, 4790),
    (4788, 4790),
    (0, 4788),
    (0, 65535),
    (4790, 65535),
    None,
)
TAGS = {"mirror": ("yes", "no", ""), "team": ("blue", "red=green"), "Name": ("web",)}
TAG_SETTINGS = (
    "mirror=yes",
    "mirror",
    "mirror=",
    "team=red=green",
    "team",
    "Mirror=yes",
    "mirror=yes,team=blue",
    "absent,Name",
)
# What a world is mostly about: one after the other, so that few worlds cover every rule.
THEMES = (
    "everything",
    "acls",
    "groups",
    "unseen",
    "load balancers",
    "limits",
    "routes",
    "accounts",
    "acls",
    "unseen",
    "load balancers",
    "sources",
    "routes",
    "accounts",
)
SENSOR_KINDS = {
    "everything": ("plain",) * 12
    + ("unattached", "unattached", "stopped", "missing", "deleted", "nlb", "nlb")
    + ("gwlb", "foreign", "foreign", "foreign nlb", "deleted nlb"),
    "unseen": ("plain", "plain", "plain", "foreign", "deleted", "foreign nlb"),
    "load balancers": ("nlb", "nlb", "nlb", "gwlb"),
    # Of another account: some of what is there is not shared.
    "abroad": ("plain",) * 8
    + ("unattached", "stopped", "deleted", "nlb", "nlb", "gwlb", "deleted nlb", "private"),
}
VPCS = {"routes": (2, 3), "groups": (1, 2, 3)}  # how many an account has
NEXT_HOPS = ("pcx", "tgw", "vpce", "eni", "instance", "vgw", "lgw", "core_network", "igw")
NEXT_HOPS += ("nat", "eigw", "cagw", "pcx", "tgw")
# What may be denied of an account that is read through a role.
READS = {
    "reservations": ("describe_instances", "Reservations"),
    "interfaces": ("describe_network_interfaces", "NetworkInterfaces"),
    "targets": ("describe_traffic_mirror_targets", "TrafficMirrorTargets"),
    "sessions": ("describe_traffic_mirror_sessions", "TrafficMirrorSessions"),
    "groups": ("describe_security_groups", "SecurityGroups"),
    "acls": ("describe_network_acls", "NetworkAcls"),
    "route_tables": ("describe_route_tables", "RouteTables"),
}
TRUE_WORDS, FALSE_WORDS = ("true", "Yes", "on", "1"), ("false", "NO", "off", "0")


@dataclass
class Case:
    """One account and the event that it gets.

    `others` are those for which there is a role; None: it cannot be assumed.
    """

    account: SimulatedAccount
    event: dict[str, Any]
    instance_ids: list[str]
    settings: dict[str, Any]
    environment: dict[str, str]
    dry_run: bool
    limits: Limits = field(default_factory=Limits)
    others: dict[str, SimulatedAccount | None] = field(default_factory=dict)


class Builder:
    """Fills an account, and others whose targets it sees, with what one seed makes of them."""

    def __init__(self, account: SimulatedAccount, seed: int, alone: bool = False) -> None:
        self.account = account
        self.random = random.Random(seed)
        self.theme = THEMES[seed % len(THEMES)]
        mixed = self.theme in ("everything", "unseen", "load balancers")
        # How many subnets have the usual ACL, and how many sensors an open group.
        self.open_acls = {"acls": 0.1, "unseen": 0.3, "load balancers": 0.2}.get(self.theme, 0.8)
        self.open_groups = {"groups": 0.0, "unseen": 0.1, "acls": 0.9}.get(self.theme, 0.7)
        self.unseen = 0.4 if self.theme == "unseen" else 0.1 * mixed
        self.large = self.theme == "everything" and self.often(0.1)
        abroad = self.theme == "accounts"
        self.zones = ZONES[: self.random.choice((1, 2, 2, 3, 4) if mixed or abroad else (1, 1, 2))]
        self.others: list[SimulatedAccount] = []
        self.abroad = 0.7 if abroad else 0.3  # how many sensors are there
        if not alone and self.often(1.0 if abroad else 0.15):
            for number in range(self.random.choice((1, 1, 2))):
                ids = [self.account.zone_id(zone) for zone in self.zones]
                self.random.shuffle(ids)
                zones = dict(zip(self.zones, ids, strict=True))
                self.others.append(account.other(f"21098765432{number}", zones=zones))
        self.vpcs: list[str] = []
        self.subnets: list[tuple[str, str, str]] = []  # subnet, zone, VPC
        self.subnets_of: dict[str, list[tuple[str, str, str]]] = {account.account_id: self.subnets}
        self.blocks: list[str] = []  # of all VPCs
        self.source_groups: list[str] = []
        self.prefix_lists: dict[str, list[str]] = {}  # by account
        self.sources: list[tuple[str, str]] = []  # interface, address
        self.instances: list[str] = []
        self.sensors: list[str] = []
        self.decoys: list[str] = []
        self.load_balancers = False

    def often(self, probability: float) -> bool:
        return self.random.random() < probability

    @property
    def accounts(self) -> list[SimulatedAccount]:
        return [self.account, *self.others]

    def networks(self) -> None:
        """VPCs, subnets with the default ACL, groups for the sources."""
        for place, account in enumerate(self.accounts):
            subnets = self.subnets_of.setdefault(account.account_id, [])
            for index in range(self.random.choice(VPCS.get(self.theme, (1, 1, 2)))):
                # Blocks of VPCs may be the same: nothing may depend on the address alone.
                different = f"10.{4 * place + index}.0.0/16"
                cidr = self.random.choice(("10.0.0.0/16", different, different, "192.168.0.0/16"))
                vpc = account.vpc(cidr)
                self.blocks.append(cidr)
                if account is self.account:
                    self.vpcs.append(vpc)
                for zone in self.zones:
                    for _ in range(self.random.choice((1, 2, 3))):
                        prefix = 22 if self.large else 24
                        made = account.subnet(zone, vpc=vpc, prefix=prefix)
                        subnets.append((made, zone, vpc))
        for _ in range(self.random.randint(1, 4)):
            self.source_groups.append(self.account.group(vpc=self.random.choice(self.vpcs)))

    def source_instance(self) -> str:
        """An instance with one to four interfaces, in subnets of one zone."""
        account, rng = self.account, self.random
        subnet, zone, vpc = rng.choice(self.subnets)
        odd = 0.2 if self.theme == "sources" else 0.04
        tags = {key: rng.choice(values) for key, values in TAGS.items() if self.often(0.5)}
        instance = account.instance(
            subnet,
            self.some_source_groups(),
            tags=tags,
            instance_type=rng.choice(("m5.large", "t3.micro", "c5.large")),
            interface_type="efa" if self.often(odd / 2) else "interface",
            ipv6_only=self.often(odd / 2),
        )
        for index in range(1, rng.choice((1, 1, 1, 2, 3, 4))):
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
        states = ("pending",) * 4 + ("stopped", "terminated", "shutting-down")
        if self.often(odd):
            account.set_state(instance, rng.choice(states))
        return instance

    def some_source_groups(self) -> list[str]:
        size = self.random.randint(1, min(2, len(self.source_groups)))
        return self.random.sample(self.source_groups, size)

    def note_sources(self) -> None:
        """Remember the addresses of the sources, for rules that meet or just miss them."""
        for instance in self.instances:
            for interface_id in self.account.interfaces_of(instance):
                found = self.account.ec2.describe_network_interfaces(
                    NetworkInterfaceIds=[interface_id]
                )["NetworkInterfaces"][0]
                if found.get("PrivateIpAddress"):
                    self.sources.append((interface_id, found["PrivateIpAddress"]))

    def block(self, addresses: list[str] | None = None) -> str:
        """An IPv4 block that contains one of the addresses, or just misses it, or neither.

        The addresses are those of the sources unless told otherwise.
        """
        rng = self.random
        addresses = addresses or [address for _, address in self.sources]
        if not addresses or self.often(0.1):
            return rng.choice(("0.0.0.0/0", "172.16.0.0/12", "10.0.0.0/8"))
        address = rng.choice(addresses)
        length = rng.choice((8, 16, 20, 24, 28, 31, 32))
        network = ipaddress.ip_network(f"{address}/{length}", strict=False)
        if self.often(0.5):
            return str(network)
        beside = int(network.network_address) ^ (1 << (32 - length))  # the other half of its parent
        return f"{ipaddress.IPv4Address(beside)}/{length}"

    def rule(self, account: SimulatedAccount) -> dict[str, Any]:
        rng = self.random
        prefix_lists = self.prefix_lists[account.account_id]
        protocol = rng.choice(("udp", "udp", "udp", "17", "-1", "tcp", "icmp"))
        ports = rng.choice(PORT_RANGES)
        kind = rng.choice(("block", "block", "group", "group", "list", "list", "ipv6", "any"))
        if kind == "block":
            return rule(protocol, ports, cidr=self.block())
        if kind == "group":
            peering = rng.choice((None, None, "active", "deleted", "deleted", "pending-acceptance"))
            group, owner = rng.choice(self.source_groups), self.account.account_id
            return rule(protocol, ports, group=group, peering=peering, owner=owner)
        if kind == "list" and prefix_lists:
            return rule(protocol, ports, prefix_list=rng.choice(prefix_lists))
        if kind == "ipv6":
            return rule(protocol, ports, cidr="::/0")
        return rule(protocol, ports)

    def some_prefix_lists(self, account: SimulatedAccount) -> None:
        lists = self.prefix_lists.setdefault(account.account_id, [])
        for _ in range(self.random.choice((0, 1, 3))):
            size = self.random.choice((0, 1, 3, 130))
            far = [f"172.16.{index}.0/24" for index in range(size)]
            if far:
                far[-1] = self.block()  # the one that may matter comes last: on the last page
            lists.append(account.prefix_list(*far))

    def addresses(self) -> list[str]:
        """Of everybody."""
        return [
            found["PrivateIpAddress"]
            for account in self.accounts
            for found in account.ec2.describe_network_interfaces()["NetworkInterfaces"]
            if found.get("PrivateIpAddress")
        ]

    def route_tables(self) -> None:
        """Random routes for most VPCs and some subnets, mostly with a way to all other VPCs."""
        everyone = self.addresses()
        for vpc in self.vpcs:
            if self.often(0.8):
                self.account.route_table(vpc, self.routes(everyone), main=True)
            for subnet, _, its_vpc in self.subnets:
                if its_vpc == vpc and self.often(0.3):
                    self.account.route_table(vpc, self.routes(everyone), subnets=[subnet])

    def routes(self, addresses: list[str]) -> list[dict[str, Any]]:
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
            add(self.block(addresses), NEXT_HOPS)
        routes = list(found.values())
        for block in found:
            if self.often(0.05):
                hop, state = rng.choice(("vgw", "tgw")), rng.choice(("active", "blackhole"))
                routes.append(route(block, state=state, propagated=True, **{hop: True}))
        if self.often(0.15):
            state = rng.choice(("active", "active", "filtered"))
            hop = rng.choice(("vpce", "tgw"))
            routes.append(route("pl-0123456789abcdef0", state=state, **{hop: True}))
        if self.often(0.2):
            routes.append(route("::/0", igw=True))
        rng.shuffle(routes)
        return routes

    def acls(self, account: SimulatedAccount) -> None:
        """Random ACLs for some subnets; each contradicts itself as often as it likes."""
        rng, everyone = self.random, self.addresses()
        for subnet, _, _ in self.subnets_of[account.account_id]:
            if self.often(self.open_acls):
                continue
            entries: list[dict[str, Any]] = []
            for egress in (False, True):
                size = rng.randint(0, 5)
                for number in rng.sample(range(1, 500), size):
                    protocol = rng.choice(("-1", "-1", "17", "17", "17", "6", "1"))
                    action = rng.choice(("allow", "deny"))
                    block = self.block(everyone if egress else None)
                    if self.often(0.1):
                        block = "::/0"
                    ports = rng.choice(PORT_RANGES)
                    entry = acl_entry(number, action, block, protocol, ports, egress)
                    if protocol == "-1" and ports is not None and self.often(0.6):
                        entry["PortRange"] = {"From": ports[0], "To": ports[1]}
                    entries.append(entry)
                if self.often(0.6):
                    entries.append(
                        acl_entry(rng.randint(500, 999), "allow", protocol="-1", egress=egress)
                    )
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
            return self.sensor_in(
                self.account,
                SENSOR_KINDS.get(self.theme, ("plain",) * 9 + ("unattached", "stopped")),
            )
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
            size = rng.choice((1, 2, 2, 3))
            inside = [s for s, _, v in subnets if v == vpc]
            subnets = rng.sample(inside, min(size, len(inside)))
            if kind == "gwlb":
                return account.gwlb_sensor(subnets, colon=self.often(0.5))
            made = account.nlb_sensor(subnets, groups or ())
            for _ in range(sessions):
                account.session(f"eni-{rng.getrandbits(68):017x}", made)
            if kind == "foreign nlb":
                self.share(made)
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
        made = account.sensor(
            subnet,
            groups,
            quota=quota,
            sessions=sessions,
            state=state,
            attached=kind != "unattached",
        )
        if kind == "deleted":
            account.delete_sensor_interface(made)
        return made

    def share(self, target_id: str) -> None:
        """Make a load balancer's target one that an account which is not simulated shares."""
        target = self.account._backend.traffic_mirror_targets[target_id]
        for interface in self.account._sensor_interfaces(target_id):
            self.account.hide(interface)
        target.simulated_owner = OTHER_ACCOUNT_ID
        arn = target.network_load_balancer_arn
        target.network_load_balancer_arn = arn.replace(target.owner_id, OTHER_ACCOUNT_ID)

    def look_alikes(self) -> None:
        """Interfaces whose descriptions nearly are those of a load balancer of ours."""
        for target_id in self.sensors:
            if target_id.startswith("tmt") and self.often(0.3):
                target = self.account._backend.traffic_mirror_targets.get(target_id)
                if target is None or target.network_interface_id:
                    continue
                subnet = self.random.choice(self.subnets)[0]
                if target.network_load_balancer_arn:
                    text = "ELB " + target.network_load_balancer_arn.split(":loadbalancer/")[1]
                else:
                    text = f"VPC Endpoint Interface {target.gateway_load_balancer_endpoint_id}"
                text = self.random.choice(
                    (text + "0", text[:-1], "my " + text, text.rsplit("/")[0])
                )
                self.account.interface(subnet, description=text)

    def sessions(self) -> None:
        """Some interfaces have sessions already, to our sensors and to those of others."""
        for interface_id, _ in self.sources:
            if self.often(0.2 if self.theme == "sources" else 0.05):
                for number in range(1, self.random.choice((2, 2, 3))):
                    target = self.random.choice([*self.sensors, *self.decoys])
                    self.account.session(interface_id, target, number)

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
        """The account, the settings and the event."""
        rng, account = self.random, self.account
        self.networks()
        self.instances = [self.source_instance() for _ in range(rng.choice((1, 2, 3, 6)))]
        self.note_sources()
        for one in self.accounts:
            self.some_prefix_lists(one)
        few = self.theme in ("unseen", "load balancers")
        sizes = (1, 2, 3, 4) if few else (0, 1, 2, 3, 5, 8, 12, 30)
        size = rng.randint(100, 300) if self.large else rng.choice(sizes)
        self.sensors = [self.sensor() for _ in range(size)]
        for one in self.accounts:
            self.acls(one)
        self.decoys = [account.sensor(self.subnets[0][0], sessions=1) for _ in range(2)]
        self.adopt_sensor()
        self.look_alikes()
        self.sessions()
        self.route_tables()
        for one in self.accounts:
            if self.prefix_lists[one.account_id] and self.often(0.2):
                one.deny("ec2:GetManagedPrefixListEntries")
        if self.often(0.1):
            account.deny("ec2:DescribeRouteTables")
        targets = list(self.sensors) or [account.missing_sensor()]
        rng.shuffle(targets)
        if self.others and self.often(0.4):
            targets = self.by_account(targets)
        settings = {
            "targets": targets,
            "local_zone_only": self.often(0.4),
            "local_vpc_only": self.often(0.1 if self.theme in ("routes", "accounts") else 0.3),
            "allow_unverified": self.often(0.8 if self.theme == "unseen" else 0.3),
            "include_tags": [],
            "exclude_tags": [],
            "roles": [],
        }
        others = self.roles(settings["roles"])
        if self.load_balancers and self.often(0.8):
            settings["exclude_tags"] = ["absent"]
        if self.often(0.7 if self.theme == "sources" else 0.1):
            which = rng.choice(("include_tags", "exclude_tags"))
            settings[which] = rng.choice(TAG_SETTINGS).split(",")
            if self.often(0.3):
                settings["include_tags"] = rng.choice(TAG_SETTINGS).split(",")

        instance_ids = self.instances[:1] if self.large else list(self.instances)
        hosts = [s for s in self.sensors if self.is_hosted(s)]
        if hosts and self.often(0.2 if self.theme == "sources" else 0.02):
            instance_ids = [account.sensor_instance(rng.choice(hosts))]
        if len(instance_ids) == 1 and self.often(0.8):
            event = running_event(instance_ids[0])
        else:
            if self.often(0.05):
                instance_ids.append(f"i-{rng.getrandbits(68):017x}")
            rng.shuffle(instance_ids)
            event = {"instance-ids": instance_ids}
        dry_run = self.often(0.15)
        environment = self.environment(settings)
        if dry_run and self.often(0.5):
            event["dry_run"] = True
        elif dry_run:
            environment["DRY_RUN"] = rng.choice(TRUE_WORDS)
        limits = Limits()
        if self.often(0.2 if self.theme == "limits" else 0.03):
            limits.unsupported_types = {"t3.micro"}
        elif self.often(0.2 if self.theme == "limits" else 0.03):
            limits.sessions = rng.randint(0, 2)
        return Case(account, event, instance_ids, settings, environment, dry_run, limits, others)

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

    def roles(self, arns: list[str]) -> dict[str, SimulatedAccount | None]:
        """The accounts for which there is a role, whether it can be assumed or not."""
        rng = self.random
        accounts: dict[str, SimulatedAccount | None] = {}
        for other in self.others:
            fate = rng.choice(("works",) * 5 + ("denied", "a read is denied", "none"))
            if fate == "none":
                continue
            trusted = None if fate != "denied" else ["999999999999"]
            arns.append(other.role("reader", trusted, path=rng.choice(("/", "/sensors/"))))
            accounts[other.account_id] = None if fate == "denied" else other
            if fate == "a read is denied":
                method = rng.choice(list(READS.values())[:-1])[0]
                other.deny(f"ec2:{method.title().replace('_', '')}")
        if self.often(0.1):
            arns.append(self.account.role("own"))  # not used
        if self.often(0.1):
            arns.append("arn:aws:iam::333333333333:role/of-nobody-s-sensors")  # nor needed
        rng.shuffle(arns)
        if arns and self.often(0.05):
            self.account.deny("sts:AssumeRole")
            accounts = dict.fromkeys(accounts)
        return accounts

    def is_hosted(self, target_id: str) -> bool:
        target = self.account._backend.traffic_mirror_targets.get(target_id)
        interface = target and self.account._backend.enis.get(target.network_interface_id)
        return bool(interface and interface.instance)

    def environment(self, settings: dict[str, Any]) -> dict[str, str]:
        """The settings as environment variables, in one of the spellings that are accepted."""
        rng = self.random
        result = {
            "filter_id": self.account.filter_id,
            "targets": rng.choice((",", ", ", " ", "\n")).join(settings["targets"]),
        }
        if self.often(0.1):
            result["targets"] += "," + settings["targets"][0]
        if settings["roles"]:
            result["SENSOR_ROLE_ARNS"] = rng.choice((",", " ", "\n")).join(settings["roles"])
        for name, default in (
            ("local_zone_only", True),
            ("local_vpc_only", False),
            ("allow_unverified", False),
        ):
            if settings[name] != default or self.often(0.5):
                words = TRUE_WORDS if settings[name] else FALSE_WORDS
                result[name.upper()] = rng.choice(words)
            elif self.often(0.3):
                result[name.upper()] = " "
        for name in ("include_tags", "exclude_tags"):
            if settings[name] or self.often(0.2):
                result[name.upper()] = ",".join(settings[name])
        return result


# --------------------------------------------------------------------------------------
# Reading the account
# --------------------------------------------------------------------------------------


def pages(client: Any, operation: str, key: str, **parameters: Any) -> list[Answer]:
    """Every page of one answer."""
    found: list[Answer] = []
    token = None
    while True:
        if token:
            parameters["NextToken"] = token
        answer = getattr(client, operation)(**parameters)
        found += answer[key]
        token = answer.get("NextToken")
        if not token:
            return found


@cache
def reader(key: str = "") -> Any:
    """A client that sees what the function sees, with the key of another account or our own; one
    for all, as making one is slow."""
    secrets = {"aws_access_key_id": key, "aws_secret_access_key": "simulated"} if key else {}
    return boto3.Session().client("ec2", region_name=REGION, **secrets)


def read_world(scene: Case) -> World:
    """What the function could know: hidden resources are left out."""
    world = read_account(scene.account, reader())
    for account_id, other in scene.others.items():
        world.accounts[account_id] = other and read_account(other, reader(other._access_key))
    scene.account.forget_calls()
    return world


def read_account(account: SimulatedAccount, client: Any) -> World:
    world = World(account=account.account_id)
    for name, (method, key) in READS.items():
        try:
            setattr(world, name, pages(client, method, key))
        except ClientError:
            world.denied.add(name)
    for group in world.groups:
        for permission in group["IpPermissions"]:
            for listed in permission["PrefixListIds"]:
                list_id = listed["PrefixListId"]
                try:
                    world.prefix_lists[list_id] = pages(
                        client,
                        "get_managed_prefix_list_entries",
                        "Entries",
                        PrefixListId=list_id,
                    )
                except ClientError:
                    continue
    return world


def apply_limits(scene: Case, world: World) -> None:
    """Tell the model what the account refuses, and the account what the model has drawn."""
    account, limits = scene.account, scene.limits
    account.unsupported_types = limits.unsupported_types
    if limits.sessions is not None:
        account.account_quota = len(world.sessions) + limits.sessions
    for target in world.targets:
        target_id = target["TrafficMirrorTargetId"]
        owner = account._account_of_target(target_id)
        if not behind_load_balancer(target):
            sources = {
                session["NetworkInterfaceId"] for session in owner.sessions(target_id=target_id)
            }
            quota = owner.quota.get(target_id, owner.default_quota)
            limits.sources[target_id] = quota - len(sources)
        try:
            owner._check_target(target_id)
        except Refusal:  # which the function may not see
            limits.sources[target_id] = 0


# --------------------------------------------------------------------------------------
# Running the function
# --------------------------------------------------------------------------------------


class Entries(logging.Handler):
    """The entries that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "outcome"):
            self.entries.append({key: getattr(record, key) for key in ENTRY_KEYS})


def handle(event: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """The body of the result, and its status. Where the handler raises there is none: then what is
    logged, and the error."""
    logged, logger = Entries(), lambda_traffic_mirror.logger
    logger.addHandler(logged)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with patch.dict(os.environ, environment):
            result = lambda_traffic_mirror.lambda_handler(event, LambdaContext())
        return {"status": result["statusCode"], **json.loads(result["body"])}
    except lambda_traffic_mirror.MirroringError as error:
        summary = Counter(entry["outcome"] for entry in logged.entries)
        # The log is in the order in which things were settled.
        entries = sorted(logged.entries, key=lambda e: (e["instance_id"], str(e["interface_id"])))
        return {"error": str(error), "interfaces": entries, "summary": summary}
    finally:
        logger.removeHandler(logged)
        logger.setLevel(level)


def outcomes_of(body: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Outcome and target of each interface."""
    return {e["interface_id"]: (e["outcome"], e["target_id"]) for e in body["interfaces"]}


# --------------------------------------------------------------------------------------
# Comparing
# --------------------------------------------------------------------------------------

ENTRY_KEYS = {
    "interface_id",
    "instance_id",
    "outcome",
    "reason",
    "target_id",
    "session_id",
    "session_name",
    "sensors",
}


def differences(
    expected: list[ExpectedInterface], body: dict[str, Any], scene: Case, world: World
) -> Iterator[str]:
    """One paragraph for each difference between model and result."""
    expected = sorted(expected, key=lambda item: item.interface_id is None)
    named = [(item.instance_id, item.interface_id) for item in expected]
    # Where an instance without any interface to name stands in the list is not promised.
    entries = sorted(body["interfaces"], key=lambda entry: entry["interface_id"] is None)
    if "error" in body:
        places = {name: place for place, name in enumerate(named)}
        last = len(places)
        entries.sort(key=lambda e: places.get((e["instance_id"], e["interface_id"]), last))
    got = [(entry["instance_id"], entry["interface_id"]) for entry in entries]
    if named != got:
        yield f"interfaces: expected {named}, got {got}"
        return
    for item, entry in zip(expected, entries, strict=True):
        name = item.interface_id or item.instance_id
        if set(entry) != ENTRY_KEYS:
            yield f"{name}: keys {sorted(entry)}"
        where = describe_source(world, item)
        if item.outcome != entry["outcome"]:
            yield (
                f"{name}: outcome {entry['outcome']} ({entry['reason']}), "
                f"expected {item.outcome} {item.target_id or ''}\n{where}"
            )
        if item.outcome == "exists":
            pair = (entry["target_id"], entry["session_id"])
            if pair not in item.sessions:
                yield f"{name}: names {pair}, expected one of {item.sessions}"
        elif entry["target_id"] != item.target_id:
            yield f"{name}: target {entry['target_id']}, expected {item.target_id}\n{where}"
        if (entry["session_id"] is None) != (item.outcome not in ("created", "exists")):
            yield f"{name}: {item.outcome} with session {entry['session_id']}"
        if item.outcome in ("created", "planned"):
            tag = f"eh-mirror-{(item.interface_id or '')[4:8]}{(item.target_id or '')[4:8]}"
            if entry["session_name"] != tag:
                yield f"{name}: session name {entry['session_name']}, expected {tag}"
        if item.sensors is not None:
            yield from sensor_differences(item.sensors, entry, scene, world, f"{name}\n{where}")


def sensor_differences(
    expected: list[ExpectedSensor],
    entry: dict[str, Any],
    scene: Case,
    world: World,
    where: str,
) -> Iterator[str]:
    """One paragraph for each verdict that differs."""
    wanted = [sensor.target_id for sensor in expected]
    got = [sensor["target_id"] for sensor in entry["sensors"]]
    if wanted != got:
        yield f"{where}\n  sensors: expected {wanted}, got {got}"
        return
    for sensor, found in zip(expected, entry["sensors"], strict=True):
        if set(found) != {"target_id", "verdict", "stage", "reason", "sessions"}:
            yield f"{where}\n  keys {sorted(found)}"
        if len(found["reason"]) < 10:
            yield f"{where}\n  {sensor.target_id}: reason {found['reason']!r}"
        accepted = [(sensor.verdict, sensor.stage)]
        if sensor.stage in sensor.or_stages:
            accepted += [("rejected", stage) for stage in sensor.or_stages]
        if (found["verdict"], found["stage"]) not in accepted:
            yield (
                f"{where}\n  {sensor.target_id}: {found['verdict']} at {found['stage']} "
                f"({found['reason']}), expected {accepted}\n"
                + describe_sensor(world, scene, sensor.target_id)
            )
        elif found["stage"] is None and sensor.behind not in (
            None,
            "ranked last" in found["reason"],
        ):
            yield f"{where}\n  {sensor.target_id}: behind {sensor.behind}, not {found['reason']}"
        elif found["sessions"] not in (None, sensor.sessions):
            yield (
                f"{where}\n  {sensor.target_id}: {found['sessions']} sessions, "
                f"expected {sensor.sessions}"
            )


def describe_source(world: World, item: ExpectedInterface) -> str:
    """What matters of a source, on one line."""
    found = find(world.interfaces, "NetworkInterfaceId", item.interface_id or "")
    return f"    source {describe_interface(world, found)}" if found else ""


def describe_interface(world: World, found: Answer) -> str:
    """What matters of an interface, ACL included."""
    acl = acl_of(world, found["SubnetId"])
    groups = [group["GroupId"] for group in found.get("Groups", ())]
    entries = sorted(
        (
            (
                "out" if entry["Egress"] else "in",
                entry["RuleNumber"],
                entry["RuleAction"],
                entry["Protocol"],
                tuple((entry.get("PortRange") or {}).values()),
                entry.get("CidrBlock") or entry.get("Ipv6CidrBlock"),
            )
            for entry in acl["Entries"]
        )
        if acl
        else ["unseen"],
        key=str,
    )
    return (
        f"{found['NetworkInterfaceId']} {found.get('PrivateIpAddress')} "
        f"{found['AvailabilityZone']} {found['SubnetId']} {found['VpcId']} "
        f"{found['InterfaceType']} groups {groups}\n      ACL {entries}"
    )


def describe_sensor(world: World, scene: Case, target_id: str) -> str:
    """What matters of a sensor: interfaces, rules, ACLs, sessions and quota."""
    target = find(world.targets, "TrafficMirrorTargetId", target_id)
    if target is None:
        return "    no such target"
    count = [session["TrafficMirrorTargetId"] for session in world.sessions].count(target_id)
    lines = [
        (
            f"    {target['Type']} of {target['OwnerId']}, {count} sessions, "
            f"room for {scene.limits.sources.get(target_id, 'any')}, targets "
            f"{scene.settings['targets']}, roles {scene.settings['roles']}"
        )
    ]
    view = asked_about(world, target)
    if view is None:
        return "\n".join([*lines, "    its account cannot be asked"])
    if view.denied:
        lines.append(f"    not to be read there: {view.denied}")
    for interface in interfaces_of(view, target):
        attached = (interface.get("Attachment") or {}).get("InstanceId")
        host = find_instance(view, attached) if attached else None
        state = host["State"]["Name"] if host else "unattached"
        lines.append(
            f"    {state} {describe_interface(view, interface)} {interface['AvailabilityZoneId']}"
        )
        for group in interface["Groups"]:
            found = find(view.groups, "GroupId", group["GroupId"])
            rules = found["IpPermissions"] if found else "unseen"
            lines.append(f"      {group['GroupId']} {rules}")
    if view.prefix_lists:
        lines.append(f"      prefix lists {str(view.prefix_lists)[:400]}")
    for table in world.route_tables or ():
        ways = [tuple(route.values()) for route in table["Routes"]]
        lines.append(f"      {table['VpcId']} {table['Associations']} {ways}"[:1500])
    return "\n".join(lines)
