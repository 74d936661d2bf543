"""A second opinion on which sensor mirrors which interface.

The rules are written out once more, slowly and with nothing but nested loops over what AWS
answered, so that the function can be compared with something that shares no line with it.
``expect`` is the whole model; ``group_rules_admit`` and ``acl_allows`` are its two filters.

Where the rules leave a choice, a comment that starts with AMBIGUOUS names the choices.
"""

from __future__ import annotations

import copy
import hashlib
import ipaddress
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

Answer = Mapping[str, Any]

VXLAN = 4789

# --------------------------------------------------------------------------------------
# What goes in and what comes out
# --------------------------------------------------------------------------------------


@dataclass
class World:
    """What AWS answers to one account, every page, each resource as boto3 returns it."""

    account: str = ""
    reservations: list[Answer] = field(default_factory=list)
    interfaces: list[Answer] = field(default_factory=list)
    targets: list[Answer] = field(default_factory=list)
    sessions: list[Answer] = field(default_factory=list)
    groups: list[Answer] = field(default_factory=list)
    acls: list[Answer] = field(default_factory=list)
    # The entries of each managed prefix list; one that cannot be read is absent.
    prefix_lists: dict[str, list[Answer]] = field(default_factory=dict)
    route_tables: list[Answer] = field(default_factory=list)
    # What the accounts show for which there is a role; None where one cannot be asked.
    accounts: dict[str, World | None] = field(default_factory=dict)
    # The fields of this class whose reading is denied.
    denied: set[str] = field(default_factory=set)


@dataclass
class ExpectedSensor:
    """The verdict on one configured target; `sessions` is its count before the choice.

    `or_stages` are other stages that a rejection may name, where the order is not promised;
    `behind`: whether something ranks it behind, None where nobody says.
    """

    target_id: str
    verdict: str
    stage: str | None
    sessions: int
    or_stages: tuple[str, ...] = ()
    behind: bool | None = None


@dataclass
class ExpectedInterface:
    """The outcome for one interface.

    `sessions` lists (target, session) that it may name; `sensors` is None where no verdicts
    are promised.
    """

    instance_id: str
    interface_id: str | None
    outcome: str
    target_id: str | None = None
    sensors: list[ExpectedSensor] | None = field(default_factory=list)
    sessions: list[tuple[str, str]] = field(default_factory=list)


# --------------------------------------------------------------------------------------
# The two filters
# --------------------------------------------------------------------------------------


def within(block: str | None, address: str) -> bool:
    """Whether an IPv4 block contains an IPv4 address; an IPv6 block never does."""
    if not block:
        return False
    network = ipaddress.ip_network(block, strict=False)
    if network.version != 4:
        return False
    return ipaddress.IPv4Address(address) in network


def contains_vxlan(first: int | None, last: int | None) -> bool:
    """Whether a range of ports contains 4789; where an end is missing it is open there."""
    if first is not None and first > VXLAN:
        return False
    return last is None or last >= VXLAN


def group_rules_admit(
    rules: Iterable[Answer],
    source_address: str,
    source_group_ids: Collection[str],
    prefix_lists: Mapping[str, Sequence[Answer]],
    unstated: bool = True,
) -> bool:
    """Whether one of the inbound rules (`IpPermissions`) admits udp/4789 from the source.

    `prefix_lists` maps the ID of each managed prefix list that can be read to its entries;
    `unstated` says whether references to groups count that show no status of a peering.
    """
    for rule in rules:
        protocol = rule["IpProtocol"]
        if protocol not in ("-1", "udp", "17"):
            continue
        if protocol != "-1" and not contains_vxlan(rule.get("FromPort"), rule.get("ToPort")):
            continue
        for block in rule.get("IpRanges", []):
            if within(block.get("CidrIp"), source_address):
                return True
        for pair in rule.get("UserIdGroupPairs", []):
            status = pair.get("PeeringStatus")
            counts = status == "active" or (unstated and not status)
            if counts and pair.get("GroupId") in source_group_ids:
                return True
        for listed in rule.get("PrefixListIds", []):
            # AMBIGUOUS: a list that exists but cannot be read although the permission is
            # there (shared, deleted). Here its rule does not match, as without permission;
            # the other reading makes the sensor `unavailable`, like an unseen group.
            for entry in prefix_lists.get(listed["PrefixListId"], []):
                if within(entry.get("Cidr"), source_address):
                    return True
    return False


