"""Traffic mirror sessions: what AWS checks before it creates one, and what it makes of it."""

from __future__ import annotations

import json
import random
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aws.transport import Caller, new_id, refuse_if

DATABASES = ("amazon-rds", "amazon-elasticache")  # requesters whose interfaces AWS mirrors


@dataclass
class Session:
    view: dict[str, Any]
    real: bool  # its interface exists in the simulation; other sessions are mere load
    hidden_calls: int = 0

    @property
    def id(self) -> str:
        return str(self.view["TrafficMirrorSessionId"])

    @property
    def belongs_to(self) -> tuple[str, ...]:
        names = ("NetworkInterfaceId", "TrafficMirrorTargetId", "OwnerId")
        return tuple(self.view[name] for name in names)

    def is_late(self) -> bool:
        """Whether a call that would show it does not show it yet; it counts the calls."""
        self.hidden_calls -= 1
        return self.hidden_calls >= 0


class SessionStore:
    """The sessions of all accounts."""

    def __init__(self) -> None:
        self.by_id: dict[str, Session] = {}
        # By interface, target and owner.
        self.of: defaultdict[str, dict[str, Session]] = defaultdict(dict)

    def add(self, session: Session) -> None:
        self.by_id[session.id] = session
        for one in session.belongs_to:
            self.of[one][session.id] = session

    def forget(self, session: Session) -> None:
        del self.by_id[session.id]
        for one in session.belongs_to:
            del self.of[one][session.id]


class Sessions:
    """The traffic mirror sessions of an account."""

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
        seen = dict(self._store.of[self.account_id])
        for target_id in self._backend.traffic_mirror_targets:
            seen.update(self._store.of[target_id])
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
        self, caller: Caller, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        token = parameters.get("ClientToken") or str(uuid.uuid4())
        request = {k: v for k, v in parameters.items() if k != "ClientToken"}
        signature = json.dumps(request, sort_keys=True)
        if token in self._idempotency:
            known, answer = self._idempotency[token]
            text = "Arguments on this idempotent request are inconsistent with previous ones."
            refuse_if(known != signature, "IdempotentParameterMismatch", text)
            return answer
        self._check_session(parameters)
        tags = self._check_tags(parameters.get("TagSpecifications") or ())
        names = ("PacketLength", "VirtualNetworkId", "Description", "TrafficMirrorFilterId")
        given = {name: parameters[name] for name in names if name in parameters}
        wanted = ("NetworkInterfaceId", "TrafficMirrorTargetId", "SessionNumber")
        lag = 0 if caller.looking else self.session_lag
        session_id = self.session(*map(parameters.get, wanted), lag=lag, **given)
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
            text = f"'{kind}' is not a valid taggable resource type for this operation."
            refuse_if(kind != "traffic-mirror-session", "InvalidParameterValue", text)
            tags |= {tag["Key"]: tag.get("Value", "") for tag in specification.get("Tags") or ()}
        for key, value in tags.items():
            text = f"The tag policy does not allow the specified value for the tag key: '{key}'."
            refuse_if(value not in self.tag_policy.get(key, {value}), "TagPolicyViolation", text)
        return tags

    def _check_session(self, parameters: Mapping[str, Any]) -> None:
        """All but numbers, which `Configuration` checks; AWS's order is not documented."""
        interface_id = parameters["NetworkInterfaceId"]
        target_id = parameters["TrafficMirrorTargetId"]
        filter_id = parameters["TrafficMirrorFilterId"]
        filters, targets = self._backend.traffic_mirror_filters, self._visible_targets()
        for given, code, noun, known in (
            (filter_id, "TrafficMirrorFilterId", "traffic mirror filter", filters),
            (interface_id, "NetworkInterfaceID", "networkInterface ID", self._backend.enis),
            (target_id, "TrafficMirrorTargetId", "traffic mirror target", targets),
        ):
            text = f"The {noun} '{given}' does not exist"
            refuse_if(given not in known, f"Invalid{code}.NotFound", text)
        self._account_of_target(target_id)._check_target(target_id)
        self._check_source(interface_id)
        self._check_quotas(interface_id, target_id, parameters["SessionNumber"])

    def _check_target(self, target_id: str) -> None:
        """Users report the code for an instance that is not running; for the rest it is a guess.

        A target whose interface is attached to nothing is accepted (not documented).
        """
        target = self._backend.traffic_mirror_targets[target_id]
        interface = self._backend.enis.get(target.network_interface_id)
        host = interface and interface.instance
        wrong = not self._sensor_interfaces(target_id)
        if target.network_interface_id:
            wrong = not interface or (host and host._state.name != "running")
        text = f"What {target_id} consists of is gone, or its instance does not run"
        refuse_if(wrong, "InvalidTrafficMirrorTarget", text)

    def _check_source(self, interface_id: str) -> None:
        """The guide says what cannot be a source; the code is documented for two of the reasons.

        Of what services have made, AWS mirrors interfaces of RDS and ElastiCache only, and these
        without an instance.
        """
        interface = self._backend.enis[interface_id]
        instance, requester = interface.instance, interface.requester_id
        targets = self._backend.traffic_mirror_targets.values()
        receives = any(target.network_interface_id == interface_id for target in targets)
        text = f"{interface_id} is in use by a traffic mirror target"
        refuse_if(receives, "InterfaceInUseByTrafficMirrorTarget", text)
        of_service = interface.requester_managed and requester not in DATABASES
        text = f"{interface_id} is managed by {requester}"
        refuse_if(of_service, "NetworkInterfaceNotSupported", text)
        text = f"{interface_id} is of type {interface.interface_type}, not of type interface"
        refuse_if(interface.interface_type != "interface", "InvalidParameterValue", text)
        text = f"{interface_id} is in an IPv6-only subnet"
        refuse_if(interface.private_ip_address is None, "InvalidParameterValue", text)
        wrong = instance and instance.instance_type in self.unsupported_types
        wrong = wrong or (not instance and requester not in DATABASES)
        text = f"{interface_id} must be attached to a supported instance"
        refuse_if(wrong, "NetworkInterfaceNotSupported", text)

    def _check_quotas(self, interface_id: str, target_id: str, number: int) -> None:
        """The codes are documented but for the session number's.

        The quota of a target counts its sources, whoever's they are: further sessions of one that
        it has are free.
        """
        of_interface = self._store.of[interface_id].values()
        taken = any(session.view["SessionNumber"] == number for session in of_interface)
        text = f"Session number {number} already being used on network interface {interface_id}"
        refuse_if(taken, "InvalidParameterValue", text)
        code = "TrafficMirrorSessionsPerInterfaceLimitExceeded"
        refuse_if(len(of_interface) >= 3, code, "Sessions per interface limit reached (3)")
        owner = self._account_of_target(target_id)
        if owner._backend.traffic_mirror_targets[target_id].network_interface_id:
            to_target = self._store.of[target_id].values()
            sources = {session.view["NetworkInterfaceId"] for session in to_target}
            quota = owner.quota.get(target_id, owner.default_quota)
            full = interface_id not in sources and len(sources) >= quota
            text = f"Sources per interface-target limit reached ({quota})"
            refuse_if(full, "TrafficMirrorSourcesPerTargetLimitExceeded", text)
        text = f"Traffic mirror session limit reached ({self.account_quota})"
        full = len(self._store.of[self.account_id]) >= self.account_quota
        refuse_if(full, "TrafficMirrorSessionLimitExceeded", text)
