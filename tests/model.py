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
    """What AWS answers, every page, each resource as boto3 returns it."""

    reservations: list[Answer] = field(default_factory=list)
    interfaces: list[Answer] = field(default_factory=list)
    targets: list[Answer] = field(default_factory=list)
    sessions: list[Answer] = field(default_factory=list)
    groups: list[Answer] = field(default_factory=list)
    acls: list[Answer] = field(default_factory=list)
    # The entries of each managed prefix list; one that cannot be read is absent.
    prefix_lists: dict[str, list[Answer]] = field(default_factory=dict)


@dataclass
class ExpectedSensor:
    """The verdict on one configured target; `sessions` is its count before the choice.

    `or_stages` are other stages that a rejection may name, where the order is not promised.
    """

    target_id: str
    verdict: str
    stage: str | None
    sessions: int
    or_stages: tuple[str, ...] = ()


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


def group_rules_admit(
    rules: Iterable[Answer],
    source_address: str,
    source_group_ids: Collection[str],
    prefix_lists: Mapping[str, Sequence[Answer]],
) -> bool:
    """Whether one of the inbound rules (`IpPermissions`) admits udp/4789 from the source.

    `prefix_lists` maps the ID of each managed prefix list that can be read to its entries.
    """
    for rule in rules:
        protocol = rule["IpProtocol"]
        if protocol not in ("-1", "udp", "17"):
            continue
        if protocol != "-1":
            first, last = rule.get("FromPort"), rule.get("ToPort")
            # AMBIGUOUS: a rule with one end only; here it has no range, so all ports.
            if first is not None and last is not None and not first <= VXLAN <= last:
                continue
        for block in rule.get("IpRanges", []):
            if within(block.get("CidrIp"), source_address):
                return True
        for pair in rule.get("UserIdGroupPairs", []):
            counts = pair.get("PeeringStatus") in (None, "", "active")
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
            first, last = ports.get("From"), ports.get("To")
            if first is not None and last is not None and not first <= VXLAN <= last:
                continue
        if not within(entry.get("CidrBlock"), address):
            continue
        return bool(entry["RuleAction"] == "allow")
    return False


# --------------------------------------------------------------------------------------
# Looking things up in what AWS answered
# --------------------------------------------------------------------------------------


def find_instance(world: World, instance_id: str) -> tuple[Answer, str] | None:
    """The instance and the account it belongs to."""
    for reservation in world.reservations:
        for instance in reservation["Instances"]:
            if instance["InstanceId"] == instance_id:
                return instance, reservation["OwnerId"]
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


def behind_load_balancer(target: Answer) -> bool:
    """Whether the target is a Network Load Balancer or a Gateway Load Balancer endpoint."""
    return not target.get("NetworkInterfaceId")


def interfaces_of(world: World, target: Answer) -> list[Answer]:
    """The interfaces of a target that can be seen."""
    if target.get("NetworkInterfaceId"):
        found = find(world.interfaces, "NetworkInterfaceId", target["NetworkInterfaceId"])
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

STAGES = ("vpc", "security_group", "network_acl")


def admitted_by_groups(world: World, source: Answer, sensor: Answer) -> bool | None:
    """Whether the sensor's groups admit the packet; None if one that is unseen decides."""
    group_ids = [group["GroupId"] for group in sensor.get("Groups", [])]
    if not group_ids:
        return True
    unseen = False
    source_groups = [group["GroupId"] for group in source.get("Groups", [])]
    for group_id in group_ids:
        group = find(world.groups, "GroupId", group_id)
        if group is None:
            unseen = True
        elif group_rules_admit(
            group.get("IpPermissions", []),
            source["PrivateIpAddress"],
            source_groups,
            world.prefix_lists,
        ):
            return True
    return None if unseen else False


def allowed_inbound(world: World, source: Answer, sensor: Answer) -> bool | None:
    """Whether the ACL of the sensor's subnet lets the packet in; None if it is unseen."""
    if source["SubnetId"] == sensor["SubnetId"]:
        return True
    acl = acl_of(world, sensor["SubnetId"])
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


