"""What a sweep would do, gathered for people: what is dark, why, what to do, and which sensor
carries how much. terminal.txt.j2 and page.html.j2 show it; see shown.py.

A survey is made from the function's entries and from a few facts about the sensors, all of them
plain named tuples; nothing here asks AWS. Entries come one by one, and only what is shown of them
is kept, so that memory does not grow with the number of sensors.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

import yaml

# What becomes of an interface, the best first; what is skipped is not meant to be mirrored.
COVERED, PLANNED, MAYBE, ELSEWHERE, DARK = "covered", "planned", "maybe", "elsewhere", "dark"
MEANT, SKIPPED = (COVERED, PLANNED, MAYBE, ELSEWHERE, DARK), "skipped"
# Of a stage, or another reason to be dark: what it means, and what to do.
ADVICE: dict[str, list[str]] = yaml.safe_load((Path(__file__).parent / "advice.yaml").read_text())
STAGES = tuple(ADVICE)
# AWS allows 10 sources for a target that is a network interface, 100 where the sensor's instance
# has one of a few large sizes, and any number for a load balancer (Traffic Mirroring quotas).
USUAL_SOURCES, MOST_SOURCES = 10, 100
HOURS_A_MONTH = 730
# What to know about a session, by the function's Rank: the first that holds.
CAVEATS = {
    4: "to sensors whose rules cannot be seen (ALLOW_UNVERIFIED)",
    1: "to sensors that packets may not reach: something speaks against each",
    2: "to another Availability Zone (AWS charges for traffic between zones)",
}


class Kind(NamedTuple):
    """What findings have in common that are shown together: what becomes of the interfaces, a
    word for the reason, the same as a phrase, what to do, and whether they are databases'."""

    fate: str
    label: str
    meaning: str
    remedy: str = ""
    databases: bool = False


class Cause(NamedTuple):
    """What decides over an interface: equal for interfaces that belong together.

    Attributes:
        text: a sentence with names in braces; {address} stands for the interface's address.
        about: the names' values, the address left out.
        target_id: the sensor of which it was found; empty if it is about none.
        alike: how many further sensors fall at the same stage.
    """

    text: str
    about: tuple[tuple[str, str], ...] = ()
    target_id: str = ""
    alike: int = 0

    @classmethod
    def plain(cls, sentence: str) -> Cause:
        """From a finished sentence."""
        return cls("{sentence}", (("sentence", sentence),))

    @classmethod
    def of(cls, verdict: Any) -> Cause:
        """From a verdict of the function: the finding that rejects, or the missing answer."""
        if verdict.error or not verdict.findings:
            return cls.plain(str(verdict))
        first = verdict.findings[0]
        return cls(first.text, tuple(pair for pair in first.about if pair[0] != "address"))


class Item(NamedTuple):
    """An interface, and what would become of it; empty or None where there is nothing to say.

    The name is the Name tag of its instance, or what a database's interface is described as. The
    target is that of its session, or the one that would be chosen."""

    fate: str
    outcome: str
    interface_id: str | None
    instance_id: str | None
    target_id: str | None
    session_id: str | None
    name: str = ""
    vpc_id: str = ""
    address: str = ""


@dataclass
class Finding:
    """The interfaces over which the same decides: how many, with which lowest and highest
    address."""

    cause: Cause
    items: list[Item] = field(default_factory=list)
    number: int = 0
    low: int = 2**32
    high: int = 0

    def count(self, address: str) -> None:
        """One more, with this address."""
        self.number += 1
        if address:
            value = int(IPv4Address(address))
            self.low, self.high = min(self.low, value), max(self.high, value)

    def __str__(self) -> str:
        """What decides, with the address or the smallest block that holds all of them."""
        where = "the interface"
        if self.low <= self.high:
            length = 32 - (self.low ^ self.high).bit_length()
            block = ip_network((self.low, length), strict=False)
            where = str(block[0]) if length == 32 else f"addresses in {block}"
        cause = self.cause
        text = cause.text.format(**dict(cause.about), address=where).rstrip(".")
        alike = f" (and {plural(cause.alike, 'further sensor')})" if cause.alike else ""
        return f"{cause.target_id}{alike}: {text}" if cause.target_id else text