def acl_allows(entries: Iterable[Answer], egress: bool, address: str) -> bool:
    """Whether a network ACL (its `Entries`) lets udp/4789 pass, to or from the address."""
    for entry in sorted(entries, key=lambda entry: int(entry["RuleNumber"])):
        if bool(entry["Egress"]) != egress:
            continue
        if str(entry["Protocol"]) not in ("-1", "17"):
            continue
        if str(entry["Protocol"]) == "17":
            ports = entry.get("PortRange") or {}
            if not contains_vxlan(ports.get("From"), ports.get("To")):
                continue
        if not within(entry.get("CidrBlock"), address):
            continue
        return bool(entry["RuleAction"] == "allow")
    return False


# --------------------------------------------------------------------------------------
# Looking things up in what AWS answered
# --------------------------------------------------------------------------------------


def find_instance(world: World, instance_id: str) -> Answer | None:
    """The instance of this ID, if it can be seen."""
    for reservation in world.reservations:
        for instance in reservation["Instances"]:
            if instance["InstanceId"] == instance_id:
                return dict(instance)
    return None


def find(items: Iterable[Answer], key: str, value: str) -> Answer | None:
    """The first item whose `key` has this value."""
    for item in items:
        if item.get(key) == value:
            return item
    return None


def acl_of(world: World, subnet_id: str) -> Answer | None:
    """The network ACL of a subnet, if it can be seen."""
    for acl in world.acls:
        for association in acl["Associations"]:
            if association["SubnetId"] == subnet_id:
                return acl
    return None


def configured(world: World, settings: Answer) -> list[str]:
    """The IDs of the configured targets; an account stands for its targets that are visible."""
    found: list[str] = []
    for entry in settings["targets"]:
        named = [entry]
        if len(entry) == 12 and entry.isdigit():
            named = sorted(
                target["TrafficMirrorTargetId"]
                for target in world.targets
                if target["OwnerId"] == entry
            )
        found += [target_id for target_id in named if target_id not in found]
    return found


def asked_about(world: World, target: Answer) -> World | None:
    """Who says what a target consists of: its owner, where there is a role, or else our account.

    None: its owner, who does not answer.
    """
    owner = target["OwnerId"]
    if owner == world.account or owner not in world.accounts:
        return world
    return world.accounts[owner]


def behind_load_balancer(target: Answer) -> bool:
    """Whether the target is a Network Load Balancer or a Gateway Load Balancer endpoint."""
    return bool(target.get("NetworkLoadBalancerArn") or target.get("GatewayLoadBalancerEndpointId"))


def interfaces_of(world: World, target: Answer) -> list[Answer]:
    """The interfaces of a target that this account sees."""
    if not behind_load_balancer(target):
        interface_id = target.get("NetworkInterfaceId")
        if not interface_id:  # shared without it; the owner sees it
            own = find(world.targets, "TrafficMirrorTargetId", target["TrafficMirrorTargetId"])
            interface_id = (own or {}).get("NetworkInterfaceId")
        found = find(world.interfaces, "NetworkInterfaceId", interface_id or "none")
        return [found] if found else []
    if target.get("NetworkLoadBalancerArn"):
        descriptions = ["ELB " + target["NetworkLoadBalancerArn"].split(":loadbalancer/")[1]]
    else:
        endpoint = target["GatewayLoadBalancerEndpointId"]
        descriptions = [
            f"VPC Endpoint Interface {endpoint}",
            f"VPC Endpoint Interface: {endpoint}",
        ]
    return [item for item in world.interfaces if item.get("Description") in descriptions]


# --------------------------------------------------------------------------------------
# One interface of a sensor
# --------------------------------------------------------------------------------------

STAGES = ("vpc", "security_group", "network_acl", "route")


def admitted_by_groups(view: World, source: Answer, sensor: Answer) -> str:
    """Whether the sensor's groups admit the packet: `yes`, `behind`, `no`, or `unseen` where a
    group decides that is not shown."""
    group_ids = [group["GroupId"] for group in sensor.get("Groups", [])]
    if not group_ids:
        return "yes"
    found = [find(view.groups, "GroupId", group_id) for group_id in group_ids]
    source_groups = [group["GroupId"] for group in source.get("Groups", [])]
    within_vpc = source["VpcId"] == sensor["VpcId"]

    def admits(lists: Mapping[str, Sequence[Answer]], unstated: bool) -> bool:
        return any(
            group_rules_admit(
                group.get("IpPermissions", []),
                source["PrivateIpAddress"],
                source_groups,
                lists,
                unstated,
            )
            for group in found
            if group
        )

    if admits({}, within_vpc):
        return "yes"
    # AMBIGUOUS: a reference of unknown standing and a prefix list both admit. Here the list is not
    # read, as something else admits the packet; the other reading ranks the sensor with the rest.
    if admits({}, True):
        return "behind"
    if admits(view.prefix_lists, within_vpc):
        return "yes"
    return "unseen" if None in found else "no"


