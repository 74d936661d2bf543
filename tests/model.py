"""A second implementation of the rules, written from the contract alone and for reading only.

Nested loops over what AWS answered, no cache, no index, no call. `expect` is the whole model:
it takes what AWS shows (`World`), the settings, the interfaces in question and what AWS answered
to each create, and returns what the function should say of every interface. It chooses as the
function should, round by round, and looks up what became of each create that follows from it; a
create that nothing explains is left over, and a test sees it.

A finding is what one stage says of one interface of a sensor: `yes`, `elsewhere` (another zone),
`behind` (ranked behind), `unseen` (it exists but is not shown), `lacks` (AWS's answer is missing
for good: denied, unreadable), `lacks for now` (throttled), or `no`.

Where the contract leaves a choice, a comment that starts with AMBIGUOUS says so.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Row = Mapping[str, Any]

VXLAN = 4789
STAGES = ("tag", "unavailable", "zone", "vpc", "security_group", "network_acl", "route", "create")
UNVERIFIED = 4  # the last rank; 0 and 1: the source's zone, clean and behind; 2 and 3: others

# --- What goes in and what comes out


@dataclass
class World:
    """What AWS shows to one account: every page, each row as boto3 returns it.

    `prefix_lists` holds the entries of those that can be read. `accounts` holds what the accounts
    show for which there is a role. `missing` names what AWS did not answer: fields of this class,
    `hosts` (the sensors' instances), `account` (the role cannot be assumed) or IDs of prefix
    lists; its value says whether that is final (denied) or not (throttled).
    """

    account: str = ""
    reservations: Sequence[Row] = ()
    interfaces: Sequence[Row] = ()
    targets: Sequence[Row] = ()
    sessions: Sequence[Row] = ()
    groups: Sequence[Row] = ()
    acls: Sequence[Row] = ()
    route_tables: Sequence[Row] = ()
    prefix_lists: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    accounts: Mapping[str, World] = field(default_factory=dict)
    missing: dict[str, bool] = field(default_factory=dict)

    def lacks(self, *names: str) -> str | None:
        """The finding where one of these was not answered."""
        finals = [self.missing[name] for name in (*names, "account") if name in self.missing]
        return None if not finals else "lacks" if all(finals) else "lacks for now"

    def instance(self, instance_id: str) -> Row | None:
        rows = [row for group in self.reservations for row in group["Instances"]]
        return find(rows, "InstanceId", instance_id)


@dataclass
class Settings:
    """The configuration that decides; the names are those of the variables."""

    targets: Sequence[str] = ("t1",)
    filter_id: str = "f"
    local_zone_only: bool = True
    local_vpc_only: bool = False
    include_tags: Sequence[str] = ()
    exclude_tags: Sequence[str] = ()
    filter_tag: str = ""
    targets_tag: str = ""
    mirror_databases: bool = False
    session_number: int = 1
    mirror_alongside: bool = False
    allow_unverified: bool = False
    dry_run: bool = False


@dataclass
class Source:
    """An interface in question: one of an instance, or a database's that has none."""

    row: Row
    instance: Row | None = None

    @property
    def id(self) -> str:
        return str(self.row["NetworkInterfaceId"])

    def tag(self, key: str) -> str:
        """The value of an instance's tag, empty where there is none."""
        tags = (self.instance or {}).get("Tags", [])
        return next((tag["Value"] for tag in tags if key and tag["Key"] == key), "")


@dataclass
class ExpectedSensor:
    """The verdict on one configured target, and the count of its sessions before the choice."""

    target_id: str
    verdict: str
    stage: str | None
    sessions: int
    behind: bool | None = None  # None: either will do


@dataclass
class ExpectedInterface:
    """The outcome for one interface.

    `sessions` lists (target, session) that an `exists` or `blocked` may name; `sensors` is None
    where no verdicts are promised.
    """

    instance_id: str | None
    interface_id: str | None
    outcome: str
    target_id: str | None = None
    sensors: list[ExpectedSensor] | None = field(default_factory=list)
    sessions: list[tuple[str, str]] = field(default_factory=list)
    excluded: bool = False  # by a tag rule


# The codes that AWS answered to the creates for (interface, target, filter), None for a session.
Creates = dict[tuple[str, str, str], list[str | None]]

# --- The two filters (5.4, 5.5)


def within(block: str | None, address: str) -> bool:
    """Whether an IPv4 block contains an IPv4 address; an IPv6 block never does. ValueError: it is
    no block."""
    if not block:
        return False
    network = ipaddress.ip_network(block, strict=False)
    return network.version == 4 and ipaddress.IPv4Address(address) in network


def contains_vxlan(first: int | None, last: int | None) -> bool:
    """Whether a range of ports contains 4789; where an end is missing it is open there."""
    return (first is None or first <= VXLAN) and (last is None or last >= VXLAN)


def is_about_vxlan(rule: Row) -> bool:
    """Whether a rule of a security group is about udp/4789; one for all protocols has no ports."""
    if rule["IpProtocol"] == "-1":
        return True
    ports = rule.get("FromPort"), rule.get("ToPort")
    return rule["IpProtocol"] in ("udp", "17") and contains_vxlan(*ports)


def rule_admits(
    rule: Row,
    source_address: str,
    source_group_ids: Collection[str],
    prefix_lists: Mapping[str, Sequence[Row]],
    unstated: bool,
) -> bool:
    """Whether an inbound rule admits udp/4789 from the source; `unstated`: references to groups
    that show no status of a peering count, too."""
    if not is_about_vxlan(rule):
        return False
    blocks = [block.get("CidrIp") for block in rule.get("IpRanges", [])]
    for listed in rule.get("PrefixListIds", []):
        # AMBIGUOUS: a list that exists but is not shown although the permission is there
        # (shared, deleted). Here its rule does not match, as without the permission.
        blocks += [entry.get("Cidr") for entry in prefix_lists.get(listed["PrefixListId"], [])]
    return any(within(block, source_address) for block in blocks) or any(
        pair.get("GroupId") in source_group_ids
        and (pair.get("PeeringStatus") == "active" or (unstated and not pair.get("PeeringStatus")))
        for pair in rule.get("UserIdGroupPairs", [])
    )


def acl_allows(entries: Iterable[Row], egress: bool, address: str) -> bool:
    """Whether a network ACL (its `Entries`) lets udp/4789 pass, to or from the address."""
    for entry in sorted(entries, key=lambda entry: int(entry["RuleNumber"])):
        protocol, ports = str(entry["Protocol"]), entry.get("PortRange") or {}
        if bool(entry["Egress"]) != egress or protocol not in ("-1", "17"):
            continue
        if protocol == "17" and not contains_vxlan(ports.get("From"), ports.get("To")):
            continue
        if within(entry.get("CidrBlock"), address):
            return bool(entry["RuleAction"] == "allow")
    return False


# --- Looking things up in what AWS answered


def find(rows: Iterable[Row], key: str, value: object) -> Row | None:
    return next((row for row in rows if value and row.get(key) == value), None)


def acl_of(world: World, subnet_id: str) -> Row | None:
    return next((a for a in world.acls if find(a["Associations"], "SubnetId", subnet_id)), None)


def configured(world: World, settings: Settings) -> list[str]:
    """The IDs of the configured targets; an account stands for its targets that are visible."""
    found: list[str] = []
    for entry in settings.targets:
        named = [entry]
        if len(entry) == 12 and entry.isdigit():
            owned = [target for target in world.targets if target["OwnerId"] == entry]
            named = sorted(target["TrafficMirrorTargetId"] for target in owned)
        found += [target_id for target_id in named if target_id not in found]
    return found


def owner_of(world: World, target: Row) -> World:
    """Who says what a target consists of: its owner where there is a role, else this account."""
    owner = target["OwnerId"]
    return world if owner == world.account else world.accounts.get(owner, world)


def behind_load_balancer(target: Row) -> bool:
    """Whether the target is a Network Load Balancer or a Gateway Load Balancer endpoint."""
    return bool(target.get("NetworkLoadBalancerArn") or target.get("GatewayLoadBalancerEndpointId"))


def faces_of(world: World, target: Row) -> list[Row] | str:
    """The interfaces of a target, or the finding that stands for them."""
    view = owner_of(world, target)
    foreign = target["OwnerId"] != world.account and view is world
    if not (target.get("NetworkInterfaceId") or behind_load_balancer(target)):
        if foreign:
            return "unseen"
        if lacks := view.lacks("targets"):
            return lacks
        # Shared without its interface: its owner is shown the rest.
        own = find(view.targets, "TrafficMirrorTargetId", target["TrafficMirrorTargetId"])
        target = own or {}
    interface_id, texts = target.get("NetworkInterfaceId"), []
    if arn := target.get("NetworkLoadBalancerArn"):
        texts = ["ELB " + arn.split(":loadbalancer/")[1]]
    elif endpoint := target.get("GatewayLoadBalancerEndpointId"):
        texts = [f"VPC Endpoint Interface{colon} {endpoint}" for colon in ("", ":")]
    if not (interface_id or texts):
        return "no"  # it shows nothing of where it receives
    if lacks := view.lacks("interfaces"):
        return lacks
    by_id = [row for row in view.interfaces if row["NetworkInterfaceId"] == interface_id]
    found = by_id or [row for row in view.interfaces if row.get("Description") in texts]
    return found or ("unseen" if foreign else "no")


# --- The stages: one interface of a sensor (5.2 to 5.5a)


def host_runs(view: World, face: Row) -> str:
    """5.2: `no` if the instance that the interface is attached to is known not to be running."""
    instance_id = (face.get("Attachment") or {}).get("InstanceId")
    if not instance_id:
        return "yes"
    if lacks := view.lacks("hosts"):
        return lacks
    # A host that is not shown (managed, hidden) is not known to be anything.
    host = view.instance(instance_id) or {"State": {"Name": "running"}}
    state = host["State"].get("Name")
    if not state:
        return "lacks"
    # AMBIGUOUS: a sensor whose instance is pending. Here it is known not to be running.
    return "yes" if state == "running" else "no"


def in_zone(world: World, view: World, settings: Settings, source: Source, face: Row) -> str:
    """5.3: by IDs where the sensor was read through a role, else by names."""
    key = "AvailabilityZone" if view is world else "AvailabilityZoneId"
    place = source.instance["Placement"] if source.instance else source.row
    here, there = place.get(key), face.get(key)
    if not (here and there):
        return "unseen"  # an old boto3 drops IDs
    if here == there:
        return "yes"
    return "no" if settings.local_zone_only else "elsewhere"


def groups_admit(view: World, source: Source, face: Row) -> str:
    """5.4: the union of the groups on the sensor's interface."""
    group_ids = [group["GroupId"] for group in face.get("Groups", [])]
    if not group_ids:
        return "yes"
    if lacks := view.lacks("groups"):
        return lacks
    rows = [find(view.groups, "GroupId", group_id) for group_id in group_ids]
    source_groups = [group["GroupId"] for group in source.row.get("Groups", [])]
    within_vpc, unreadable = source.row["VpcId"] == face["VpcId"], False
    # A reference to a group of another VPC that shows no status of a peering only ranks.
    for unstated, finding in ((within_vpc, "yes"), (True, "behind")):
        how = source.row["PrivateIpAddress"], source_groups, view.prefix_lists, unstated
        for row in filter(None, rows):
            try:
                if any(rule_admits(rule, *how) for rule in row["IpPermissions"]):
                    return finding
            except ValueError:
                unreadable = True
    if unreadable:
        return "lacks"
    if None in rows:
        return "unseen"
    rules = [rule for row in filter(None, rows) for rule in row["IpPermissions"]]
    lists = [rule.get("PrefixListIds", []) for rule in rules if is_about_vxlan(rule)]
    lacking = [view.lacks(one["PrefixListId"]) for listed in lists for one in listed]
    return next(filter(None, lacking), "no")


def acls_allow(world: World, view: World, source: Source, face: Row) -> str:
    """5.5: inbound at the sensor's subnet; a denial outbound at the source's only ranks."""
    if source.row["SubnetId"] == face["SubnetId"]:
        return "yes"
    if lacks := view.lacks("acls"):
        return lacks
    inbound, outbound = acl_of(view, face["SubnetId"]), acl_of(world, source.row["SubnetId"])
    if inbound is None:
        return "unseen"
    try:
        if not acl_allows(inbound["Entries"], False, source.row["PrivateIpAddress"]):
            return "no"
    except ValueError:
        return "lacks"
    # AMBIGUOUS: the source's own ACL is unseen (a shared subnet). Here no denial is known.
    if outbound and not acl_allows(outbound["Entries"], True, face["PrivateIpAddress"]):
        return "behind"
    return "yes"


def leads(route: Row) -> str:
    """Where one route leads: `yes`, `no`, or `behind` for kinds that AWS does not list."""
    gateway = route.get("GatewayId") or ""
    if route["State"] == "blackhole" or gateway == "local" or gateway.startswith("igw-"):
        return "no"
    astray = ("NatGatewayId", "EgressOnlyInternetGatewayId", "CarrierGatewayId")
    leading = ("VpcPeeringConnectionId", "TransitGatewayId", "NetworkInterfaceId", "InstanceId")
    if any(map(route.get, astray)):
        return "no"
    return "yes" if gateway.startswith("vpce-") or any(map(route.get, leading)) else "behind"


def route_leads(world: World, source: Source, face: Row) -> str:
    """5.5a: whether the route table of the source's subnet leads to a sensor in another VPC."""
    if source.row["VpcId"] == face["VpcId"]:
        return "yes"
    if lacks := world.lacks("route_tables"):
        return "yes" if lacks == "lacks" else lacks  # without the permission the sensor passes
    vpc = [table for table in world.route_tables if table["VpcId"] == source.row["VpcId"]]
    own = [t for t in vpc if find(t["Associations"], "SubnetId", source.row["SubnetId"])]
    used = own or [table for table in vpc if find(table["Associations"], "Main", True)]
    if not used:
        return "yes"  # what is unseen does not reject
    matching, lists = [], []
    for route in used[0]["Routes"]:
        gateway = route.get("GatewayId") or ""
        if route.get("State") == "filtered":
            continue
        if route.get("DestinationPrefixListId"):
            if not gateway.startswith("vpce-") and gateway != "VpcLattice":
                lists.append(leads(route))
            continue
        if within(route.get("DestinationCidrBlock"), face["PrivateIpAddress"]):
            length = int(route["DestinationCidrBlock"].split("/")[1])
            static = route["Origin"] in ("CreateRoute", "CreateRouteTable")
            matching.append(((length, static), leads(route)))
    best = max((key for key, _ in matching), default=None)
    winners = {answer for key, answer in matching if key == best} or {"no"}
    answers = [winners.pop() if len(winners) == 1 else "behind", *lists]
    if "no" in answers:
        return "no" if set(answers) == {"no"} else "behind"
    return "behind" if "behind" in answers else "yes"


# --- A sensor (5.1a, 5.6, 5.7)


@dataclass
class Judged:
    """What is said of a sensor: its rank if it passes, else the stage where it falls.

    `lacks` is the finding of a sensor that nothing rejects and whose answer is missing; `unseen`
    says that what cannot be seen would decide.
    """

    rank: int | None = None
    stage: str | None = None
    lacks: str | None = None
    unseen: bool = False

    def order(self) -> tuple[int, int]:
        """Lowest is the one that stands for a load balancer: passing, best; else the farthest."""
        if self.rank is not None:
            return 0, self.rank
        if self.lacks:
            return 1, int(self.lacks == "lacks")
        return (2, 0) if self.unseen else (3, -STAGES.index(str(self.stage)))


def settle(found: Sequence[tuple[str, str]], settings: Settings) -> Judged:
    """From the findings of all stages, in order, to one judgement: a certain `no` wins."""
    findings = {finding: stage for stage, finding in reversed(found)}  # the first stage of each
    if "no" in findings:
        return Judged(stage=findings["no"])
    if "unseen" in findings and not settings.allow_unverified:
        return Judged(stage="unavailable", unseen=True)
    for lacks in ("lacks for now", "lacks"):
        if lacks in findings:
            return Judged(stage="unavailable", lacks=lacks)
    if "unseen" in findings:
        return Judged(rank=UNVERIFIED)
    return Judged(rank=2 * ("elsewhere" in findings) + ("behind" in findings))


def judge_sensor(
    world: World, settings: Settings, source: Source, target_id: str, exists: bool = False
) -> Judged:
    """Take one configured target through every stage.

    `exists`: there is a session already, and the question is only whether packets arrive (7).
    """
    named = source.tag(settings.targets_tag)
    if named.strip() and target_id not in named.split() and not exists:
        return Judged(stage="tag")
    target = find(world.targets, "TrafficMirrorTargetId", target_id)
    recognised = settings.include_tags or settings.exclude_tags or exists
    if target is None or (behind_load_balancer(target) and not recognised):
        return Judged(stage="unavailable")
    view, faces = owner_of(world, target), faces_of(world, target)
    if isinstance(faces, str):
        return settle([("unavailable", faces)], settings)
    judged = []
    for face in faces:
        if not all(map(face.get, ("SubnetId", "VpcId", "AvailabilityZone"))):
            judged.append(settle([("unavailable", "lacks")], settings))  # the row is unreadable
            continue
        far = settings.local_vpc_only and source.row["VpcId"] != face["VpcId"]
        choosing = [
            ("unavailable", (view is not world and view.lacks("sessions")) or "yes"),
            ("zone", in_zone(world, view, settings, source, face)),
            ("vpc", "no" if far else "yes"),
        ]
        reaching = [
            ("security_group", groups_admit(view, source, face)),
            ("network_acl", acls_allow(world, view, source, face)),
            ("route", route_leads(world, source, face)),
        ]
        host = ("unavailable", host_runs(view, face))
        judged.append(settle([host, *([] if exists else choosing), *reaching], settings))
    return min(judged, key=Judged.order)


# --- What falls out before sensors are judged (4)


def has_tag(instance: Row, wanted: Iterable[str]) -> bool:
    """Whether the instance has one of the tags, each `key` or `key=value`."""
    tags = [(tag["Key"], tag["Value"]) for tag in instance.get("Tags", [])]
    return any(text in (key, f"{key}={value}") for key, value in tags for text in wanted)


def is_sensor(world: World, settings: Settings, source: Source) -> bool:
    """Whether the interface is any target's, or its instance hosts a configured one."""
    of_instance = (source.instance or {}).get("NetworkInterfaces", [])
    ours = configured(world, settings)
    hosted = [t for t in world.targets if t["TrafficMirrorTargetId"] in ours]
    key = "NetworkInterfaceId"
    beside = any(find(of_instance, key, target.get(key)) for target in hosted)
    return beside or bool(find(world.targets, key, source.id))


def set_aside(invocation: Invocation, source: Source) -> ExpectedInterface | None:
    """The outcome of an interface that falls out before sensors are judged, in order."""
    world, settings = invocation.known, invocation.settings
    skipped = expected(source, "skipped")
    if source.instance:
        left_out = settings.include_tags and not has_tag(source.instance, settings.include_tags)
        if left_out or has_tag(source.instance, settings.exclude_tags):
            return replace(skipped, excluded=True)
    of_another_type = source.row.get("InterfaceType", "interface") != "interface"
    if of_another_type or is_sensor(world, settings, source):
        return skipped
    sessions = [row for row in world.sessions if row["NetworkInterfaceId"] == source.id]
    ours = configured(world, settings)
    to_ours = [row for row in sessions if row["TrafficMirrorTargetId"] in ours]
    if to_ours or (sessions and not settings.mirror_alongside):
        return existing(invocation, source, to_ours, sessions)
    if not source.row.get("PrivateIpAddress") or invocation.unsupported(source):
        return skipped
    numbers = [row["SessionNumber"] for row in sessions]
    if len(sessions) >= 3 or settings.session_number in numbers:
        return expected(source, "unmirrored")
    return None


def existing(
    invocation: Invocation, source: Source, to_ours: list[Row], sessions: list[Row]
) -> ExpectedInterface:
    """The outcome of an interface that has a session: in sweeps it is looked where it leads."""
    world = invocation.known
    pairs = [(row["TrafficMirrorTargetId"], row["TrafficMirrorSessionId"]) for row in sessions]
    found = expected(source, "exists", sessions=pairs)
    if not invocation.sweep:
        return found
    if not to_ours:
        shown = [find(world.targets, "TrafficMirrorTargetId", target_id) for target_id, _ in pairs]
        return found if any(shown) else replace(found, outcome="blocked", sensors=None)
    reachable = Settings(allow_unverified=True)  # what cannot be seen blocks nothing
    judged = {
        target_id: judge_sensor(world, reachable, source, target_id, exists=True)
        for target_id in [row["TrafficMirrorTargetId"] for row in to_ours]
    }
    blocked = [key for key, one in judged.items() if one.rank is None and not one.lacks]
    if blocked:
        pairs = [pair for pair in pairs if pair[0] in blocked]
        verdicts = None
        if len(blocked) == 1:
            count = invocation.count(blocked[0])
            verdicts = [ExpectedSensor(blocked[0], "rejected", judged[blocked[0]].stage, count)]
        return replace(found, outcome="blocked", sessions=pairs, sensors=verdicts)
    if any(one.lacks for one in judged.values()):
        return replace(found, outcome="failed", sensors=None)
    return found


def expected(source: Source, outcome: str, **more: Any) -> ExpectedInterface:
    instance_id = source.instance["InstanceId"] if source.instance else None
    return ExpectedInterface(instance_id, source.id, outcome, **more)


# --- Choosing, in rounds (5, 5.6, 5.8)


@dataclass
class Waiting:
    """An interface that needs a session, what was judged for it and what is expected so far."""

    source: Source
    known: World
    judged: dict[str, Judged]
    expected: ExpectedInterface
    tries: int = 0


@dataclass
class Invocation:
    """What one invocation knows, has chosen, and has learnt from what AWS refused.

    `known` is `world`, or what a warm environment remembers of the sensors, with this
    invocation's sessions. `creates` is used up: what is left was not to be sent.
    """

    world: World
    settings: Settings
    creates: Creates
    known: World
    sweep: bool = False
    not_supported: set[str] = field(default_factory=set)  # interfaces, for an hour
    chosen: Counter[str] = field(default_factory=Counter)  # new sessions, by target
    refused_targets: set[str] = field(default_factory=set)
    refused_types: set[str] = field(default_factory=set)
    refused_filters: set[str] = field(default_factory=set)
    everything_refused: bool = False

    def unsupported(self, source: Source) -> bool:
        """Whether AWS has refused this interface before, or its type in this invocation."""
        of_type = source.instance and source.instance.get("InstanceType") in self.refused_types
        return source.id in self.not_supported or bool(of_type)

    def filter_of(self, source: Source) -> str:
        """The filter for its session: its tag's, where that is not blank."""
        return source.tag(self.settings.filter_tag).strip() or self.settings.filter_id

    def count(self, target_id: str) -> int:
        """All sessions that this account or the owner sees, each once, and those chosen."""
        target = find(self.known.targets, "TrafficMirrorTargetId", target_id)
        views = [self.known, owner_of(self.known, target)] if target else [self.known]
        ids = {
            row["TrafficMirrorSessionId"]
            for view in views
            for row in view.sessions
            if row["TrafficMirrorTargetId"] == target_id
        }
        return len(ids) + self.chosen[target_id]

    def judge(self, source: Source, known: World) -> dict[str, Judged]:
        """What is said of each configured target by what is known of it."""
        names = configured(known, self.settings)
        return {one: judge_sensor(known, self.settings, source, one) for one in names}

    def choose(self, item: Waiting) -> None:
        """Choose the best sensor that is left, or say why none is."""
        source = item.source
        if self.unsupported(source):
            item.expected = expected(source, "skipped")
            return
        if self.everything_refused or self.filter_of(source) in self.refused_filters:
            item.expected = expected(source, "unmirrored", sensors=None)
            return
        left = {key: one for key, one in item.judged.items() if key not in self.refused_targets}
        # A throttled call settles nothing for the worse: other zones and unverified sensors wait.
        waits = any(one.lacks == "lacks for now" for one in left.values())
        passing = {key: one.rank for key, one in left.items() if one.rank is not None}
        allowed = [key for key, rank in passing.items() if rank < 2 or not waits]
        draws = {key: hashlib.sha256(f"{source.id}{key}".encode()).hexdigest() for key in allowed}
        order = sorted(allowed, key=lambda key: (passing[key], self.count(key), draws[key]))
        selected = order[0] if order else None
        if not selected and item.known is not self.world:
            # What is remembered leaves no sensor: it is read anew, for this interface.
            item.known, item.judged = self.world, self.judge(source, self.world)
            self.choose(item)
            return
        lacking = any(one.lacks for one in left.values())
        outcome = "failed" if lacking else "unmirrored"
        if selected:
            outcome = "planned" if self.settings.dry_run else "created"
        verdicts = []
        for key, one in item.judged.items():
            # A refusal at `create` is the last stage: an earlier one that rejects comes first.
            stage = one.stage
            if key in self.refused_targets and (one.rank is not None or one.lacks):
                stage = "create"
            verdict = "rejected" if stage else "selected" if key == selected else "eligible"
            behind = None if one.rank == UNVERIFIED else one.rank in (1, 3)
            verdicts.append(ExpectedSensor(key, verdict, stage, self.count(key), behind))
        item.expected = expected(source, outcome, target_id=selected, sensors=verdicts)

    def mirror(self, waiting: list[Waiting]) -> None:
        """Round after round: choose for all, each choice counting at once, then create for all."""
        while waiting:
            sent = []
            for item in waiting:
                self.choose(item)
                if item.expected.target_id:
                    self.chosen[item.expected.target_id] += 1
                    sent.append(item)
            waiting = [] if self.settings.dry_run else self.send(sent)

    def send(self, items: list[Waiting]) -> list[Waiting]:
        """What AWS answered to the creates; the interfaces that wait for the next round."""
        answers = []
        for item in items:
            key = (item.source.id, str(item.expected.target_id), self.filter_of(item.source))
            codes = self.creates.get(key)
            answers.append((item, key, codes.pop(0) if codes else "not sent"))
        for item, key, code in answers:
            self.learn(item.source, key, code or "")
        left = []
        for item, (_, target_id, filter_id), code in answers:
            if code is None:
                continue
            again = target_id in self.refused_targets or filter_id in self.refused_filters
            again |= self.everything_refused or self.unsupported(item.source)
            if code == "not sent" and not again:
                continue  # it had to be sent: the outcome stays `created`, which a test then misses
            self.chosen[target_id] -= 1
            item.tries += code == "InvalidNetworkInterfaceID.NotFound"
            if code == "InterfaceInUseByTrafficMirrorTarget":
                item.expected = expected(item.source, "skipped")
            elif item.tries == 3:
                item.expected = expected(item.source, "failed", sensors=None)
            elif again or code == "InvalidNetworkInterfaceID.NotFound":
                left.append(item)
            else:  # final
                item.expected = expected(item.source, "unmirrored", sensors=None)
        return left

    def learn(self, source: Source, key: tuple[str, str, str], code: str) -> None:
        """Whom a refusal concerns besides: the target, the type, the filter, or everybody."""
        _, target_id, filter_id = key
        full = "TrafficMirror(Sources|Sessions)PerTargetLimitExceeded"
        if re.match(f"{full}$|InvalidTrafficMirrorTarget", code):
            self.refused_targets.add(target_id)
        if code.startswith("InvalidTrafficMirrorFilter"):
            self.refused_filters.add(filter_id)
        if code in ("TrafficMirrorSessionLimitExceeded", "TagPolicyViolation"):
            self.everything_refused = True
        if code == "NetworkInterfaceNotSupported":
            self.not_supported.add(source.id)
            place = source.row.get("Attachment") or {}
            first = place.get("DeviceIndex") == 0 and not place.get("NetworkCardIndex")
            managed = (source.instance or {}).get("Operator", {}).get("Managed")
            if source.instance and first and not managed:
                self.refused_types.add(source.instance.get("InstanceType", ""))


# --- The whole invocation


def databases(world: World) -> list[Source]:
    """The interfaces that RDS and ElastiCache made; those on an instance are left to it."""
    return [
        Source(row)
        for row in world.interfaces
        if row.get("RequesterId") in ("amazon-rds", "amazon-elasticache")
        and not (row.get("Attachment") or {}).get("InstanceId")
    ]


def expect(
    world: World,
    settings: Settings,
    instance_ids: Iterable[str] | None,
    creates: Creates,
    remembered: World | None,
    not_supported: Collection[str],
    order: Sequence[str],
) -> list[ExpectedInterface]:
    """What the function should say of each interface.

    `instance_ids` are the event's, in order; None for a sweep, which chooses the `order` in which
    it works on interfaces. What is left of `creates` was not to be sent. `remembered` is what a
    warm environment knows of sensors and routes; `not_supported` are the interfaces that AWS
    refused in the last hour.
    """
    known = replace(remembered, sessions=world.sessions) if remembered else world
    sweep = instance_ids is None
    invocation = Invocation(world, settings, creates, known, sweep, set(not_supported))
    if instance_ids is None:
        rows = [row for group in world.reservations for row in group["Instances"]]
        instance_ids = [row["InstanceId"] for row in rows if row["State"]["Name"] == "running"]
    results: list[ExpectedInterface | Waiting] = []
    pages: list[list[Source]] = [[]]
    for instance_id in instance_ids:
        instance = world.instance(instance_id)
        interfaces = (instance or {}).get("NetworkInterfaces", [])
        alive = instance and instance["State"]["Name"] in ("running", "pending")
        if not (alive and interfaces):
            results.append(ExpectedInterface(instance_id, None, "skipped"))
        elif instance:
            ordered = sorted(interfaces, key=lambda row: row["Attachment"]["DeviceIndex"])
            pages[0] += [Source(row, instance) for row in ordered]
    if sweep and settings.mirror_databases:
        pages.append(databases(world))
    for page in pages:
        if order:
            page.sort(key=lambda source: order.index(source.id) if source.id in order else -1)
        waiting = []
        for source in page:
            aside = set_aside(invocation, source)
            if not aside:
                judged = invocation.judge(source, known)
                waiting.append(Waiting(source, known, judged, expected(source, "waits")))
            results.append(aside or waiting[-1])
        assert len(waiting) <= 100, "more than a round"
        invocation.mirror(waiting)
    return [item.expected if isinstance(item, Waiting) else item for item in results]


def sweep_metrics(
    world: World, settings: Settings, results: Iterable[ExpectedInterface]
) -> dict[str, float]:
    """Section 9: what a sweep that read everything says of it; `Sessions` by target ID."""
    ours = configured(world, settings)
    meant = [item for item in results if item.outcome != "skipped"]
    pairs = [(row["NetworkInterfaceId"], row["TrafficMirrorTargetId"]) for row in world.sessions]
    pairs += [(i.interface_id, str(i.target_id)) for i in meant if i.outcome == "created"]
    sessions = Counter(target_id for _, target_id in pairs)
    mirrored = {interface_id for interface_id, _ in pairs}
    to_ours = {interface_id for interface_id, target_id in pairs if target_id in ours}
    covered = sum(i.interface_id in to_ours and i.outcome != "blocked" for i in meant)
    elsewhere = sum(i.interface_id in mirrored - to_ours for i in meant)
    found: dict[str, float] = {
        target["TrafficMirrorTargetId"]: sessions[target["TrafficMirrorTargetId"]]
        for target in world.targets
        if target["TrafficMirrorTargetId"] in ours and target["OwnerId"] == world.account
    }
    found |= {"Sweeps": 1, "Elsewhere": elsewhere, "Excluded": sum(i.excluded for i in results)}
    if meant:
        found["Coverage"] = 100 * covered / len(meant)
    return found
