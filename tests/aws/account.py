"""A simulated AWS account, in memory, that also refuses what AWS refuses.

moto keeps the resources (VPCs, subnets, interfaces, instances, groups, ACLs, prefix lists, targets)
and answers most operations. What the traffic mirroring function depends on is answered here
instead, as the EC2 API reference and the Traffic Mirroring guide describe it: filters, pages and
unknown IDs of the Describe* operations, and the checks, quotas and idempotency of
CreateTrafficMirrorSession. On top come a log of every HTTP attempt, faults, denials and latency.

Nothing here needs pytest. Typical use:

    with SimulatedAccount() as account:
        target = account.sensor(zone="a", sessions=3)
        instance = account.instance(zone="a")
        client = account.client()                  # or any boto3 client made meanwhile
        client.create_traffic_mirror_session(...)
        assert account.sessions(target_id=target)
        assert account.count("CreateTrafficMirrorSession") == 1

Where AWS documents no behaviour, the choice made is marked 'not documented'.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import random
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, final
from unittest.mock import patch

from botocore.config import Config
from moto import mock_aws
from moto.ec2.models import ec2_backends
from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
from moto.ec2.models.security_groups import SecurityGroupRule

from aws.describe import KINDS, Describe, nics_of
from aws.sessions import Sessions, SessionStore
from aws.transport import (
    ACCOUNT_ID,
    CREATE_SESSION,
    CREDENTIALS,
    OTHER_ACCOUNT_ID,
    REGION,
    Call,
    Caller,
    Fault,
    Refusal,
    Requests,
    Simulation,
    access_denied,
    looking_client,
    new_id,
    old_botocore,
    shared_session,
)
from aws.words import RouteTable, acl_entry, route, rule

_STATE_CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}


# ---------------------------------------------------------------------------------------------
# The account.


@final
class SimulatedAccount(Requests, Describe, Sessions):
    """One AWS account in one Region, from `with` to the end of the block; `other` makes more.

    `ec2` is a boto3 client for building and looking: its calls are not recorded, not faulted, not
    delayed, and see what is hidden or late. Every other client is the function's: its HTTP
    attempts are logged in `calls` and meet the misbehaviour asked for. A server of moto in the
    same process answers likewise (timeouts become status 503 there).

    What clients do with an account's credentials, AssumeRole included, meets the faults, denials,
    latency and gates of that account. `calls`, `count` and `round_trips` are about all accounts.

    Settable at any time:
    - `quota`: sources per target (`default_quota` for targets not named; none for load balancers)
    - `account_quota`: sessions per account
    - `unsupported_types`: instance types that AWS does not mirror
    - `tag_policy`: values that the organization's tag policy allows, by tag key
    - `session_lag`: how many DescribeTrafficMirrorSessions calls that would show a new session
      do not show it yet
    - `unknown_instances`: how many DescribeInstances calls that would show the instance do not
      know it yet
    - `roles`: who may assume each, by its ARN (see `role`); `role_arn`: the function's own
    - `clock`: by which credentials expire
    - `latency`: seconds that each recorded attempt takes; attempts in several threads overlap
      (None, as in other accounts: the first account's)
    - `gates`: called with (operation, parameters) before each recorded attempt, outside any lock;
      may raise `Refusal` or an exception of botocore
    """

    _active: SimulatedAccount | None = None

    def __init__(
        self,
        region: str = REGION,
        *,
        account_id: str = ACCOUNT_ID,
        zones: Mapping[str, str] | None = None,
        _simulation: Simulation | None = None,
    ) -> None:
        first = _simulation is None
        self._simulation = _simulation or Simulation(region)
        self.region = region
        self.account_id = account_id
        self.role_arn = f"arn:aws:iam::{account_id}:role/traffic-mirror"
        self.roles: dict[str, list[str]] = {}
        self._access_key = CREDENTIALS["aws_access_key_id"] if first else f"AKIASIM0{account_id}"
        self._zones = self._map_zones(zones or {})
        self.quota: dict[str, int] = {}
        self.default_quota = 10
        self.account_quota = 10_000
        self.unsupported_types: set[str] = set()
        self.tag_policy: dict[str, set[str]] = {}
        self.session_lag = 0
        self.unknown_instances: dict[str, int] = {}
        self.latency: float | None = 0.0 if first else None
        self.gates: list[Callable[[str, dict[str, Any]], None]] = []
        self.calls: list[Call] = self._simulation.calls
        self._lock = self._simulation.lock
        self._log_lock = self._simulation.log_lock
        self._faults: list[Fault] = []
        self._denied: dict[str, str | None] = {}
        self._hidden: set[str] = set()
        self._managed: dict[str, str] = {}  # with the service's principal
        self._shares: dict[str, dict[str, bool]] = {}  # by target and account: with interface?
        self._tables: list[RouteTable] = []
        self._idempotency: dict[str, tuple[str, dict[str, Any]]] = {}
        self._pages: dict[str, tuple[str, list[str], int]] = {}
        self._networks: dict[str, list[ipaddress.IPv4Network]] = {}
        self._zone_subnets: dict[tuple[str, str], list[str]] = {}
        self._sensor_groups: dict[str, str] = {}
        self._default_vpc: str | None = None
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        self._store: SessionStore = (
            SessionStore() if first else self._simulation.first._store  # one for all
        )
        self._simulation.accounts[account_id] = self
        self._simulation.callers[self._access_key] = lambda: self.own_caller

    # --- start and end

    def __enter__(self) -> SimulatedAccount:
        if SimulatedAccount._active is not None:
            raise RuntimeError("Only one simulated account at a time.")
        with ExitStack() as stack:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("MOTO_")}
            for name in list(environment):
                if name.startswith("AWS_ENDPOINT_URL") or name == "AWS_PROFILE":
                    del environment[name]
            environment.update(
                AWS_ACCESS_KEY_ID=CREDENTIALS["aws_access_key_id"],
                AWS_SECRET_ACCESS_KEY=CREDENTIALS["aws_secret_access_key"],
                AWS_SESSION_TOKEN=CREDENTIALS["aws_session_token"],
                AWS_DEFAULT_REGION=self.region,
                AWS_REGION=self.region,
                AWS_CONFIG_FILE=os.devnull,
                AWS_SHARED_CREDENTIALS_FILE=os.devnull,
                AWS_EC2_METADATA_DISABLED="true",
                MOTO_EC2_LOAD_DEFAULT_AMIS="false",  # none is needed, and loading them is slow
            )
            stack.enter_context(patch.dict(os.environ, environment, clear=True))
            stack.enter_context(mock_aws())
            stack.enter_context(
                patch.dict(
                    "moto.ec2.utils.EC2_RESOURCE_TO_PREFIX",
                    {"traffic-mirror-filter": "tmf", "traffic-mirror-target": "tmt"},
                )
            )
            self._simulation.patch(stack)
            self._open()
            self._stack = stack.pop_all()
        SimulatedAccount._active = self
        return self

    def __exit__(self, *error: object) -> None:
        # The function waits for no role that it does not need; the next account must not see it.
        for thread in threading.enumerate():
            if thread.name.startswith("ThreadPoolExecutor"):
                thread.join(10)
        SimulatedAccount._active = None
        self._stack.close()

    def _answers(self, action: str) -> Callable[[dict[str, Any], bool], Any] | None:
        """What answers to this operation of EC2; None: moto."""
        if action in KINDS:
            return partial(self._describe, action)
        return {
            CREATE_SESSION: self._create_traffic_mirror_session,
            "GetManagedPrefixListEntries": self._get_managed_prefix_list_entries,
        }.get(action)

    def _open(self) -> None:
        self.ec2 = looking_client(self.region, self._access_key)
        self._backend: Any = ec2_backends[self.account_id][self.region]
        self.filter_id = self.filter()

    def other(
        self, account_id: str = OTHER_ACCOUNT_ID, *, zones: Mapping[str, str] | None = None
    ) -> SimulatedAccount:
        """One more account in the same Region, with the same builders, until this one ends.

        Neither sees anything of the other but targets that are shared (`share`). A client for it
        takes the credentials of one of its roles (`role`), or `other.client()`. `zones` maps its
        names of zones to IDs, {'us-east-1a': 'use1-az2', ...}, those left out as they come.
        """
        if account_id in self._simulation.accounts:
            raise ValueError(f"There is an account {account_id} already.")
        made = SimulatedAccount(
            self.region, account_id=account_id, zones=zones, _simulation=self._simulation
        )
        made._open()
        return made

    def client(self, service: str = "ec2", **config: Any) -> Any:
        """A client as the function would have one; `config` goes to botocore's Config.

        Faster than boto3.client(), which reads the service model anew after each start of moto.
        """
        credentials = {**CREDENTIALS, "aws_access_key_id": self._access_key}
        return shared_session().client(
            service, region_name=self.region, config=Config(**config), **credentials
        )

    old_botocore = staticmethod(old_botocore)

    # --- roles and credentials

    @property
    def own_caller(self) -> Caller:
        """The function's own role in this account, as AWS names it to others."""
        return self._caller(self.role_arn, "traffic-mirror")

    def _caller(self, role_arn: str, session_name: str, **more: Any) -> Caller:
        name = role_arn.rpartition("/")[2]
        arn = f"arn:aws:sts::{self.account_id}:assumed-role/{name}/{session_name}"
        return Caller(self, role_arn, arn, **more)

    @property
    def clock(self) -> Callable[[], float]:
        return self._simulation.clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        self._simulation.clock = clock

    def role(self, name: str, trusts: Iterable[str] | None = None, path: str = "/") -> str:
        """The ARN of a role of this account that these may assume: accounts, or ARNs of roles.

        Wildcards stand for what a condition on the caller's ARN would allow; without `trusts` it
        is the first account. What the role may do there `deny` says, for the whole account. To
        take trust back, change `roles`.
        """
        arn = f"arn:aws:iam::{self.account_id}:role{path}{name}"
        self.roles[arn] = [self._simulation.first.account_id] if trusts is None else list(trusts)
        return arn

    def _assume_role(
        self, caller: Caller, parameters: Mapping[str, Any], looking: bool
    ) -> dict[str, Any]:
        """What STS answers to this caller."""
        role_arn, name = parameters.get("RoleArn", ""), parameters.get("RoleSessionName", "")
        if not re.fullmatch(r"[\w+=,.@-]{2,64}", name):
            raise Refusal("ValidationError", f"Value '{name}' at 'roleSessionName' is invalid")
        seconds = int(parameters.get("DurationSeconds", 3600))
        if not 900 <= seconds <= 3600:  # a role that assumes another has an hour at most
            raise Refusal("ValidationError", f"DurationSeconds {seconds} exceeds what is allowed")
        owner = self._simulation.accounts.get((role_arn.split(":") * 5)[4])
        known = {caller.account.account_id, f"arn:aws:iam::{caller.account.account_id}:root"}
        trusts = owner.roles.get(role_arn, ()) if owner else ()
        if not any(one in known or fnmatchcase(caller.role_arn, one) for one in trusts):
            raise access_denied(caller, "sts:AssumeRole", role_arn)
        key, token = f"ASIASIM{uuid.uuid4().int % 10**13:013}", f"simulated-{uuid.uuid4().hex}"
        expires = self.clock() + seconds
        made = owner._caller(role_arn, name, token=token, expires=expires)
        self._simulation.callers[key] = lambda: made
        return {
            "Credentials": {
                "AccessKeyId": key,
                "SecretAccessKey": "simulated",
                "SessionToken": token,
                "Expiration": datetime.fromtimestamp(expires, timezone.utc),
            },
            "AssumedRoleUser": {"AssumedRoleId": f"AROASIMULATED:{name}", "Arn": made.arn},
        }

    # --- builder: networks

    @property
    def default_vpc(self) -> str:
        """The VPC that everything lands in unless told otherwise; made on first use."""
        if self._default_vpc is None:
            self._default_vpc = self.vpc()
        return self._default_vpc

    def vpc(self, cidr: str = "10.0.0.0/16") -> str:
        with self._lock:
            vpc_id = str(self._backend.create_vpc(cidr).id)
            self._networks[vpc_id] = []
            return vpc_id

    def _zone(self, zone: str) -> str:
        """The name of a zone: given as 'a', by its name here, or by its ID."""
        by_id = {zone_id: name for name, zone_id in self._zones.items()}
        if zone in by_id:
            return by_id[zone]
        return zone if zone.startswith(self.region) else f"{self.region}{zone}"

    def _map_zones(self, given: Mapping[str, str]) -> dict[str, str]:
        usual = {str(z.name): str(z.zone_id) for z in RegionsAndZonesBackend.zones[self.region]}
        names = {name if name in usual else f"{self.region}{name}": i for name, i in given.items()}
        left = [zone_id for zone_id in usual.values() if zone_id not in names.values()]
        for name, zone_id in usual.items():
            if name not in names:
                names[name] = left.pop(left.index(zone_id) if zone_id in left else 0)
        if sorted(names.values()) != sorted(usual.values()):
            raise ValueError(f"Each of {sorted(usual.values())} needs one name: {given}")
        return names

    def zone_id(self, zone: str) -> str:
        """The ID of a zone, which is the same in every account."""
        return self._zones[self._zone(zone)]

    def _free_network(self, vpc_id: str, prefix: int) -> ipaddress.IPv4Network:
        whole = ipaddress.IPv4Network(self._backend.vpcs[vpc_id].cidr_block)
        taken = self._networks.setdefault(vpc_id, [])
        for size in range(min(max(prefix, whole.prefixlen + 4), 28), 29):
            blocks = list(whole.subnets(new_prefix=size))
            # Large ones from the far end, so that small ones do not get in their way.
            for network in blocks if size >= 24 else reversed(blocks):
                if not any(network.overlaps(other) for other in taken):
                    return network
        raise RuntimeError(f"{vpc_id} ({whole}) is full; make another VPC.")

    def subnet(
        self,
        zone: str = "a",
        *,
        vpc: str | None = None,
        acl: Iterable[Mapping[str, Any]] | None = None,
        cidr: str | None = None,
        prefix: int = 24,
    ) -> str:
        """A new subnet with a free block (of /`prefix`) of its VPC; `acl` as in `acl()`."""
        with self._lock:
            vpc_id = vpc or self.default_vpc
            network = ipaddress.IPv4Network(cidr) if cidr else self._free_network(vpc_id, prefix)
            made = self._backend.create_subnet(
                vpc_id, str(network), availability_zone=self._zone(zone)
            )
            self._networks.setdefault(vpc_id, []).append(network)
            if acl is not None:
                self.acl(str(made.id), acl)
            return str(made.id)

    def zone_subnet(self, zone: str = "a", vpc: str | None = None) -> str:
        """The large subnet of a zone where instances and sensors without a subnet go."""
        with self._lock:
            return self._zone_subnet_ids(self._zone(zone), vpc or self.default_vpc)[0]

    def _zone_subnet_ids(self, zone: str, vpc_id: str) -> list[str]:
        found = self._zone_subnets.setdefault((vpc_id, zone), [])
        if not found:
            found.append(self.subnet(zone, vpc=vpc_id, prefix=20))
        return found

    def acl(self, subnet: str, entries: Iterable[Mapping[str, Any]]) -> str:
        """A new ACL with these entries, in this order, and the final denials; it takes over."""
        with self._lock:
            vpc_id = self._backend.get_subnet(subnet).vpc_id
            acl_id = str(self._backend.create_network_acl(vpc_id).id)
            final = [acl_entry(32767, "deny", "0.0.0.0/0", "-1", egress=e) for e in (False, True)]
            for entry in [*entries, *final]:
                ports = entry.get("PortRange") or {}
                self._backend.create_network_acl_entry(
                    acl_id,
                    entry["RuleNumber"],
                    entry["Protocol"],
                    entry["RuleAction"],
                    entry["Egress"],
                    entry.get("CidrBlock"),
                    None,
                    None,
                    ports.get("From"),
                    ports.get("To"),
                    entry.get("Ipv6CidrBlock"),
                )
            old = next(
                association.id
                for acl in self._backend.network_acls.values()
                for association in acl._associations.values()
                if association.subnet_id == subnet
            )
            self._backend.replace_network_acl_association(old, acl_id)
            return acl_id

    def group(self, *rules: Mapping[str, Any], vpc: str | None = None) -> str:
        """A security group with these inbound rules (see `rule()`); all outbound is allowed."""
        with self._lock:
            vpc_id = vpc or self.default_vpc
            name = f"group-{next(self._numbers)}"
            made = self._backend.create_security_group(name, name, vpc_id)
            for item in rules:
                self._add_rule(made, item)
            return str(made.id)

    def _add_rule(self, group: Any, item: Mapping[str, Any]) -> None:
        protocol, ports, cidr = item["protocol"], item["ports"], item["cidr"]
        pair: dict[str, str] | None = None
        if item["group"] is not None:
            pair = {"GroupId": item["group"], "UserId": item["owner"] or self.account_id}
            if item["peering"] is not None:
                pair["PeeringStatus"] = item["peering"]
                pair["VpcPeeringConnectionId"] = new_id("pcx")
                pair["VpcId"] = new_id("vpc")
            if item["vpc"] is not None:
                pair["VpcId"] = item["vpc"]
        made = SecurityGroupRule(
            self._backend,
            "-1",
            group.id,
            None,
            None,
            {"CidrIpv6" if ":" in cidr else "CidrIp": cidr} if cidr else None,
            pair,
            {"PrefixListId": item["prefix_list"]} if item["prefix_list"] else None,
            is_egress=False,
        )
        protocol = {"17": "udp", "6": "tcp", "1": "icmp"}.get(protocol, protocol)  # as AWS shows it
        made.ip_protocol = protocol
        if ports is not None and protocol in ("udp", "tcp", "icmp"):
            made.from_port, made.to_port = ports
        group.ingress_rules.append(made)

    def prefix_list(self, *cidrs: str) -> str:
        with self._lock:
            made = self._backend.create_managed_prefix_list(
                "IPv6" if cidrs and ":" in cidrs[0] else "IPv4",
                [{"Cidr": cidr, "Description": ""} for cidr in cidrs],
                str(max(len(cidrs), 1)),
                f"list-{next(self._numbers)}",
            )
            return str(made.id)

    def route_table(
        self,
        vpc: str | None = None,
        routes: Iterable[Mapping[str, Any]] = (),
        *,
        subnets: Iterable[str] = (),
        main: bool = False,
    ) -> str:
        """A new route table with the VPC's local route and these (see `route`), in this order.

        It takes over `subnets`; `main`: and all subnets of the VPC that have no table of their own.
        """
        with self._lock:
            made = self._new_table(vpc or self.default_vpc, routes)
            made.subnets = list(subnets)
            for table in self._route_tables().values():
                table.subnets = [one for one in table.subnets if one not in made.subnets]
                table.main = table.main and not (main and table.vpc_id == made.vpc_id)
            made.main = main
            self._tables.append(made)
            return made.id

    def _new_table(self, vpc_id: str, routes: Iterable[Mapping[str, Any]] = ()) -> RouteTable:
        local = route(self._backend.vpcs[vpc_id].cidr_block, local=True)
        # Not from `random`: the same seed is to make the same IDs of whatever decides.
        rows = [local, *map(dict, routes)]
        for row in rows:  # AWS shows both, whichever was named
            if "InstanceId" in row and (nics := self.interfaces_of(row["InstanceId"])):
                row.setdefault("NetworkInterfaceId", nics[0])
        return RouteTable(f"rtb-{uuid.uuid4().hex[:17]}", vpc_id, rows)

    def _route_tables(self) -> dict[str, RouteTable]:
        """All there are, the main ones of VPCs for which nobody has built one included."""
        main = {table.vpc_id for table in self._tables if table.main}
        for vpc_id in self._backend.vpcs:
            if vpc_id not in main:
                self._tables.append(self._new_table(vpc_id))
                self._tables[-1].main = True
        return {table.id: table for table in self._tables}

    # --- builder: interfaces and instances

    def interface(
        self,
        subnet: str | None = None,
        groups: Iterable[str] = (),
        description: str = "",
        type: str = "interface",  # noqa: A002
        address: str | None = None,
        ipv6_only: bool = False,
    ) -> str:
        """An interface that is attached to nothing; without groups it has its VPC's default one."""
        with self._lock:
            made = self._new_interface(subnet or self.zone_subnet(), groups, address, ipv6_only)
            made.description = description
            made.interface_type = type
            return str(made.id)

    def _new_interface(
        self, subnet_id: str, groups: Iterable[str], address: str | None, ipv6_only: bool = False
    ) -> Any:
        subnet = self._backend.get_subnet(subnet_id)
        if address is None:
            address = subnet.get_available_subnet_ip(None)
        else:
            subnet.request_ip(address, None)
        made = self._backend.create_network_interface(subnet, address, group_ids=list(groups))
        if ipv6_only:
            self._make_ipv6_only(made)
        return made

    @staticmethod
    def _make_ipv6_only(interface: Any) -> None:
        interface.private_ip_address = None
        interface.private_ip_addresses = []
        interface.ipv6_addresses = [f"2600:1f18::{random.getrandbits(16):x}"]

    def instance(
        self, subnet: str | None = None, groups: Iterable[str] | None = None, **options: Any
    ) -> str:
        """An instance, in its own reservation; the options are those of `instances`."""
        return self.instances(1, subnet, groups, **options)[0]

    def instances(
        self,
        count: int,
        subnet: str | None = None,
        groups: Iterable[str] | None = None,
        *,
        zone: str = "a",
        interfaces: int = 1,
        tags: Mapping[str, str] | None = None,
        instance_type: str = "m5.large",
        state: str = "running",
        interface_type: str = "interface",
        ipv6_only: bool = False,
        address: str | None = None,
        managed: bool | str = False,
    ) -> list[str]:
        """Many instances in one reservation; without `subnet`, further subnets as one fills up.

        All interfaces of one are in the same subnet. `address` is the primary one of the first
        interface. `managed`: by a service (EKS, or the principal given), so that it and its
        interfaces are hidden from lists and filters unless `IncludeManagedResources` asks for
        them; by ID they are shown.
        """
        group_ids = list(groups or ())
        made: list[Any] = []
        with self._lock:
            while len(made) < count:
                subnet_id, room = (subnet, count) if subnet else self._room(zone, interfaces)
                number = min(count - len(made), room)
                reservation = self._backend.run_instances(
                    "ami-0abcdef1234567890",
                    number,
                    None,
                    [],
                    subnet_id=subnet_id,
                    private_ip=address,
                    instance_type=instance_type,
                    is_instance_type_default=True,  # no look into moto's list of types
                    security_group_ids=group_ids,
                    tags={"instance": dict(tags or {})},
                    block_device_mappings=[],
                    client_token=str(uuid.uuid4()),
                    region_name=self.region,
                )
                for instance in reservation.instances:
                    for index in range(1, interfaces):
                        nic = self._new_interface(str(subnet_id), group_ids, None)
                        instance.attach_eni(nic, index)
                    for nic in instance.nics.values():
                        nic.delete_on_termination = True
                        nic.description = ""
                        nic.interface_type = interface_type
                        if ipv6_only:
                            self._make_ipv6_only(nic)
                    if managed:
                        principal = managed if isinstance(managed, str) else "eks.amazonaws.com"
                        ids = (instance.id, *(nic.id for nic in instance.nics.values()))
                        self._managed.update(dict.fromkeys(ids, principal))
                made += reservation.instances
            if state != "running":
                for instance in made:
                    self.set_state(instance.id, state)
        return [str(instance.id) for instance in made]

    def _room(self, zone: str, interfaces: int) -> tuple[str, int]:
        """A subnet of the zone with room, and for how many instances."""
        known = self._zone_subnet_ids(self._zone(zone), self.default_vpc)
        for subnet_id in known:
            subnet = self._backend.get_subnet(subnet_id)
            room = (subnet.cidr.num_addresses - 8 - len(subnet._subnet_ips)) // interfaces
            if room > 0:
                return subnet_id, room
        known.append(self.subnet(zone, prefix=20))
        return self._room(zone, interfaces)

    def _instance(self, instance_id: str) -> Any:
        """From the newest back: moto looks through all there are, each time."""
        for reservation in reversed(self._backend.reservations.values()):
            for instance in reservation.instances:
                if instance.id == instance_id:
                    return instance
        raise KeyError(instance_id)

    def interfaces_of(self, instance_id: str) -> list[str]:
        """In the order of their device index."""
        return [str(nic.id) for nic in nics_of(self._instance(instance_id))]

    def first_interface(self, instance_id: str) -> str:
        """The interface that an instance was launched with."""
        return self.interfaces_of(instance_id)[0]

    def set_state(self, instance_id: str, name: str) -> None:
        """Put the instance into this state: pending, running, shutting-down, stopping, ..."""
        with self._lock:
            instance = self._instance(instance_id)
            if name == "terminated":
                instance.terminate()
                self._tidy()
            else:
                instance._state.name = name
                instance._state.code = _STATE_CODES[name]

    def stop(self, instance_id: str) -> None:
        self.set_state(instance_id, "stopped")

    def terminate(self, instance_id: str) -> None:
        """The instance goes, and so do its interfaces and their sessions."""
        self.set_state(instance_id, "terminated")

    def delete_interface(self, interface_id: str) -> None:
        """The interface goes, attached or not, and takes its sessions along."""
        with self._lock:
            nic = self._backend.enis.pop(interface_id)
            if nic.instance is not None:
                nic.instance.nics = {
                    index: other for index, other in nic.instance.nics.items() if other is not nic
                }
            self._tidy()

    def _tidy(self) -> None:
        """Follow up what went: interfaces of terminated instances, sessions of interfaces."""
        for interface in list(self._backend.enis.values()):
            instance = interface.instance
            if instance is not None and instance._state.name == "terminated":
                if interface.delete_on_termination or interface.device_index == 0:
                    del self._backend.enis[interface.id]
                else:
                    interface.instance = interface.attachment_id = None
                    interface.status = "available"
        for session in list(self._store.by_owner.get(self.account_id, {}).values()):
            if session.real and session.view["NetworkInterfaceId"] not in self._backend.enis:
                self._store.forget(session)

    def show_pages_of(self, size: int) -> None:
        """AWS shows no more at once, however much it is asked for; in other accounts, too."""
        self._simulation.largest_page = size

    def hide(self, resource_id: str) -> None:
        """It exists, but no Describe* shows it any more, as if it belonged to another account."""
        self._hidden.add(resource_id)

    # --- builder: sensors

    def _target(self, quota: int | None = None, **kwargs: str) -> Any:
        made = self._backend.create_traffic_mirror_target(
            kwargs.get("network_interface_id"),
            kwargs.get("network_load_balancer_arn"),
            f"sensor {next(self._numbers)}",
            [],
            None,
            kwargs.get("gateway_load_balancer_endpoint_id"),
        )
        if quota is not None:
            self.quota[made.id] = quota
        return made

    def _sensor_group(self, subnet_id: str) -> str:
        vpc_id = self._backend.get_subnet(subnet_id).vpc_id
        if vpc_id not in self._sensor_groups:
            self._sensor_groups[vpc_id] = self.group(rule(), vpc=vpc_id)
        return self._sensor_groups[vpc_id]

    def _load(self, target_id: str, sessions: int) -> None:
        for _ in range(sessions):
            self.session(new_id("eni"), target_id)

    def sensor(
        self,
        subnet: str | None = None,
        groups: Iterable[str] | None = None,
        *,
        zone: str = "a",
        quota: int = 10,
        sessions: int = 0,
        state: str = "running",
        attached: bool = True,
        managed: bool | str = False,
    ) -> str:
        """A target with its sensor; its default group admits udp/4789 from anywhere.

        `sessions` exist already, from interfaces that are not otherwise part of the simulation.
        `managed`: its instance is, see `instance`.
        """
        with self._lock:
            subnet_id = subnet or self.zone_subnet(zone)
            group_ids = [self._sensor_group(subnet_id)] if groups is None else list(groups)
            if attached:
                instance_id = self.instance(subnet_id, group_ids, state=state, managed=managed)
                interface_id = str(self._instance(instance_id).nics[0].id)
            else:
                interface_id = self.interface(subnet_id, group_ids)
            target_id = str(self._target(quota, network_interface_id=interface_id).id)
            self._load(target_id, sessions)
            return target_id

    def nlb_sensor(self, subnets: Iterable[str], groups: Iterable[str] = ()) -> str:
        """A target that is a Network Load Balancer with an interface in each subnet."""
        with self._lock:
            name = f"net/sensors-{next(self._numbers)}/{random.getrandbits(64):016x}"
            arn = (
                f"arn:aws:elasticloadbalancing:{self.region}:{self.account_id}:loadbalancer/{name}"
            )
            made = {"requester": "amazon-elb", "description": f"ELB {name}"}
            for subnet_id in subnets:
                self.requester_managed(subnet_id, groups, type="network_load_balancer", **made)
            return str(self._target(network_load_balancer_arn=arn).id)

    def gwlb_sensor(self, subnets: Iterable[str], colon: bool = False) -> str:
        """A target that is a Gateway Load Balancer endpoint; AWS gives it no security group."""
        with self._lock:
            endpoint = new_id("vpce")
            text = f"VPC Endpoint Interface{':' if colon else ''} {endpoint}"
            made = {"requester": "727180483921", "description": text}  # an account of AWS
            for subnet_id in subnets:
                self.requester_managed(subnet_id, type="gateway_load_balancer_endpoint", **made)
            return str(self._target(gateway_load_balancer_endpoint_id=endpoint).id)

    def requester_managed(
        self,
        subnet: str | None = None,
        groups: Iterable[str] = (),
        *,
        requester: str,
        description: str,
        type: str = "interface",  # noqa: A002
        address: str | None = None,
    ) -> str:
        """An interface that a service has made (`requester`: amazon-elb, say) and runs.

        Without groups it has none. What it is attached to the service does not show.
        """
        with self._lock:
            group_ids = list(groups)
            made_id = self.interface(subnet, group_ids, description, type, address)
            made = self._backend.enis[made_id]
            made.requester_managed, made.requester_id = True, requester
            made.status = "in-use"
            if not group_ids:
                made._group_set = []
            return made_id

    def database(
        self,
        subnet: str | None = None,
        groups: Iterable[str] | None = None,
        *,
        zone: str = "a",
        elasticache: bool = False,
        custom: bool = False,
        address: str | None = None,
    ) -> str:
        """The interface of a database of RDS, or of a node of ElastiCache; AWS mirrors both.

        `groups`: without them its VPC's default one. `custom`: RDS Custom, whose interface is
        attached to an instance of this account.
        """
        subnet_id = subnet or self.zone_subnet(zone)
        by = {"requester": "amazon-rds", "description": "RDSNetworkInterface"}
        if elasticache:
            name = f"ElastiCache cache-{next(self._numbers)}-001"
            by = {"requester": "amazon-elasticache", "description": name}
        if not custom:
            group_ids = [self._vpc_group(subnet_id)] if groups is None else groups
            return self.requester_managed(subnet_id, group_ids, address=address, **by)
        with self._lock:
            made = self._instance(self.instance(subnet_id, groups, address=address)).nics[0]
            made.description, made.requester_id = by["description"], by["requester"]
            made.requester_managed = True
            return str(made.id)

    def _vpc_group(self, subnet_id: str) -> str:
        """The default security group of a subnet's VPC."""
        groups = self._backend.groups[self._backend.get_subnet(subnet_id).vpc_id].values()
        return next(str(group.id) for group in groups if group.name == "default")

    def filter(self) -> str:
        """One more traffic mirror filter, besides `filter_id`."""
        return str(self._backend.create_traffic_mirror_filter("everything", [], None).id)

    def missing_sensor(self) -> str:
        """The ID of no target."""
        return new_id("tmt")

    def foreign_sensor(self, *where: Any, **options: Any) -> str:
        """A target as `sensor` makes it, but of another account, and its interface is hidden."""
        with self._lock:
            target_id = self.sensor(*where, attached=False, **options)
            self._backend.traffic_mirror_targets[target_id].simulated_owner = OTHER_ACCOUNT_ID
            self.hide(self.sensor_interface(target_id))
            return target_id

    def share(self, target_id: str, *accounts: SimulatedAccount, interface: bool = True) -> None:
        """These accounts, or all if none is named, see the target; not what it consists of.

        `interface`: they see the ID of its interface. AWS does not say whether they do.
        """
        chosen = accounts or tuple(self._simulation.accounts.values())
        with self._lock:
            shares = self._shares.setdefault(target_id, {})
            shares.update({one.account_id: interface for one in chosen if one is not self})

    def unshare(self, target_id: str) -> None:
        """Nobody else sees the target any more; sessions to it stay."""
        with self._lock:
            self._shares.pop(target_id, None)

    def delete_target(self, target_id: str) -> None:
        """The target goes; its interface and the sessions to it stay."""
        with self._lock:
            self.unshare(target_id)
            del self._backend.traffic_mirror_targets[target_id]

    def _visible_targets(self) -> dict[str, Any]:
        """An account's own targets and those that others share with it."""
        own = dict(self._backend.traffic_mirror_targets)
        for account in self._simulation.accounts.values():
            for target_id, shares in account._shares.items():
                if self.account_id in shares:
                    own[target_id] = account._backend.traffic_mirror_targets[target_id]
        return own

    def _account_of_target(self, target_id: str) -> SimulatedAccount:
        accounts = self._simulation.accounts.values()
        return next(a for a in accounts if target_id in a._backend.traffic_mirror_targets)

    def _shows_interface(self, target_id: str) -> bool:
        owner = self._account_of_target(target_id)
        return owner is self or owner._shares[target_id][self.account_id]

    def sensor_interface(self, target_id: str) -> str:
        return self._sensor_interfaces(target_id)[0]

    def _sensor_interfaces(self, target_id: str) -> list[str]:
        target = self._backend.traffic_mirror_targets[target_id]
        if target.network_interface_id:
            return [str(target.network_interface_id)]
        if target.network_load_balancer_arn:
            end = "ELB " + target.network_load_balancer_arn.split(":loadbalancer/")[1]
        else:
            end = " " + target.gateway_load_balancer_endpoint_id
        enis = self._backend.enis.values()
        return [str(interface.id) for interface in enis if interface.description.endswith(end)]

    def sensor_instance(self, target_id: str) -> str:
        return str(self._backend.enis[self.sensor_interface(target_id)].instance.id)

    def delete_sensor_interface(self, target_id: str) -> None:
        """The sensor's interface goes (all of a load balancer's); target and sessions stay."""
        for interface_id in self._sensor_interfaces(target_id):
            self.delete_interface(interface_id)