def allowed_inbound(view: World, source: Answer, sensor: Answer) -> bool | None:
    """Whether the ACL of the sensor's subnet lets the packet in; None if it is unseen."""
    if source["SubnetId"] == sensor["SubnetId"]:
        return True
    acl = acl_of(view, sensor["SubnetId"])
    if acl is None:
        return None
    return acl_allows(acl["Entries"], False, source["PrivateIpAddress"])


def denied_outbound(world: World, source: Answer, sensor: Answer) -> bool:
    """Whether the ACL of the source's subnet is known to deny the packet."""
    if source["SubnetId"] == sensor["SubnetId"]:
        return False
    acl = acl_of(world, source["SubnetId"])
    if acl is None:
        # AMBIGUOUS: the source's own ACL is unseen (shared subnet). Here no denial is
        # known, so the sensor is not ranked behind.
        return False
    return not acl_allows(acl["Entries"], True, sensor["PrivateIpAddress"])


ASTRAY = ("NatGatewayId", "EgressOnlyInternetGatewayId", "CarrierGatewayId")
LEADING = ("VpcPeeringConnectionId", "TransitGatewayId", "NetworkInterfaceId", "InstanceId")


def routed(tables: Iterable[Answer], source: Answer, sensor: Answer) -> str:
    """Whether a route leads from the source's subnet to a sensor in another VPC: `yes`, `behind`
    (AWS does not say, or it cannot be known) or `no`."""
    own = main = None
    for table in tables:
        for association in table["Associations"]:
            if association.get("SubnetId") == source["SubnetId"]:
                own = table
            if association.get("Main") and table["VpcId"] == source["VpcId"]:
                main = table
    table = own or main
    if table is None:
        # AMBIGUOUS: no table is shown. Here, as what is unseen does not reject, it passes.
        return "yes"
    best: tuple[int, bool] | None = None
    winner: Answer = {}
    for route in table["Routes"]:
        if route["State"] == "filtered":
            continue
        if route.get("DestinationPrefixListId"):
            if not route.get("GatewayId", "").startswith("vpce-"):
                # AMBIGUOUS: whether that holds, too, where the winner among the others is known
                # to lead nowhere, or to lead there; here it does, as the list may be closer.
                return "behind"
            continue
        if not within(route.get("DestinationCidrBlock"), sensor["PrivateIpAddress"]):
            continue
        length = ipaddress.IPv4Network(route["DestinationCidrBlock"]).prefixlen
        this = (length, route["Origin"] != "EnableVgwRoutePropagation")
        if best is None or this > best:
            best, winner = this, route
    if best is None or winner["State"] == "blackhole":
        return "no"
    gateway = winner.get("GatewayId", "")
    if gateway == "local" or gateway.startswith("igw-") or any(map(winner.get, ASTRAY)):
        return "no"
    if gateway.startswith("vpce-") or any(map(winner.get, LEADING)):
        return "yes"
    return "behind"


def judge_sensor_interface(
    world: World, view: World, settings: Answer, source: Answer, sensor: Answer
) -> tuple[str, bool]:
    """The stage that rejects one interface of a sensor, or `passes`, `unverified`, or `unreadable`
    where what decides may not be read in its account; and whether something ranks it behind."""
    elsewhere = sensor["VpcId"] != source["VpcId"]
    if settings["local_vpc_only"] and elsewhere:
        return "vpc", False
    if "groups" in view.denied and sensor.get("Groups"):
        return "unreadable", False
    admitted = admitted_by_groups(view, source, sensor)
    if admitted == "no":
        return "security_group", False
    if "acls" in view.denied and source["SubnetId"] != sensor["SubnetId"]:
        return "unreadable", False
    allowed = allowed_inbound(view, source, sensor)
    # AMBIGUOUS: groups unseen, ACL seen and denying. "Unavailable where what is unseen would
    # decide": here the group would not decide, the ACL does. The other reading stops at
    # the stage of the groups and says `unavailable`; it differs in the verdict, and with
    # ALLOW_UNVERIFIED it would use a sensor whose ACL is known to deny.
    if allowed is False:
        return "network_acl", False
    leads = routed(world.route_tables, source, sensor) if elsewhere else "yes"
    if leads == "no":
        return "route", False
    behind = "behind" in (admitted, leads) or denied_outbound(world, source, sensor)
    return "unverified" if admitted == "unseen" or allowed is None else "passes", behind


