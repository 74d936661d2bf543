"""Traffic mirror sessions: what AWS checks before it creates one, and what it makes of it."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aws.transport import new_id, refuse_if

DATABASES = ("amazon-rds", "amazon-elasticache")  # requesters whose interfaces AWS mirrors


@dataclass
class Session:
    view: dict[str, Any]
    real: bool  # its interface exists in the simulation; other sessions are mere load
    hidden_calls: int = 0

    @property
    def id(self) -> str:
        return str(self.view["TrafficMirrorSessionId"])

    def is_late(self) -> bool:
        """Whether a call that would show it does not show it yet; it counts the calls."""
        self.hidden_calls -= 1
        return self.hidden_calls >= 0


class SessionStore:
    """The sessions of all accounts, by what they are looked for by."""

    def __init__(self) -> None:
        self.by_id: dict[str, Session] = {}
        self.by_interface: dict[str, dict[str, Session]] = {}
        self.by_target: dict[str, dict[str, Session]] = {}
        self.by_owner: dict[str, dict[str, Session]] = {}

    def _indexes(self, session: Session) -> tuple[tuple[dict[str, dict[str, Session]], str], ...]:
        return (
            (self.by_interface, session.view["NetworkInterfaceId"]),
            (self.by_target, session.view["TrafficMirrorTargetId"]),
            (self.by_owner, session.view["OwnerId"]),
        )

    def add(self, session: Session) -> None:
        self.by_id[session.id] = session
        for index, key in self._indexes(session):
            index.setdefault(key, {})[session.id] = session

    def forget(self, session: Session) -> None:
        del self.by_id[session.id]
        for index, key in self._indexes(session):
            del index[key][session.id]
            if not index[key]:
                del index[key]


class Sessions:
    """The traffic mirror sessions of an account."""

    # --- builder and looking: sessions

    def session(
        self, interface_id: str, target_id: str, number: int = 1, *, lag: int = 0, **more: Any
    ) -> str:
        """A session that exists, whatever AWS would say to its creation."""
        view = {
            "TrafficMirrorSessionId": new_id("tms"),
            "TrafficMirrorTargetId": target_id,
            "TrafficMirrorFilterId": self.filter_id,
            "NetworkInterfaceId": interface_id,
            "OwnerId": self.account_id,
            "SessionNumber": number,
            "VirtualNetworkId": random.getrandbits(24),
            **more,
        }
        with self._lock:
            session = Session(view, interface_id in self._backend.enis, lag)
            self._store.add(session)
        return session.id

    def delete_session(self, session_id: str) -> None:
        with self._lock:
            self._store.forget(self._store.by_id[session_id])

    def _visible_sessions(self) -> dict[str, Session]:
        """An account's own, whatever their target, and everybody's to its targets."""
        if len(self._simulation.accounts) == 1:
            return self._store.by_id
        seen = dict(self._store.by_owner.get(self.account_id, {}))
        for target_id in self._backend.traffic_mirror_targets:
            seen.update(self._store.by_target.get(target_id, {}))
        return seen

    def sessions(
        self, interface_id: str | None = None, target_id: str | None = None
    ) -> list[dict[str, Any]]:
        """The sessions that this account sees, as AWS shows them, late ones too."""
        with self._lock:
            return [
                self._session_view(session)
                for session in self._visible_sessions().values()
                if interface_id in (None, session.view["NetworkInterfaceId"])
                and target_id in (None, session.view["TrafficMirrorTargetId"])
            ]

    def _create_traffic_mirror_session(
        self, parameters: dict[str, Any], looking: bool
    ) -> dict[str, Any]:
        token = parameters.get("ClientToken") or str(uuid.uuid4())
        request = {k: v for k, v in parameters.items() if k != "ClientToken"}
        signature = json.dumps(request, sort_keys=True)
        if token in self._idempotency:
            known, answer = self._idempotency[token]
            refuse_if(
                known != signature,
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in "
                "previous request(s).",
            )
            return answer
        self._check_session(parameters)
        tags = self._check_tags(parameters.get("TagSpecifications") or ())
        names = ("PacketLength", "VirtualNetworkId", "Description")
        optional = {name: parameters[name] for name in names if name in parameters}
        target = self._visible_targets()[parameters["TrafficMirrorTargetId"]]
        if target.network_load_balancer_arn:
            optional.setdefault("PacketLength", 8500)
        session_id = self.session(
            parameters["NetworkInterfaceId"],
            parameters["TrafficMirrorTargetId"],
            parameters["SessionNumber"],
            lag=0 if looking else self.session_lag,
            TrafficMirrorFilterId=parameters["TrafficMirrorFilterId"],
            **optional,
        )
        if tags:
            self._backend.create_tags([session_id], tags)
        view = self._session_view(self._store.by_id[session_id])
        answer = {"TrafficMirrorSession": view, "ClientToken": token}
        self._idempotency[token] = (signature, answer)
        return answer

    def _check_tags(self, specifications: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        tags: dict[str, str] = {}
        for specification in specifications:
            kind = specification.get("ResourceType")
            refuse_if(
                kind != "traffic-mirror-session",
                "InvalidParameterValue",
                f"'{kind}' is not a valid taggable resource type for this operation.",
            )
            tags |= {tag["Key"]: tag.get("Value", "") for tag in specification.get("Tags") or ()}
        for key, value in tags.items():
            refuse_if(
                value not in self.tag_policy.get(key, {value}),
                "TagPolicyViolation",
                "The tag policy does not allow the specified value for the following tag key: "
                f"'{key}'.",
            )
        return tags

    def _check_session(self, parameters: Mapping[str, Any]) -> None:
        """Everything that AWS checks; in which order is not documented."""
        for name, low, high in (
            ("SessionNumber", 1, 32766),
            ("VirtualNetworkId", 0, 16777215),
            ("PacketLength", 1, 8500),
        ):
            value = parameters.get(name)
            refuse_if(
                value is not None and not low <= value <= high,
                "InvalidParameterValue",
                f"Value ({value}) for parameter {name} must be between {low} and {high}.",
            )
        interface_id = parameters["NetworkInterfaceId"]
        target_id = parameters["TrafficMirrorTargetId"]
        filter_id = parameters["TrafficMirrorFilterId"]
        filters = self._backend.traffic_mirror_filters
        for given, code, noun, known in (
            (filter_id, "TrafficMirrorFilterId", "traffic mirror filter", filters),
            (interface_id, "NetworkInterfaceID", "networkInterface ID", self._backend.enis),
            (target_id, "TrafficMirrorTargetId", "traffic mirror target", self._visible_targets()),
        ):
            message = f"The {noun} '{given}' does not exist"
            refuse_if(given not in known, f"Invalid{code}.NotFound", message)
        self._account_of_target(target_id)._check_target(target_id)
        self._check_source(interface_id)
        self._check_quotas(interface_id, target_id, parameters["SessionNumber"])

    def _check_target(self, target_id: str) -> None:
        """Users report the code for an instance that is not running; for the rest it is a guess.

        A target whose interface is attached to nothing is accepted (not documented).
        """
        target = self._backend.traffic_mirror_targets[target_id]
        interface = self._backend.enis.get(target.network_interface_id)
        wrong = ""
        if not target.network_interface_id:
            if not self._sensor_interfaces(target_id):
                wrong = f"The load balancer of {target_id} is gone"
        elif interface is None:
            wrong = f"{target.network_interface_id}, the interface of {target_id}, does not exist"
        elif interface.instance is not None and interface.instance._state.name != "running":
            wrong = f"The instance of {target_id} must be in the running state"
        refuse_if(wrong, "InvalidTrafficMirrorTarget", wrong)

    def _check_source(self, interface_id: str) -> None:
        """The guide says what cannot be a source; the code is documented for two of the reasons.

        Of what services have made, AWS mirrors interfaces of RDS and ElastiCache only, and these
        without an instance.
        """
        interface = self._backend.enis[interface_id]
        targets = self._backend.traffic_mirror_targets.values()
        refuse_if(
            any(target.network_interface_id == interface_id for target in targets),
            "InterfaceInUseByTrafficMirrorTarget",
            f"{interface_id} is in use by a traffic mirror target",
        )
        of_database = interface.requester_id in DATABASES
        refuse_if(
            interface.requester_managed and not of_database,
            "NetworkInterfaceNotSupported",
            f"{interface_id} is managed by {interface.requester_id}",
        )
        refuse_if(
            interface.interface_type != "interface",
            "InvalidParameterValue",
            f"{interface_id} is of type {interface.interface_type}; a source is of type interface",
        )
        refuse_if(
            interface.private_ip_address is None,
            "InvalidParameterValue",
            f"{interface_id} is in an IPv6-only subnet",
        )
        instance = interface.instance
        refuse_if(
            instance.instance_type in self.unsupported_types if instance else not of_database,
            "NetworkInterfaceNotSupported",
            f"{interface_id} must be attached to a supported instance",
        )

    def _check_quotas(self, interface_id: str, target_id: str, number: int) -> None:
        """The codes are documented but for the session number's.

        The quota of a target counts its sources, whoever's they are: further sessions of one that
        it has are free.
        """
        of_interface = self._store.by_interface.get(interface_id, {}).values()
        refuse_if(
            any(session.view["SessionNumber"] == number for session in of_interface),
            "InvalidParameterValue",
            f"Session number {number} already being used on network interface {interface_id}",
        )
        refuse_if(
            len(of_interface) >= 3,
            "TrafficMirrorSessionsPerInterfaceLimitExceeded",
            "Sessions per interface limit reached (3)",
        )
        owner = self._account_of_target(target_id)
        target = owner._backend.traffic_mirror_targets[target_id]
        to_target = self._store.by_target.get(target_id, {})
        if target.network_interface_id:
            sources = {session.view["NetworkInterfaceId"] for session in to_target.values()}
            quota = owner.quota.get(target_id, owner.default_quota)
            refuse_if(
                interface_id not in sources and len(sources) >= quota,
                "TrafficMirrorSourcesPerTargetLimitExceeded",
                f"Sources per interface-target limit reached ({quota})",
            )
        refuse_if(
            len(self._store.by_owner.get(self.account_id, ())) >= self.account_quota,
            "TrafficMirrorSessionLimitExceeded",
            f"Traffic mirror session limit reached ({self.account_quota})",
        )