class Group(NamedTuple):
    """A kind with its findings, the largest first."""

    kind: Kind
    findings: list[Finding]
    total: int

    @property
    def title(self) -> str:
        """The meaning, with the zones or VPCs that have no sensor."""
        meaning = self.kind.meaning
        places = [dict(finding.cause.about).get("place", "") for finding in self.findings]
        if all(places):
            more = f" and {len(places) - 3:,} more" if len(places) > 3 else ""
            meaning = f"no sensor in {', '.join(places[:3])}{more}"
        return f"databases: {meaning}" if self.kind.databases else meaning


class Sensor(NamedTuple):
    """A configured target.

    Attributes:
        name, size: Name tag and type of the instance that hosts it.
        zone, vpc_id: where it is; several, separated by commas, for a load balancer.
        owner: the account that owns the target.
        now: the sessions it has, as far as AWS shows them.
        limited: whether AWS limits its sources: an interface, not a load balancer.
        planned: the sessions it would get.
        problem: why no interface can use it; empty if one can, or none was judged.
    """

    target_id: str
    name: str = ""
    size: str = ""
    zone: str = ""
    vpc_id: str = ""
    owner: str = ""
    now: int = 0
    limited: bool = True
    planned: int = 0
    problem: str = ""

    @property
    def after(self) -> int:
        """The sessions it would have."""
        return self.now + self.planned

    @property
    def tight(self) -> bool:
        """Whether it would get more than AWS takes for certain."""
        return self.planned > self.room(USUAL_SOURCES)

    def room(self, quota: int) -> float:
        """How many more sessions fit if AWS allows the target so many sources."""
        if not self.limited:
            return math.inf
        # One that has more than the usual number is of a large size.
        return max(0, (MOST_SOURCES if self.now > USUAL_SOURCES else quota) - self.now)


class Coverage(NamedTuple):
    """How many interfaces, instances or databases there are to be mirrored, how many are, how many
    would be for certain, and how many have which fate."""

    what: str
    all: int
    now: int
    after: int
    parts: list[tuple[str, int]]