# --------------------------------------------------------------------------------------
# One sensor
# --------------------------------------------------------------------------------------


@dataclass
class Judged:
    """What the filters say of one sensor, before anything is created.

    `fate` is `dead`, `unreadable` (its account does not say), `passes`, `unverified` or the stage
    that rejects it; `in_zone` is None where the zone is unknown; `behind`: something ranks it so.
    """

    target_id: str
    fate: str
    in_zone: bool | None = None
    behind: bool = False


def why_dead(view: World, target: Answer, interfaces: list[Answer]) -> bool:
    """Whether the instance that a sensor's interface is attached to is known not to run."""
    if behind_load_balancer(target):
        return False
    instance_id = (interfaces[0].get("Attachment") or {}).get("InstanceId")
    found = find_instance(view, instance_id) if instance_id else None
    # AMBIGUOUS: a sensor whose instance is pending. Here it is known not to be running;
    # the other reading takes "that counts as running" to hold for sensors, too.
    return bool(found and found["State"]["Name"] != "running")


def judge_sensor(
    world: World, settings: Answer, instance: Answer, source: Answer, target_id: str
) -> Judged:
    """Take one configured target through every stage, as if its zone were no obstacle."""
    target = find(world.targets, "TrafficMirrorTargetId", target_id)
    if target is None:
        return Judged(target_id, "dead")
    view = asked_about(world, target)
    # AMBIGUOUS: whether the sessions of an account may be missing from the count. Here not.
    if view is None or "sessions" in view.denied:
        return Judged(target_id, "unreadable")
    # AMBIGUOUS: a load balancer without tags in an account that does not answer; here what does
    # not depend on the answer comes after it, though both are `unavailable`.
    hidden = not (behind_load_balancer(target) or target.get("NetworkInterfaceId"))
    if "interfaces" in view.denied or (hidden and "targets" in view.denied):
        return Judged(target_id, "unreadable")
    tagged = settings["include_tags"] or settings["exclude_tags"]
    if behind_load_balancer(target) and not tagged:
        # AMBIGUOUS: a load balancer in another zone, no tags set: `unavailable` (here, as
        # 5.2 comes before 5.3) or `zone` ("a zone that is known comes first").
        return Judged(target_id, "dead")
    interfaces = interfaces_of(view, target)
    through_role = view is not world
    if not interfaces:
        # AMBIGUOUS: LOCAL_VPC_ONLY with a sensor whose VPC is unknown. Here unverified, so
        # ALLOW_UNVERIFIED uses it; the other reading rejects what may be elsewhere.
        foreign = target["OwnerId"] != world.account and not through_role
        return Judged(target_id, "unverified" if foreign else "dead")
    host = interfaces[0].get("Attachment", {}).get("InstanceId")
    if host and "reservations" in view.denied:
        return Judged(target_id, "unreadable")
    if why_dead(view, target, interfaces):
        return Judged(target_id, "dead")

    key = "AvailabilityZoneId" if through_role else "AvailabilityZone"
    here = [item for item in interfaces if item[key] == instance["Placement"][key]]
    # AMBIGUOUS: a load balancer with interfaces in the zone (all rejected) and in others.
    # Here it is a sensor of the zone and judged by the interfaces there, so it is not one of
    # "the others" that LOCAL_ZONE_ONLY false lets be tried; the other reading tries its
    # interfaces in other zones then.
    found = [
        judge_sensor_interface(world, view, settings, source, item) for item in here or interfaces
    ]
    fates = [fate for fate, _ in found]
    if "passes" in fates:
        fate = "passes"
    elif "unreadable" in fates:
        fate = "unreadable"
    elif "unverified" in fates:
        fate = "unverified"
    else:
        # AMBIGUOUS: several interfaces rejected at different stages; here the latest stage
        # that one of them reached, as the sensor passes a stage with any of them.
        fate = max(fates, key=STAGES.index)
    # AMBIGUOUS: several interfaces, something ranks some behind; here one that passes
    # everything and is not ranked behind is enough.
    behind = all(last for other, last in found if other == fate)
    return Judged(target_id, fate, bool(here), behind)


# --------------------------------------------------------------------------------------
# One interface of an instance
# --------------------------------------------------------------------------------------