def judge_sensor_interface(world: World, settings: Answer, source: Answer, sensor: Answer) -> str:
    """The stage that rejects one interface of a sensor, or `passes`, or `unverified`."""
    if settings["local_vpc_only"] and sensor["VpcId"] != source["VpcId"]:
        return "vpc"
    admitted = admitted_by_groups(world, source, sensor)
    allowed = allowed_inbound(world, source, sensor)
    if admitted is False:
        return "security_group"
    # AMBIGUOUS: groups unseen, ACL seen and denying. "Unavailable where what is unseen would
    # decide": here the group would not decide, the ACL does. The other reading stops at
    # the stage of the groups and says `unavailable`; it differs in the verdict, and with
    # ALLOW_UNVERIFIED it would use a sensor whose ACL is known to deny.
    if allowed is False:
        return "network_acl"
    if admitted is None or allowed is None:
        return "unverified"
    return "passes"


# --------------------------------------------------------------------------------------
# One sensor
# --------------------------------------------------------------------------------------


@dataclass
class Judged:
    """What the filters say of one sensor, before anything is created.

    `fate` is `dead`, `passes`, `unverified` or the stage that rejects it; `in_zone` is None
    where the zone is unknown; `denied` is about the outbound ACL.
    """

    target_id: str
    fate: str
    in_zone: bool | None = None
    denied: bool = False


def judge_sensor(
    world: World, settings: Answer, account: str, zone: str, source: Answer, target_id: str
) -> Judged:
    """Take one configured target through every stage, as if its zone were no obstacle."""
    target = find(world.targets, "TrafficMirrorTargetId", target_id)
    if target is None:
        return Judged(target_id, "dead")
    tagged = settings["include_tags"] or settings["exclude_tags"]
    if behind_load_balancer(target) and not tagged:
        # AMBIGUOUS: a load balancer in another zone, no tags set: `unavailable` (here, as
        # 5.2 comes before 5.3) or `zone` ("a zone that is known comes first").
        return Judged(target_id, "dead")
    interfaces = interfaces_of(world, target)
    if not interfaces:
        # AMBIGUOUS: how to tell a deleted interface from one of another account. Here by
        # the owner of the target against the owner of the instance (reservation).
        # AMBIGUOUS: LOCAL_VPC_ONLY with a sensor whose VPC is unknown. Here unverified, so
        # ALLOW_UNVERIFIED uses it; the other reading rejects what may be elsewhere.
        foreign = target.get("OwnerId", account) != account
        return Judged(target_id, "unverified" if foreign else "dead")
    if not behind_load_balancer(target):
        instance_id = (interfaces[0].get("Attachment") or {}).get("InstanceId")
        found = find_instance(world, instance_id) if instance_id else None
        # AMBIGUOUS: a sensor whose instance is pending. Here it is known not to be running;
        # the other reading takes "that counts as running" to hold for sensors, too.
        if found and found[0]["State"]["Name"] != "running":
            return Judged(target_id, "dead")

    here = [item for item in interfaces if item["AvailabilityZone"] == zone]
    # AMBIGUOUS: a load balancer with interfaces in the zone (all rejected) and in others.
    # Here it is a sensor of the zone and judged by the interfaces there, so it is not one of
    # "the others" that LOCAL_ZONE_ONLY false lets be tried; the other reading tries its
    # interfaces in other zones then.
    considered = here or interfaces
    fates = {}
    for item in considered:
        fates[item["NetworkInterfaceId"]] = judge_sensor_interface(world, settings, source, item)
    if "passes" in fates.values():
        fate = "passes"
    elif "unverified" in fates.values():
        fate = "unverified"
    else:
        # AMBIGUOUS: several interfaces rejected at different stages; here the latest stage
        # that one of them reached, as the sensor passes a stage with any of them.
        fate = max(fates.values(), key=STAGES.index)
    # AMBIGUOUS: several interfaces, the outbound ACL denies some; here one that passes
    # everything else and is not denied is enough.
    denials = [
        denied_outbound(world, source, item)
        for item in considered
        if fates[item["NetworkInterfaceId"]] == fate
    ]
    return Judged(target_id, fate, bool(here), all(denials))


