"""A simulated AWS account, in memory, that also refuses what AWS refuses.

moto keeps the resources and answers most operations. What the traffic mirroring function depends
on is answered here instead, as the EC2 API reference and the Traffic Mirroring guide describe it:
filters, pages and unknown IDs of the Describe* operations, and the checks, quotas and idempotency
of CreateTrafficMirrorSession. Where AWS documents no behaviour, the choice made is marked 'not
documented'. Nothing here needs pytest:

    with SimulatedAccount() as account:
        target = account.sensor(zone="a", sessions=3)
        client = account.client()                  # or any boto3 client made meanwhile
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
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property, partial
from time import time  # bound here: a patched time.time changes nothing
from typing import Any
from unittest.mock import patch

from botocore.config import Config
from moto import mock_aws
from moto.ec2.models import EC2Backend, ec2_backends
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
    Caller,
    Fault,
    Requests,
    Simulation,
    looking_client,
    new_id,
    old_botocore,
    refuse_if,
    shared_session,
)
from aws.words import RouteTable, acl_entry, route, rule

# Of instances, in the order of their codes: 0, 16, 32, ...
_STATES = ("pending", "running", "shutting-down", "terminated", "stopping", "stopped")


class SimulatedAccount(Requests, Describe, Sessions):
    """One AWS account in one Region, from `with` to the end of the block; `other` makes more.

    `ec2` is a boto3 client for building and looking: its calls are not recorded, not faulted, not
    delayed, and see what is hidden or late. Every other client is the function's: its HTTP
    attempts are logged in `calls`, of all accounts, and meet the faults, denials and gates of the
    account whose credentials it has. A server of moto in the same process answers likewise
    (timeouts become status 503 there).
    """

    def __init__(
        self,
        account_id: str = ACCOUNT_ID,
        zones: Mapping[str, str] | None = None,
        _first: SimulatedAccount | None = None,
    ) -> None:
        self._simulation = _first._simulation if _first else Simulation()
        self.region, self.account_id = REGION, account_id
        known = RegionsAndZonesBackend.zones[REGION]
        self._zones = {str(zone.name): str(zone.zone_id) for zone in known}
        for zone, zone_id in (zones or {}).items():
            (name,) = (name for name, own in self._zones.items() if own == zone_id)
            self._zones[name] = self.zone_id(zone)
            self._zones[self._zone(zone)] = zone_id
        # Settable at any time:
        self.quota: dict[str, int] = {}  # sources of a target; load balancers have no limit
        self.default_quota = 10  # of targets not named there
        self.account_quota = 10_000  # sessions of the account
        self.unsupported_types: set[str] = set()  # instance types that AWS does not mirror
        self.tag_policy: dict[str, set[str]] = {}  # values that the organization allows, by key
        # How many calls that would show a new session, or the instance, do not show it yet.
        self.session_lag = 0
        self.unknown_instances: dict[str, int] = {}
        # Called with (operation, parameters) before each recorded attempt, outside any lock; may
        # raise `Refusal` or an exception of botocore.
        self.gates: list[Callable[[str, dict[str, Any]], None]] = []
        # Of the first account, for all: by what credentials expire, and seconds that each recorded
        # attempt takes (attempts in several threads overlap).
        self.clock: Callable[[], float] = time
        self.latency = 0.0

        self.calls = self._simulation.calls
        self.roles: dict[str, list[str]] = {}  # accounts that may assume each
        self._lock = self._simulation.lock
        self._store: SessionStore = _first._store if _first else SessionStore()
        self._faults: list[Fault] = []
        self._denied: set[str] = set()
        self._hidden: set[str] = set()
        self._managed: set[str] = set()
        self._shares: dict[str, dict[str, bool]] = {}  # by target and account: with interface?
        self._tables: list[RouteTable] = []
        self._idempotency: dict[str, tuple[str, dict[str, Any]]] = {}
        self._pages: dict[str, tuple[str, list[str], int]] = {}
        self._zone_subnets: dict[tuple[str, str], str] = {}
        self._sensor_groups: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        self._access_key = f"AKIASIM0{account_id}" if _first else CREDENTIALS["aws_access_key_id"]
        self.own_caller = self._caller("traffic-mirror", "traffic-mirror")
        self._simulation.accounts[account_id] = self
        self._simulation.callers |= {
            self._access_key: self.own_caller,
            f"AKIALOOK{account_id}": replace(self.own_caller, looking=True),
        }

    # --- start and end

    def __enter__(self) -> SimulatedAccount:
        with ExitStack() as stack:
            others = ("MOTO_", "AWS_ENDPOINT_URL", "AWS_PROFILE")
            environment = {k: v for k, v in os.environ.items() if not k.startswith(others)}
            environment.update({name.upper(): value for name, value in CREDENTIALS.items()})
            environment.update(
                AWS_DEFAULT_REGION=self.region,
                AWS_REGION=self.region,
                AWS_CONFIG_FILE=os.devnull,
                AWS_SHARED_CREDENTIALS_FILE=os.devnull,
                AWS_EC2_METADATA_DISABLED="true",
                MOTO_EC2_LOAD_DEFAULT_AMIS="false",  # none is needed, and loading them is slow
            )
            stack.enter_context(patch.dict(os.environ, environment, clear=True))
            # Nor is moto's default VPC, with a subnet in each zone.
            stack.enter_context(patch.object(EC2Backend, "create_default_vpc"))
            stack.enter_context(mock_aws())
            prefixes = {"traffic-mirror-filter": "tmf", "traffic-mirror-target": "tmt"}
            stack.enter_context(patch.dict("moto.ec2.utils.EC2_RESOURCE_TO_PREFIX", prefixes))
            self._simulation.patch(stack)
            self._open()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        # The function waits for no role that it does not need; the next account must not see it.
        for thread in threading.enumerate():
            if thread.name.startswith("ThreadPoolExecutor"):
                thread.join(10)
        self._stack.close()

    def _open(self) -> None:
        self.ec2 = looking_client(f"AKIALOOK{self.account_id}")
        self._backend: Any = ec2_backends[self.account_id][self.region]
        self.filter_id = self.filter()

    def other(
        self, account_id: str = OTHER_ACCOUNT_ID, *, zones: Mapping[str, str] | None = None
    ) -> SimulatedAccount:
        """One more account in the same Region, until this one ends.

        Neither sees anything of the other but targets that are shared (`share`). `zones`: which of
        its zones have other IDs than here, {'a': 'use1-az2'}; they change places.
        """
        made = SimulatedAccount(account_id, zones, self)
        made._open()
        return made

    def client(self, service: str = "ec2", **config: Any) -> Any:
        """A client as the function would have one; `config` goes to botocore's Config."""
        given = {**CREDENTIALS, "aws_access_key_id": self._access_key, "region_name": self.region}
        return shared_session().client(service, config=Config(**config), **given)

    old_botocore = staticmethod(old_botocore)

    def answers(self, action: str) -> Callable[[Caller, dict[str, Any]], Any] | None:
        """What answers to this operation; None: moto."""
        if action in KINDS:
            return partial(self._describe, action)
        return {
            CREATE_SESSION: self._create_traffic_mirror_session,
            "GetManagedPrefixListEntries": self._get_managed_prefix_list_entries,
            "AssumeRole": self._assume_role,
        }.get(action)

    # --- roles and credentials

    def _caller(self, role: str, session_name: str, **more: Any) -> Caller:
        arn = f"arn:aws:sts::{self.account_id}:assumed-role/{role}/{session_name}"
        return Caller(self, arn, **more)

    def role(self, name: str, trusts: Iterable[str] | None = None, path: str = "/") -> str:
        """The ARN of a role of this account that these accounts may assume; without `trusts` it is
        the first account. What the role may do here `deny` says, for the whole account."""
        arn = f"arn:aws:iam::{self.account_id}:role{path}{name}"
        self.roles[arn] = [self._simulation.first.account_id] if trusts is None else list(trusts)
        return arn

    def _assume_role(self, caller: Caller, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What STS answers to this caller."""
        role_arn, name = parameters.get("RoleArn", ""), parameters.get("RoleSessionName", "")
        text = f"Value '{name}' at 'roleSessionName' is invalid"
        refuse_if(not re.fullmatch(r"[\w+=,.@-]{2,64}", name), "ValidationError", text)
        seconds = int(parameters.get("DurationSeconds", 3600))
        text = f"DurationSeconds {seconds} exceeds what is allowed"  # a role that assumes another
        refuse_if(not 900 <= seconds <= 3600, "ValidationError", text)
        for owner in self._simulation.accounts.values():
            if caller.account.account_id in owner.roles.get(role_arn, ()):
                break
        else:
            raise caller.denial("sts:AssumeRole", role_arn, trusted=False)
        key, token = f"ASIASIM{uuid.uuid4().int % 10**13:013}", f"simulated-{uuid.uuid4().hex}"
        expires = self._simulation.first.clock() + seconds
        made = owner._caller(role_arn.rpartition("/")[2], name, token=token, expires=expires)
        self._simulation.callers[key] = made
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

    @cached_property
    def default_vpc(self) -> str:
        """The VPC that everything lands in unless told otherwise; made on first use."""
        return self.vpc()

    def vpc(self, cidr: str = "10.0.0.0/16") -> str:
        with self._lock:
            return str(self._backend.create_vpc(cidr).id)

    def _zone(self, zone: str) -> str:
        """The name of a zone: given as 'a', or as it is."""
        return zone if zone.startswith(self.region) else f"{self.region}{zone}"

    def zone_id(self, zone: str) -> str:
        """The ID of a zone, which is the same in every account."""
        return self._zones[self._zone(zone)]

    def _free_network(self, vpc_id: str, prefix: int) -> ipaddress.IPv4Network:
        """Large ones from the far end, so that small ones do not get in their way."""
        blocks = ipaddress.ip_network(self._backend.vpcs[vpc_id].cidr_block).subnets(
            new_prefix=prefix
        )
        subnets = [one for zone in self._backend.subnets.values() for one in zone.values()]
        taken = [one.cidr for one in subnets if one.vpc_id == vpc_id]
        return next(
            block
            for block in (blocks if prefix >= 24 else reversed(list(blocks)))
            if not any(block.overlaps(other) for other in taken)
        )

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
            network = cidr or str(self._free_network(vpc_id, prefix))
            made = self._backend.create_subnet(vpc_id, network, availability_zone=self._zone(zone))
            if acl is not None:
                self.acl(str(made.id), acl)
            return str(made.id)

    def zone_subnet(self, zone: str = "a", vpc: str | None = None) -> str:
        """The large subnet of a zone where instances and sensors without a subnet go."""
        with self._lock:
            key = vpc or self.default_vpc, self._zone(zone)
            if key not in self._zone_subnets:
                self._zone_subnets[key] = self.subnet(zone, vpc=key[0], prefix=19)
            return self._zone_subnets[key]

    def acl(self, subnet: str, entries: Iterable[Mapping[str, Any]]) -> str:
        """A new ACL with these entries, in this order, and the final denials; it takes over."""
        with self._lock:
            acl_id = str(self._backend.create_network_acl(self._vpc_of(subnet)).id)
            final = [acl_entry(32767, "deny", "0.0.0.0/0", "-1", egress=e) for e in (False, True)]
            for entry in [*entries, *final]:
                ports = entry.get("PortRange") or {}
                names = ("RuleNumber", "Protocol", "RuleAction", "Egress", "CidrBlock")
                given = [*map(entry.get, names), None, None, ports.get("From"), ports.get("To")]
                self._backend.create_network_acl_entry(acl_id, *given, entry.get("Ipv6CidrBlock"))
            known = [acl._associations.values() for acl in self._backend.network_acls.values()]
            (old,) = (one.id for each in known for one in each if one.subnet_id == subnet)
            self._backend.replace_network_acl_association(old, acl_id)
            return acl_id

    def _vpc_of(self, subnet_id: str) -> str:
        return str(self._backend.get_subnet(subnet_id).vpc_id)

    def group(self, *rules: Mapping[str, Any], vpc: str | None = None) -> str:
        """A security group with these inbound rules (see `rule()`); all outbound is allowed."""
        with self._lock:
            name = f"group-{next(self._numbers)}"
            made = self._backend.create_security_group(name, name, vpc or self.default_vpc)
            for item in rules:
                self._add_rule(made, item)
            return str(made.id)

    def _add_rule(self, group: Any, item: Mapping[str, Any]) -> None:
        pair = item["pair"] and {"UserId": self.account_id, **item["pair"]}
        origin = item["block"], pair, item["prefix_list"]
        made = SecurityGroupRule(self._backend, "-1", group.id, None, None, *origin, False)
        made.ip_protocol = item["protocol"]
        made.from_port, made.to_port = item["ports"]
        group.ingress_rules.append(made)

    def prefix_list(self, *cidrs: str) -> str:
        with self._lock:
            entries = [{"Cidr": cidr, "Description": ""} for cidr in cidrs]
            name = f"list-{next(self._numbers)}"
            made = self._backend.create_managed_prefix_list("IPv4", entries, "1000", name)
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
        rows = [local, *map(dict, routes)]
        for row in rows:  # AWS shows both, whichever was named
            if "InstanceId" in row and (nics := self.interfaces_of(row["InstanceId"])):
                row.setdefault("NetworkInterfaceId", nics[0])
        # Not from `random`: the same seed is to make the same IDs of whatever decides.
        return RouteTable(f"rtb-{uuid.uuid4().hex[:17]}", vpc_id, rows)

    def _route_tables(self) -> dict[str, RouteTable]:
        """All there are, the main ones of VPCs for which nobody has built one included."""
        for vpc_id in self._backend.vpcs.keys() - {t.vpc_id for t in self._tables if t.main}:
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
        ipv6_only: bool = False,
    ) -> str:
        """An interface that is attached to nothing; without groups it has its VPC's default one."""
        with self._lock:
            place = self._backend.get_subnet(subnet or self.zone_subnet())
            address = place.get_available_subnet_ip(None)
            made = self._backend.create_network_interface(place, address, group_ids=list(groups))
            made.description, made.interface_type = description, type
            if ipv6_only:
                self._make_ipv6_only(made)
            return str(made.id)

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
        managed: bool = False,
    ) -> list[str]:
        """Many instances in one reservation; without `subnet` in the zone's large one.

        All interfaces of one are in the same subnet. `managed`: by EKS, so that it and its
        interfaces are hidden from lists and filters unless `IncludeManagedResources` asks for
        them; by ID they are shown.
        """
        subnet, groups = subnet or self.zone_subnet(zone), list(groups or ())
        with self._lock:
            made = self._backend.run_instances(
                "ami-0abcdef1234567890",
                count,
                None,
                [],
                subnet_id=subnet,
                instance_type=instance_type,
                is_instance_type_default=True,  # no look into moto's list of types
                security_group_ids=list(groups),
                tags={"instance": dict(tags or {})},
                block_device_mappings=[],
                client_token=str(uuid.uuid4()),
                region_name=self.region,
            ).instances
            for instance in made:
                for index in range(1, interfaces):
                    more = self.interface(subnet, groups)
                    instance.attach_eni(self._backend.enis[more], index)
                for nic in instance.nics.values():
                    nic.delete_on_termination = True
                    nic.description, nic.interface_type = "", interface_type
                    if ipv6_only:
                        self._make_ipv6_only(nic)
                if managed:
                    self._managed |= {instance.id, *(nic.id for nic in instance.nics.values())}
                if state != "running":
                    self.set_state(instance.id, state)
        return [str(instance.id) for instance in made]

    def _instance(self, instance_id: str) -> Any:
        """From the newest back: moto looks through all there are, each time."""
        newest = reversed(self._backend.reservations.values())
        return next(one for each in newest for one in each.instances if one.id == instance_id)

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
            instance._state.name, instance._state.code = name, 16 * _STATES.index(name)

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
                nics = nic.instance.nics
                nic.instance.nics = {index: one for index, one in nics.items() if one is not nic}
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
        for session in list(self._store.of[self.account_id].values()):
            if session.real and session.view["NetworkInterfaceId"] not in self._backend.enis:
                self._store.forget(session)

    def show_pages_of(self, size: int) -> None:
        """AWS shows no more at once, however much it is asked for; in other accounts, too."""
        self._simulation.largest_page = size

    def hide(self, resource_id: str) -> None:
        """It exists, but no Describe* shows it any more, as if it belonged to another account."""
        self._hidden.add(resource_id)

    # --- builder: sensors

    def _target(self, *of: str | None) -> str:
        """Of an interface, a load balancer or an endpoint."""
        interface, balancer, endpoint = of
        make, name = self._backend.create_traffic_mirror_target, f"sensor {next(self._numbers)}"
        return str(make(interface, balancer, name, [], None, endpoint).id)

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
        managed: bool = False,
    ) -> str:
        """A target with its sensor; its default group admits udp/4789 from anywhere.

        `sessions` exist already, from interfaces that are not otherwise part of the simulation.
        `managed`: its instance is, see `instances`.
        """
        with self._lock:
            subnet = subnet or self.zone_subnet(zone)
            if groups is None:
                vpc = self._vpc_of(subnet)
                if vpc not in self._sensor_groups:
                    self._sensor_groups[vpc] = self.group(rule(), vpc=vpc)
                groups = [self._sensor_groups[vpc]]
            if attached:
                host = self.instance(subnet, groups, state=state, managed=managed)
                interface_id = str(self._instance(host).nics[0].id)
            else:
                interface_id = self.interface(subnet, groups)
            target_id = self._target(interface_id, None, None)
            self.quota[target_id] = quota
            self._load(target_id, sessions)
            return target_id

    def nlb_sensor(self, subnets: Iterable[str], groups: Iterable[str] = ()) -> str:
        """A target that is a Network Load Balancer with an interface in each subnet."""
        name = f"net/sensors-{next(self._numbers)}/{random.getrandbits(64):016x}"
        made = {"requester": "amazon-elb", "description": f"ELB {name}"}
        for subnet in subnets:
            self.requester_managed(subnet, groups, type="network_load_balancer", **made)
        arn = f"arn:aws:elasticloadbalancing:{self.region}:{self.account_id}:loadbalancer/{name}"
        return self._target(None, arn, None)

    def gwlb_sensor(self, subnets: Iterable[str], colon: bool = False) -> str:
        """A target that is a Gateway Load Balancer endpoint; AWS gives it no security group."""
        endpoint = new_id("vpce")
        text = f"VPC Endpoint Interface{':' if colon else ''} {endpoint}"
        made = {"requester": "727180483921", "description": text}  # an account of AWS
        for subnet in subnets:
            self.requester_managed(subnet, type="gateway_load_balancer_endpoint", **made)
        return self._target(None, None, endpoint)

    def requester_managed(
        self,
        subnet: str | None = None,
        groups: Iterable[str] | None = (),
        *,
        requester: str,
        **interface: Any,
    ) -> str:
        """An interface that a service has made (`requester`: amazon-elb, say) and runs.

        Without groups it has none; with None its VPC's default one. What it is attached to the
        service does not show.
        """
        with self._lock:
            made = self._backend.enis[self.interface(subnet, groups or (), **interface)]
            made.requester_managed, made.requester_id = True, requester
            made.status = "in-use"
            if groups is not None and not list(groups):
                made._group_set = []
            return str(made.id)

    def database(
        self,
        subnet: str | None = None,
        groups: Iterable[str] | None = None,
        *,
        zone: str = "a",
        elasticache: bool = False,
        custom: bool = False,
    ) -> str:
        """The interface of a database of RDS, or of a node of ElastiCache; AWS mirrors both.

        `groups`: without them its VPC's default one. `custom`: RDS Custom, whose interface is
        attached to an instance of this account.
        """
        subnet = subnet or self.zone_subnet(zone)
        requester, description = "amazon-rds", "RDSNetworkInterface"
        if elasticache:
            requester = "amazon-elasticache"
            description = f"ElastiCache cache-{next(self._numbers)}-001"
        if not custom:
            by = {"requester": requester, "description": description}
            return self.requester_managed(subnet, groups, **by)
        with self._lock:
            made = self._instance(self.instance(subnet, groups)).nics[0]
            made.description, made.requester_id = description, requester
            made.requester_managed = True
            return str(made.id)

    def filter(self) -> str:
        """One more traffic mirror filter, besides `filter_id`."""
        return str(self._backend.create_traffic_mirror_filter("everything", [], None).id)

    def missing_sensor(self) -> str:
        """The ID of no target."""
        return new_id("tmt")

    def foreign_sensor(self, *where: Any, **options: Any) -> str:
        """A target as `sensor` makes it, but of another account, and its interface is hidden."""
        target_id = self.sensor(*where, attached=False, **options)
        self._backend.traffic_mirror_targets[target_id].simulated_owner = OTHER_ACCOUNT_ID
        self.hide(self.sensor_interface(target_id))
        return target_id

    def share(self, target_id: str, *accounts: SimulatedAccount, interface: bool = True) -> None:
        """These accounts, or all if none is named, see the target; not what it consists of.

        `interface`: they see the ID of its interface. AWS does not say whether they do.
        """
        chosen = accounts or tuple(self._simulation.accounts.values())
        shares = {one.account_id: interface for one in chosen if one is not self}
        with self._lock:
            self._shares.setdefault(target_id, {}).update(shares)

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