def has_tag(instance: Answer, wanted: Iterable[str]) -> bool:
    """Whether the instance has one of the tags, each `key` or `key=value`."""
    for text in wanted:
        key, equals, value = text.partition("=")
        for tag in instance.get("Tags", []):
            if tag["Key"] == key and (not equals or tag["Value"] == value):
                return True
    return False


def is_sensor(world: World, settings: Answer, instance: Answer, source: Answer) -> bool:
    """Whether the interface is any target's, or its instance hosts a configured one."""
    on_instance = [item["NetworkInterfaceId"] for item in instance["NetworkInterfaces"]]
    for target in world.targets:
        interface_id = target.get("NetworkInterfaceId")
        if interface_id and interface_id == source["NetworkInterfaceId"]:
            return True
        ours = target["TrafficMirrorTargetId"] in configured(world, settings)
        if ours and interface_id in on_instance:
            return True
    return False


def set_aside(
    world: World, settings: Answer, instance: Answer, source: Answer
) -> ExpectedInterface | None:
    """The outcome of an interface that falls out before sensors are judged."""
    instance_id, interface_id = instance["InstanceId"], source["NetworkInterfaceId"]
    skipped = ExpectedInterface(instance_id, interface_id, "skipped")
    if has_tag(instance, settings["exclude_tags"]):
        return skipped
    if settings["include_tags"] and not has_tag(instance, settings["include_tags"]):
        return skipped
    if source.get("InterfaceType", "interface") != "interface":
        return skipped
    if is_sensor(world, settings, instance, source):
        return skipped
    # AMBIGUOUS: an interface with several sessions; any of them may be named.
    existing = [
        (session["TrafficMirrorTargetId"], session["TrafficMirrorSessionId"])
        for session in world.sessions
        if session["NetworkInterfaceId"] == interface_id
    ]
    if existing:
        return ExpectedInterface(instance_id, interface_id, "exists", sessions=existing)
    if not source.get("PrivateIpAddress"):
        return skipped
    return None


@dataclass
class Limits:
    """What AWS refuses: each limit is what is left of it before the invocation."""

    sources: dict[str, int] = field(default_factory=dict)  # for targets that have a limit
    sessions: int | None = None  # in the account; None: no limit in sight
    unsupported_types: set[str] = field(default_factory=set)


@dataclass
class Waiting:
    """An interface that needs a session, and what is expected of it so far."""

    instance: Answer
    source: Answer
    expected: ExpectedInterface | None = None

    @property
    def interface_id(self) -> str:
        return str(self.source["NetworkInterfaceId"])

    @property
    def target_id(self) -> str:
        return str(self.expected and self.expected.target_id)