def rank(world_sessions: list[Answer], source: Answer, judged: Judged) -> tuple[bool, int, str]:
    """Lowest is best: outbound ACL, sessions, SHA-256 of interface and target."""
    text = source["NetworkInterfaceId"] + judged.target_id
    return (
        judged.denied,
        count_sessions(world_sessions, judged.target_id),
        hashlib.sha256(text.encode("utf-8")).hexdigest(),
    )


def count_sessions(sessions: list[Answer], target_id: str) -> int:
    """How many sessions go to the target."""
    return sum(1 for session in sessions if session["TrafficMirrorTargetId"] == target_id)


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


def hosts_sensor(world: World, settings: Answer, instance: Answer) -> bool:
    """Whether a configured target sits on the instance."""
    for target_id in settings["targets"]:
        target = find(world.targets, "TrafficMirrorTargetId", target_id)
        if target is None:
            continue
        for interface in instance["NetworkInterfaces"]:
            if interface["NetworkInterfaceId"] == target.get("NetworkInterfaceId"):
                return True
    return False


def set_aside(
    world: World, settings: Answer, instance: Answer, source: Answer, sessions: list[Answer]
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
    if hosts_sensor(world, settings, instance):
        return skipped
    # AMBIGUOUS: an interface with several sessions; any of them may be named.
    existing = [
        (session["TrafficMirrorTargetId"], session["TrafficMirrorSessionId"])
        for session in sessions
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
class Invocation:
    """What one invocation has done so far."""

    sessions: list[Answer]
    limits: Limits
    dry_run: bool
    refused: set[str] = field(default_factory=set)
    unsupported: set[str] = field(default_factory=set)
    full: bool = False

    def create(self, instance: Answer, source: Answer, target_id: str) -> str:
        """Create a session, or say what AWS objects to; a dry run never asks."""
        if not self.dry_run:
            if instance["InstanceType"] in self.limits.unsupported_types:
                self.unsupported.add(instance["InstanceType"])
                return "unsupported"
            if self.limits.sources.get(target_id, 1) <= 0:
                self.refused.add(target_id)
                return "target full"
            if self.limits.sessions is not None and self.limits.sessions <= 0:
                self.full = True
                return "account full"
            if target_id in self.limits.sources:
                self.limits.sources[target_id] -= 1
            if self.limits.sessions is not None:
                self.limits.sessions -= 1
        self.sessions.append(
            {
                "TrafficMirrorSessionId": f"created-{len(self.sessions)}",
                "TrafficMirrorTargetId": target_id,
                "NetworkInterfaceId": source["NetworkInterfaceId"],
            }
        )
        return "created"


def choose(
    world: World,
    settings: Answer,
    account: str,
    instance: Answer,
    source: Answer,
    invocation: Invocation,
) -> ExpectedInterface:
    """Take every configured sensor through the stages and create a session to the best."""
    instance_id, interface_id = instance["InstanceId"], source["NetworkInterfaceId"]
    # AMBIGUOUS: a further interface of an unsupported instance type that no sensor can take;
    # here "not tried again" comes first: `skipped`. The other reading says `unmirrored`.
    if instance["InstanceType"] in invocation.unsupported:
        return ExpectedInterface(instance_id, interface_id, "skipped")

    zone = instance["Placement"]["AvailabilityZone"]
    sensors = [
        judge_sensor(world, settings, account, zone, source, target_id)
        for target_id in dict.fromkeys(settings["targets"])
    ]
    counts = {
        sensor.target_id: count_sessions(invocation.sessions, sensor.target_id)
        for sensor in sensors
    }

    # Each round is tried only when nothing is left of the ones before.
    # AMBIGUOUS: unverified sensors of another zone, LOCAL_ZONE_ONLY false. Here "compete
    # by 5.6, zone ignored where unknown" means that the zone counts where it is known: first
    # the zone's and those of unknown zone, then the others. The other reading lets all
    # unverified ones compete at once.
    rounds: list[list[Judged]] = [
        [item for item in sensors if item.fate == "passes" and item.in_zone],
        [],
        [],
        [],
    ]
    others_allowed = not settings["local_zone_only"]
    if others_allowed:
        rounds[1] = [item for item in sensors if item.fate == "passes" and not item.in_zone]
    if settings["allow_unverified"]:
        rounds[2] = [
            item for item in sensors if item.fate == "unverified" and item.in_zone is not False
        ]
        if others_allowed:
            rounds[3] = [
                item for item in sensors if item.fate == "unverified" and item.in_zone is False
            ]

    selected: str | None = None
    final: str | None = None
    reached = -1
    for candidates in rounds:
        reached += 1
        for item in sorted(candidates, key=lambda item: rank(invocation.sessions, source, item)):
            if item.target_id in invocation.refused:
                continue
            if invocation.full:
                # AMBIGUOUS: the verdict on the sensor that would be next once the account is
                # full; none is expected here.
                return ExpectedInterface(instance_id, interface_id, "unmirrored", sensors=None)
            answer = invocation.create(instance, source, item.target_id)
            if answer == "unsupported":
                return ExpectedInterface(instance_id, interface_id, "skipped")
            if answer == "created":
                selected = item.target_id
            if answer == "account full":
                final = item.target_id
            if answer != "target full":
                break
        if selected or final:
            break

    verdicts = []
    for item in sensors:
        verdict, stage = verdict_of(item, settings, selected, reached, invocation.refused)
        if item.target_id == final:
            verdict, stage = "rejected", "create"
        verdicts.append(
            ExpectedSensor(
                item.target_id,
                verdict,
                stage,
                counts[item.target_id],
                other_stages(item, settings, reached, invocation.refused),
            )
        )
    outcome = "unmirrored"
    if selected:
        outcome = "planned" if invocation.dry_run else "created"
    return ExpectedInterface(instance_id, interface_id, outcome, selected, verdicts)


def verdict_of(
    item: Judged, settings: Answer, selected: str | None, reached: int, refused: set[str]
) -> tuple[str, str | None]:
    """Verdict and stage of one sensor, once it is known which round brought the choice."""
    if item.target_id == selected:
        return "selected", None
    if item.fate == "dead":
        return "rejected", "unavailable"
    if item.in_zone is False:
        # Sensors of other zones fall at `zone` unless they were tried.
        if settings["local_zone_only"] or reached < 1:
            return "rejected", "zone"
        if item.fate == "unverified" and settings["allow_unverified"] and reached == 2:
            return "rejected", "zone"
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
) -> list[ExpectedInterface]:
    """What the function should do with these instances, interface by interface.

    Args:
        world: What AWS answers before the invocation.
        settings: `targets`, `local_zone_only`, `local_vpc_only`, `include_tags`,
            `exclude_tags`, `allow_unverified`.
        instance_ids: The instances of the event, in order.
        limits: What AWS refuses to create.
        dry_run: Whether nothing is created; limits then stay unknown.
    """
    invocation = Invocation(list(world.sessions), copy.deepcopy(limits or Limits()), dry_run)
    results = []
    for instance_id in instance_ids:
        found = find_instance(world, instance_id)
        if found is None or found[0]["State"]["Name"] not in ("running", "pending"):
            results.append(ExpectedInterface(instance_id, None, "skipped"))
            continue
        instance, account = found
        for source in sorted(
            instance["NetworkInterfaces"], key=lambda item: item["Attachment"]["DeviceIndex"]
        ):
            aside = set_aside(world, settings, instance, source, invocation.sessions)
            if aside:
                results.append(aside)
            else:
                results.append(choose(world, settings, account, instance, source, invocation))
    return results


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