class Survey:
    """What would become of every interface of an account.

    Attributes:
        account, region: where that is.
        known: the sensors by target ID, in configured order; set before the first entry is added.
        interfaces: every interface.
        remarks: what else there is to say, a sentence each.
        unread: why a part of the account could not be looked at.
        lacking: permissions without which interfaces could not be judged; how many interfaces.
        settling: permissions without which a verdict stands on less; how many verdicts.
    """

    def __init__(self, account: str = "", region: str = "") -> None:
        self.account, self.region = account, region
        self.known: Mapping[str, Sensor] = {}
        self.interfaces: list[Item] = []
        self.remarks: list[str] = []
        self.unread: list[str] = []
        self.lacking: Counter[str] = Counter()
        self.settling: Counter[str] = Counter()
        self._groups: dict[Kind, dict[Cause, Finding]] = {}
        self._usable: set[str | None] = set()
        self._rejected: dict[str, dict[str, Finding]] = {}  # by target ID and stage
        self._taken: Counter[str] = Counter()

    def add(self, entry: Any) -> None:
        """Take note of an entry of the function."""
        if entry.interface_id is None and entry.outcome != "skipped":
            self.unread.append(entry.reason)
            return
        place = entry.source.interface if entry.source else None
        address = str(place.address or "") if place else ""
        for target_id, verdict in (entry.choice.verdicts if entry.choice else {}).items():
            self._add_verdict(target_id, verdict, address)
        kind, cause = self._classified(entry)
        database = place is not None and entry.instance_id is None
        name = entry.source.tags.get("Name", "") if place and not database else ""
        item = Item(
            kind.fate,
            *(entry.outcome, entry.interface_id, entry.instance_id),
            *(entry.target_id, entry.session_id),
            *((place.description if database else name, place.vpc_id or "") if place else ()),
            *([address] if place else ()),
        )
        findings = self._groups.setdefault(kind._replace(databases=database), {})
        findings.setdefault(cause, Finding(cause)).count(address)
        findings[cause].items.append(item)
        self.interfaces.append(item)

    def _add_verdict(self, target_id: str, verdict: Any, address: str) -> None:
        if verdict.stage is None:
            self._usable.add(target_id)
        elif verdict.stage not in ("tag", "zone", "vpc"):  # there it is only not meant
            stages = self._rejected.setdefault(target_id, {})
            if verdict.stage not in stages:
                stages[verdict.stage] = Finding(Cause.of(verdict))
            stages[verdict.stage].count(address)

    def _classified(self, entry: Any) -> tuple[Kind, Cause]:
        """What an interface has in common with others."""
        target = Cause.plain(entry.target_id or "")
        if entry.outcome == "skipped":
            return Kind(SKIPPED, "skipped", entry.reason.rstrip(".")), Cause("")
        if entry.outcome == "exists" and entry.metric == "Elsewhere":
            meaning = "mirrored to targets that are not configured"
            return Kind(ELSEWHERE, "elsewhere", meaning), target
        if entry.outcome == "exists":
            self._usable.add(entry.target_id)
            return Kind(COVERED, "exists", "mirrored already"), target
        if entry.outcome in ("planned", "created"):
            return self._fit(entry), target
        if entry.outcome in ("failed", "deferred"):
            verdicts = entry.choice.verdicts.values() if entry.choice else ()
            errors = (Cause.of(verdict) for verdict in verdicts if verdict.error)
            cause = next(errors, Cause.plain(entry.reason))
            return Kind(DARK, entry.outcome, *ADVICE[entry.outcome]), cause
        return darkness(entry)

    def _fit(self, entry: Any) -> Kind:
        """Whether AWS takes the session for certain. If AWS refuses the chosen sensor as full, the
        function tries the next best: so the session fits if one of them has room."""
        for quota in (USUAL_SOURCES, MOST_SOURCES):
            for target_id in entry.choice.ranked:
                sensor = self.known.get(target_id) or Sensor(target_id)
                if self._taken[target_id] < sensor.room(quota):
                    self._taken[target_id] += 1
                    if quota == MOST_SOURCES:
                        return Kind(MAYBE, "size", *ADVICE["size"])
                    return Kind(PLANNED, entry.outcome, self._caveat(entry))
        return Kind(DARK, "full", *ADVICE["full"])

    def _caveat(self, entry: Any) -> str:
        """What to know about a session before it is created."""
        rank = entry.choice.verdicts[entry.target_id].rank
        if caveat := next((text for bit, text in CAVEATS.items() if rank & bit), ""):
            return caveat
        there = self.known.get(entry.target_id)
        if there and there.vpc_id and entry.source.interface.vpc_id not in there.vpc_id:
            return "to sensors in another VPC (what lies beyond the route is not checked)"
        return "to sensors in the same Availability Zone"

    def groups(self, *fates: str) -> list[Group]:
        """The findings of these fates by kind: fate by fate, the largest first."""
        groups = []
        for kind, found in self._groups.items():
            if kind.fate in fates:
                findings = sorted(found.values(), key=lambda finding: -finding.number)
                groups.append(Group(kind, findings, sum(each.number for each in findings)))
        return sorted(groups, key=lambda g: (fates.index(g.kind.fate), -g.total, g.kind))

    @property
    def concerns(self) -> list[Group]:
        """What an operator has to act on: what is dark, then what may not fit."""
        return self.groups(DARK, MAYBE)

    @property
    def complete(self) -> bool:
        """Whether everything was read, and all that is meant to be mirrored is or would be, for
        certain."""
        return not (self.unread or self.concerns)

    def coverage(self) -> list[Coverage]:
        """Of interfaces, of instances, and of databases where there are any. An instance counts as
        what its worst interface is."""
        meant = [item for item in self.interfaces if item.fate != SKIPPED]
        worst: dict[str, str] = {}
        for item in meant:
            if key := item.instance_id:
                worst[key] = max(item.fate, worst.get(key, COVERED), key=MEANT.index)
        rows = {
            "interfaces": Counter(item.fate for item in meant),
            "instances": Counter(worst.values()),
            "databases": Counter(item.fate for item in meant if not item.instance_id),
        }
        return [
            Coverage(
                *(what, sum(fates.values()), fates[COVERED], fates[COVERED] + fates[PLANNED]),
                [(fate, fates[fate]) for fate in MEANT],
            )
            for what, fates in rows.items()
            if fates or what != "databases"
        ]

    def sensors(self) -> list[Sensor]:
        """The sensors: those that no interface can use, those that may be too full, the others by
        zone; the busiest first."""
        planned = Counter(i.target_id for i in self.interfaces if i.outcome == "planned")
        sensors = [
            sensor._replace(planned=planned[key], problem=self._problem(key))
            for key, sensor in self.known.items()
        ]
        return sorted(sensors, key=lambda s: (not s.problem, not s.tight, s.zone, -s.after))

    def _problem(self, target_id: str) -> str:
        stages = self._rejected.get(target_id)
        if not stages or target_id in self._usable:
            return ""
        stage = max(stages, key=lambda stage: stages[stage].number)
        return f"{stage}: {stages[stage]}."

    def headline(self) -> str:
        """The answer in one sentence."""
        row = self.coverage()[0]
        fates, number = dict(row.parts), plural(row.all, "interface")
        only_if = f"only if your sensors are of sizes that take {MOST_SOURCES}"
        if fates[DARK]:
            rest = f", {fates[MAYBE]:,} more fit {only_if}" if fates[MAYBE] else ""
            return f"{fates[DARK]:,} of {number} would stay dark{rest}"
        if self.unread:
            return "The account could not be read to its end"
        if fates[MAYBE]:
            certain = f"{row.after:,} of {row.all:,} would be mirrored for certain"
            return f"{certain}, {fates[MAYBE]:,} more {only_if}"
        if not row.all:
            return "There is no interface to be mirrored"
        return f"All {number} {'would be' if fates[PLANNED] else 'are'} mirrored"

    def cost(self) -> str:
        """What AWS charges for: every hour of an interface that has a session, whether or not its
        packets arrive."""
        now = sum(1 for item in self.interfaces if item.session_id and item.fate != ELSEWHERE)
        after = now + sum(1 for item in self.interfaces if item.outcome == "planned")
        return (
            f"AWS charges by interface hours: {now * HOURS_A_MONTH:,} a month now, "
            f"{after * HOURS_A_MONTH:,} after ({plural(after, 'interface')} x {HOURS_A_MONTH} "
            "hours); see VPC pricing, Traffic Mirroring."
        )

    def notes(self) -> list[str]:
        """What an operator should know besides, a sentence each."""
        notes = [f"Not everything was read. {reason}" for reason in self.unread]
        for permission, count in sorted(self.lacking.items()):
            judged = f"{plural(count, 'interface')} could not be judged"
            notes.append(f"{permission} is missing: {judged}.")
        if elsewhere := sum(group.total for group in self.groups(ELSEWHERE)):
            targets = (
                f"Mirrored to targets that are not configured: {plural(elsewhere, 'interface')}"
            )
            notes.append(f"{targets}. These count neither as covered nor as dark.")
        for permission, count in sorted(self.settling.items()):
            notes.append(f"{permission} is missing and could settle {plural(count, 'verdict')}.")
        return notes + self.remarks