@dataclass
class Invocation:
    """What one invocation knows and has done so far."""

    world: World
    settings: Answer
    limits: Limits
    dry_run: bool
    got: Mapping[str, tuple[str, str | None]]
    chosen: Counter[str] = field(default_factory=Counter)  # sessions by target, on top of the old
    refused: set[str] = field(default_factory=set)
    unsupported: set[str] = field(default_factory=set)
    full: bool = False

    def count(self, target_id: str) -> int:
        """The target's sessions: those that are seen here and by its owner, and the new ones."""
        target = find(self.world.targets, "TrafficMirrorTargetId", target_id)
        owner = asked_about(self.world, target) if target else None
        ids = {
            session["TrafficMirrorSessionId"]
            for session in [*self.world.sessions, *(owner.sessions if owner else [])]
            if session["TrafficMirrorTargetId"] == target_id
        }
        return len(ids) + self.chosen[target_id]

    def rank(self, source: Answer, judged: Judged) -> tuple[bool, int, str]:
        """Lowest is best: nothing against it, sessions, SHA-256 of interface and target."""
        text = source["NetworkInterfaceId"] + judged.target_id
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
        return judged.behind, self.count(judged.target_id), digest

    def round(self, waiting: list[Waiting]) -> list[Waiting]:
        """Choose for all, each choice counting at once; then all creates go out. What is returned
        waits for the next round, which knows of all that has been refused."""
        plans = []
        for item in waiting:
            item.expected = choose(self, item.instance, item.source)
            if item.expected.target_id:
                self.chosen[item.target_id] += 1
                plans.append(item)
        if self.dry_run:
            return []
        left = self.send(plans)
        for item in left:
            self.chosen[item.target_id] -= 1
        return left

    def won(self, item: Waiting) -> bool:
        """Whether, of those that compete, this one is said to have got its session: any may."""
        return self.got.get(item.interface_id) == ("created", item.target_id)

    def send(self, plans: list[Waiting]) -> list[Waiting]:
        """Let AWS decide; what is returned has to be chosen for again."""
        able = [p for p in plans if p.instance["InstanceType"] not in self.limits.unsupported_types]
        winners: list[Waiting] = []
        refused = set()
        for target_id in dict.fromkeys(item.target_id for item in able):
            rivals = [item for item in able if item.target_id == target_id]
            room = max(0, self.limits.sources.get(target_id, len(rivals)))
            if len(rivals) > room:
                refused.add(target_id)
            winners += sorted(rivals, key=lambda item: not self.won(item))[:room]
        if self.limits.sessions is not None and len(winners) > self.limits.sessions:
            winners = sorted(winners, key=lambda item: not self.won(item))[: self.limits.sessions]
            self.full = True
        for item in winners:
            if item.target_id in self.limits.sources:
                self.limits.sources[item.target_id] -= 1
            if self.limits.sessions is not None:
                self.limits.sessions -= 1
        left = []
        for item in plans:
            if any(item is winner for winner in winners):
                continue
            instance_id, interface_id = item.instance["InstanceId"], item.interface_id
            # Whether it was sent before its target was known to be refused, nobody can say.
            waits = item.target_id in refused and self.got.get(interface_id, ("",))[0] != "skipped"
            if item not in able and not waits:
                if item.source["Attachment"]["DeviceIndex"] == 0:
                    self.unsupported.add(item.instance["InstanceType"])
                self.chosen[item.target_id] -= 1
                item.expected = ExpectedInterface(instance_id, interface_id, "skipped")
            elif self.full:
                # AMBIGUOUS: the verdict on the sensor that would be next once the account is
                # full; none is expected here.
                item.expected = ExpectedInterface(
                    instance_id, interface_id, "unmirrored", sensors=None
                )
            else:
                left.append(item)
        self.refused |= refused
        return left


def choose(invocation: Invocation, instance: Answer, source: Answer) -> ExpectedInterface:
    """Take every configured sensor through the stages and choose the best."""
    world, settings = invocation.world, invocation.settings
    instance_id, interface_id = instance["InstanceId"], source["NetworkInterfaceId"]
    # AMBIGUOUS: a further interface of an unsupported instance type that no sensor can take;
    # here "not tried again" comes first: `skipped`. The other reading says `unmirrored`.
    if instance["InstanceType"] in invocation.unsupported:
        return ExpectedInterface(instance_id, interface_id, "skipped")

    sensors = [
        judge_sensor(world, settings, instance, source, target_id)
        for target_id in configured(world, settings)
    ]
    # Each of these is tried only when nothing is left of the ones before.
    # AMBIGUOUS: unverified sensors of another zone, LOCAL_ZONE_ONLY false. Here "compete
    # by 5.6, zone ignored where unknown" means that the zone counts where it is known: first
    # the zone's and those of unknown zone, then the others. The other reading lets all
    # unverified ones compete at once.
    tiers: list[list[Judged]] = [
        [item for item in sensors if item.fate == "passes" and item.in_zone],
        [],
        [],
        [],
    ]
    others_allowed = not settings["local_zone_only"]
    if others_allowed:
        tiers[1] = [item for item in sensors if item.fate == "passes" and not item.in_zone]
    if settings["allow_unverified"]:
        tiers[2] = [
            item for item in sensors if item.fate == "unverified" and item.in_zone is not False
        ]
        if others_allowed:
            tiers[3] = [
                item for item in sensors if item.fate == "unverified" and item.in_zone is False
            ]
    selected = None
    reached = -1
    for tier in tiers:
        reached += 1
        left = [item for item in tier if item.target_id not in invocation.refused]
        if left:
            selected = min(left, key=lambda item: invocation.rank(source, item)).target_id
            break

    verdicts = []
    for item in sensors:
        verdict, stage = verdict_of(item, settings, selected, reached, invocation.refused)
        verdicts.append(
            ExpectedSensor(
                item.target_id,
                verdict,
                stage,
                invocation.count(item.target_id),
                other_stages(item, settings, reached, invocation.refused),
                item.behind if item.fate == "passes" else None,
            )
        )
    outcome = "unmirrored"
    if selected:
        outcome = "planned" if invocation.dry_run else "created"
    elif any(
        item.fate == "unreadable" and (item.in_zone is not False or others_allowed)
        for item in sensors
    ):
        outcome = "failed"
    return ExpectedInterface(instance_id, interface_id, outcome, selected, verdicts)