def darkness(entry: Any) -> tuple[Kind, Cause]:
    """The kind of an interface that no sensor can take or whose packets do not arrive: the stage
    at which the last sensors fell, and what decides over the first of these."""
    verdicts = entry.choice.verdicts if entry.choice else {}
    rejected = {key: verdict for key, verdict in verdicts.items() if verdict.stage}
    stages = [verdict.stage for verdict in rejected.values()]
    stage = max(stages, key=STAGES.index, default="unavailable")
    kind = Kind(DARK, stage, *ADVICE[stage])
    if entry.outcome == "blocked":
        meaning = f"mirrored, but {kind.meaning}"
        kind = kind._replace(label=f"blocked at {stage}", meaning=meaning)
    if not rejected:
        return kind, Cause.plain(entry.reason)
    if stage in ("zone", "vpc"):
        # Which sensors there are elsewhere is no news.
        place = entry.source.interface
        name = (place.zone if stage == "zone" else place.vpc_id) or "an unknown place"
        if "tag" in stages:
            return kind, Cause(
                "No sensor that the instance's tag names is in {at}", (("at", name),)
            )
        return kind, Cause("No sensor in {place}", (("place", name),))
    last = [key for key, verdict in rejected.items() if verdict.stage == stage]
    return kind, Cause.of(rejected[last[0]])._replace(target_id=last[0], alike=len(last) - 1)


def plural(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