def verdict_of(
    item: Judged, settings: Answer, selected: str | None, reached: int, refused: set[str]
) -> tuple[str, str | None]:
    """Verdict and stage of one sensor, once it is known which round brought the choice."""
    if item.target_id == selected:
        return "selected", None
    if item.fate == "dead" or (item.fate == "unreadable" and item.in_zone is None):
        return "rejected", "unavailable"
    if item.in_zone is False:
        # Sensors of other zones fall at `zone` unless they were tried.
        if settings["local_zone_only"] or reached < 1:
            return "rejected", "zone"
        if item.fate == "unverified" and settings["allow_unverified"] and reached == 2:
            return "rejected", "zone"
    if item.fate == "unreadable":
        return "rejected", "unavailable"
    if item.fate in STAGES:
        return "rejected", item.fate
    if item.fate == "unverified":
        tried = settings["allow_unverified"] and reached >= (3 if item.in_zone is False else 2)
        if not tried:
            return "rejected", "unavailable"
    # AMBIGUOUS: a target that refused an earlier interface and would be rejected by an
    # earlier stage for this one; here the earlier stage is the verdict.
    if item.target_id in refused:
        return "rejected", "create"
    return "eligible", None


def other_stages(
    item: Judged, settings: Answer, reached: int, refused: set[str]
) -> tuple[str, ...]:
    """Stages that say as much as the expected one where the text leaves the order open."""
    found: tuple[str, ...] = ()
    if item.fate != "unverified":
        return found
    # AMBIGUOUS: an unverified sensor of another zone beside a selected unverified one of the
    # zone: `zone` (a zone that is known comes first) or `unavailable`.
    if item.in_zone is False and reached == 2 and not settings["local_zone_only"]:
        found += ("zone", "unavailable")
    # AMBIGUOUS: an unverified sensor that refused an earlier interface, beside a verified
    # one: `unavailable` or, as it stays rejected "for the rest of the invocation", `create`.
    tried = item.in_zone is not False or (reached >= 1 and not settings["local_zone_only"])
    if tried and item.target_id in refused:
        found += ("unavailable", "create")
    return found


# --------------------------------------------------------------------------------------
# The whole invocation
# --------------------------------------------------------------------------------------


def expect(
    world: World,
    settings: Answer,
    instance_ids: Iterable[str],
    limits: Limits | None = None,
    dry_run: bool = False,
    got: Mapping[str, tuple[str, str | None]] | None = None,
) -> list[ExpectedInterface]:
    """What the function should do with these instances, interface by interface.

    Args:
        world: What AWS answers before the invocation.
        settings: `targets`, `local_zone_only`, `local_vpc_only`, `include_tags`,
            `exclude_tags`, `allow_unverified`.
        instance_ids: The instances of the event, in order.
        limits: What AWS refuses to create.
        dry_run: Whether nothing is created; limits then stay unknown.
        got: Outcome and target of each interface, as the function says. Where several compete for
            the last place of a target, or of the account, any of them may get it: how many do is
            the model's to say, which of them it takes from here.
    """
    invocation = Invocation(world, settings, copy.deepcopy(limits or Limits()), dry_run, got or {})
    results: list[ExpectedInterface | Waiting] = []
    for instance_id in instance_ids:
        instance = find_instance(world, instance_id)
        if instance is None or instance["State"]["Name"] not in ("running", "pending"):
            results.append(ExpectedInterface(instance_id, None, "skipped"))
            continue
        for source in sorted(
            instance["NetworkInterfaces"], key=lambda item: item["Attachment"]["DeviceIndex"]
        ):
            aside = set_aside(world, settings, instance, source)
            results.append(aside or Waiting(instance, source))
    waiting = [item for item in results if isinstance(item, Waiting)]
    assert len(waiting) <= 100, "more than a round"
    while waiting:
        waiting = invocation.round(waiting)
    expected = [item.expected if isinstance(item, Waiting) else item for item in results]
    return [item for item in expected if item]


# --------------------------------------------------------------------------------------
# Random rules, for property-based tests
# --------------------------------------------------------------------------------------

PORTS = (0, 1, 4788, 4789, 4790, 65535)


def addresses() -> st.SearchStrategy[str]:
    """Few private addresses, so that rules and addresses meet often."""
    return st.builds(
        "10.{}.{}.{}".format,
        st.sampled_from((0, 1)),
        st.sampled_from((0, 1, 255)),
        st.sampled_from((1, 10, 127, 128, 255)),
    )


def blocks() -> st.SearchStrategy[str]:
    """IPv4 blocks that often contain, or only just miss, one of the addresses."""

    def block(address: str, length: int) -> str:
        return str(ipaddress.ip_network(f"{address}/{length}", strict=False))

    near = st.builds(block, addresses(), st.sampled_from((8, 15, 16, 23, 24, 25, 30, 31, 32)))
    return st.one_of(near, near, st.sampled_from(("0.0.0.0/0", "192.168.0.0/16", "10.0.0.0/9")))


def port_ranges() -> st.SearchStrategy[tuple[int, int] | None]:
    """Port ranges whose ends lie at and beside 4789, or none."""
    ordered = st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)).map(
        lambda pair: (min(pair), max(pair))
    )
    return st.one_of(st.none(), ordered)


GROUP_IDS = ("sg-one", "sg-two", "sg-three")
PREFIX_LIST_IDS = ("pl-one", "pl-two", "pl-three")


def group_id_lists() -> st.SearchStrategy[list[str]]:
    """The groups that a source has."""
    return st.lists(st.sampled_from(GROUP_IDS), max_size=2, unique=True)


@st.composite
def ip_permissions(draw: st.DrawFn) -> list[dict[str, Any]]:
    """`IpPermissions` of a security group as DescribeSecurityGroups returns them."""
    rules: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 4))):
        protocol = draw(st.sampled_from(("-1", "udp", "udp", "17", "tcp", "icmp", "6")))
        rule: dict[str, Any] = {
            "IpProtocol": protocol,
            "IpRanges": [],
            "Ipv6Ranges": [],
            "PrefixListIds": [],
            "UserIdGroupPairs": [],
        }
        ports = draw(port_ranges())
        if ports is not None:
            rule["FromPort"], rule["ToPort"] = ports
        for _ in range(draw(st.integers(0, 2))):
            origin = draw(st.sampled_from(("block", "block", "group", "list", "ipv6")))
            if origin == "block":
                rule["IpRanges"].append({"CidrIp": draw(blocks())})
            elif origin == "ipv6":
                rule["Ipv6Ranges"].append({"CidrIpv6": "::/0"})
            elif origin == "list":
                listed = draw(st.sampled_from(PREFIX_LIST_IDS))
                rule["PrefixListIds"].append({"PrefixListId": listed})
            else:
                pair = {
                    "GroupId": draw(st.sampled_from(GROUP_IDS)),
                    "UserId": "123456789012",
                }
                status = draw(st.sampled_from((None, "active", "deleted", "pending-acceptance")))
                if status:
                    pair["PeeringStatus"] = status
                rule["UserIdGroupPairs"].append(pair)
        rules.append(rule)
    return rules


@st.composite
def prefix_list_entries(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    """The entries of some of the prefix lists, as GetManagedPrefixListEntries returns them."""
    readable = draw(st.lists(st.sampled_from(PREFIX_LIST_IDS), unique=True))
    return {
        listed: [
            {"Cidr": block}
            for block in draw(st.lists(st.one_of(blocks(), st.just("2001:db8::/32")), max_size=3))
        ]
        for listed in readable
    }


@st.composite
def acl_entries(draw: st.DrawFn) -> list[dict[str, Any]]:
    """`Entries` of a network ACL, in any order, mostly with the final denial."""
    entries: list[dict[str, Any]] = []
    for egress in (False, True):
        numbers = draw(st.lists(st.integers(1, 400), max_size=5, unique=True))
        for number in numbers:
            entry: dict[str, Any] = {
                "Egress": egress,
                "Protocol": draw(st.sampled_from(("-1", "17", "17", "6", "1"))),
                "RuleAction": draw(st.sampled_from(("allow", "deny"))),
                "RuleNumber": number,
            }
            ports = draw(port_ranges())
            if ports is not None:
                entry["PortRange"] = {"From": ports[0], "To": ports[1]}
            if draw(st.integers(0, 4)) == 0:
                entry["Ipv6CidrBlock"] = "::/0"
            else:
                entry["CidrBlock"] = draw(blocks())
            entries.append(entry)
        if draw(st.integers(0, 4)) > 0:
            entries.append(
                {
                    "CidrBlock": "0.0.0.0/0",
                    "Egress": egress,
                    "Protocol": "-1",
                    "RuleAction": "deny",
                    "RuleNumber": 32767,
                }
            )
    return list(draw(st.permutations(entries)))
