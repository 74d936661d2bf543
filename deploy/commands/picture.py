"""What a sweep would do, gathered for people: what is dark, why, what to do, and which sensor
carries how much. shown.py shows it.

A survey is made from the function's entries and from a few facts about the sensors, all of them
plain named tuples; nothing here asks AWS. Entries come one by one, and only what is shown of them
is kept, so that memory does not grow with the number of sensors.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_network
from typing import Any, NamedTuple

from .aws import read_yaml

# What becomes of an interface, the best first; what is skipped is not meant to be mirrored.
COVERED, PLANNED, MAYBE, ELSEWHERE, DARK = "covered", "planned", "maybe", "elsewhere", "dark"
MEANT, SKIPPED = (COVERED, PLANNED, MAYBE, ELSEWHERE, DARK), "skipped"
# By stage, or by another reason to be dark: what it means, and what to do.
ADVICE: dict[str, list[str]] = read_yaml("advice")
STAGES = tuple(ADVICE)
# AWS allows 10 sources for a target that is a network interface, 100 where the sensor's instance
# has one of a few large sizes, and any number for a load balancer (Traffic Mirroring quotas).
USUAL_SOURCES, MOST_SOURCES = 10, 100
PERMISSION = re.compile(r"\b(?:ec2|sts):[A-Z]\w+")
NO_SENSOR = "No sensor in "  # before a zone or VPC


class Item(NamedTuple):
    """An interface, and what would become of it. The target is that of its session, or the one that
    would be chosen. The name is its instance's Name tag, or the description of a database's
    interface."""

    fate: str
    outcome: str
    reason: str
    interface_id: str | None
    instance_id: str | None
    target_id: str | None
    session_id: str | None
    name: str = ""
    vpc_id: str = ""
    address: str = ""


@dataclass
class Finding:
    """Interfaces over which the same decides: how many, their lowest and highest address. In the
    text {address} stands for the interface's address."""

    text: str
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
        return self.text.replace("{address}", where).rstrip(".")


class Group(NamedTuple):
    """Findings that are shown together, the largest first: what becomes of these interfaces, why
    (a key of advice.yaml, behind 'blocked at ' if they have a session, or a phrase), how many."""

    fate: str
    label: str
    findings: list[Finding]
    total: int

    @property
    def title(self) -> str:
        """Why, with the zones or VPCs that have no sensor."""
        stage = self.label.removeprefix("blocked at ")
        title = ADVICE[stage][0] if stage in ADVICE else stage
        places = [each.text.removeprefix(NO_SENSOR) for each in self.findings]
        if all(each.text.startswith(NO_SENSOR) for each in self.findings):
            more = f" and {len(places) - 3:,} more" if len(places) > 3 else ""
            title = f"{NO_SENSOR}{', '.join(places[:3])}{more}"
        elif stage != self.label:
            title = f"mirrored, but {title}"
        return title[:1].upper() + title[1:]

    @property
    def remedy(self) -> str:
        """What an operator does about it."""
        return ADVICE[self.label.removeprefix("blocked at ")][1]


class Sensor(NamedTuple):
    """A configured target; texts are empty where that is not known. Several zones and VPCs of a
    load balancer are separated by commas."""

    target_id: str
    host_id: str = ""  # of the instance, as its Name tag and type
    name: str = ""
    size: str = ""
    zone: str = ""
    vpc_id: str = ""
    owner: str = ""
    now: int = 0  # sessions that it has, as far as AWS shows them
    limited: bool = True  # whether AWS limits its sources: an interface, not a load balancer
    planned: int = 0  # sessions that it would get
    problem: str = ""  # why no interface can use it; empty if one can, or none was judged

    @property
    def after(self) -> int:
        """The sessions it would have."""
        return self.now + self.planned

    @property
    def tight(self) -> bool:
        """Whether it would get more than AWS takes for certain."""
        return self.planned > self.room(USUAL_SOURCES)

    def room(self, quota: int) -> float:
        """How many more sessions fit if AWS allows so many sources. A target that has more than
        the usual number is certainly of a large size."""
        quota = MOST_SOURCES if self.now > USUAL_SOURCES else quota
        return max(0, quota - self.now) if self.limited else math.inf


@dataclass
class Survey:
    """What would become of every interface of an account."""

    account: str = ""
    region: str = ""
    # The sensors by target ID, in configured order; set before the first entry is added.
    known: dict[str, Sensor] = field(default_factory=dict)
    interfaces: list[Item] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # why something could not be looked at
    lacking: Counter[str] = field(
        default_factory=Counter
    )  # permissions, and the verdicts concerned
    remarks: list[str] = field(default_factory=list)
    _found: dict[tuple[str, str], dict[str, Finding]] = field(default_factory=dict)  # fate, label
    _rejected: dict[str, dict[str, Finding]] = field(default_factory=dict)  # by target, by stage
    _usable: set[str | None] = field(default_factory=set)
    _taken: Counter[str] = field(default_factory=Counter)

    def add(self, entry: Any) -> None:
        """Take note of an entry of the function."""
        if entry.interface_id is None and entry.outcome != "skipped":
            self.unread.append(entry.reason)
            return
        name = vpc_id = address = ""
        if entry.source:
            place, tags = entry.source.interface, entry.source.tags
            name = (tags.get("Name") if entry.instance_id else place.description) or ""
            vpc_id, address = place.vpc_id or "", str(place.address or "")
        for target_id, verdict in entry.choice.verdicts.items():
            if verdict.stage is None:
                self._usable.add(target_id)
            elif verdict.stage not in ("tag", "zone", "vpc"):  # else it is only not meant
                stages = self._rejected.setdefault(target_id, {})
                stages.setdefault(verdict.stage, Finding(cause_of(verdict))).count(address)
            about = dict(pair for each in verdict.findings for pair in each.about)
            texts = f"{verdict.error} {about.get('hints')} {about.get('problem')}"
            self.lacking.update({*PERMISSION.findall(texts)})
        fate, label, text = self._classified(entry)
        ids = (entry.interface_id, entry.instance_id, entry.target_id, entry.session_id)
        item = Item(fate, entry.outcome, entry.reason, *ids, name, vpc_id, address)
        finding = self._found.setdefault((fate, label), {}).setdefault(text, Finding(text))
        finding.count(address)
        finding.items.append(item)
        self.interfaces.append(item)

    def _classified(self, entry: Any) -> tuple[str, str, str]:
        """What becomes of an interface, why, and what decides."""
        if entry.outcome == "skipped":
            return SKIPPED, entry.reason.rstrip("."), ""
        if entry.outcome == "exists" and entry.metric == "Elsewhere":
            return ELSEWHERE, "elsewhere", entry.target_id or ""
        if entry.outcome == "exists":
            self._usable.add(entry.target_id)
            return COVERED, "exists", entry.target_id or ""
        if entry.outcome in ("planned", "created"):
            return *self._fit(entry), entry.target_id or ""
        if entry.outcome in ("failed", "deferred"):
            verdicts = entry.choice.verdicts.values()
            errors = (cause_of(verdict) for verdict in verdicts if verdict.error)
            return DARK, entry.outcome, next(errors, entry.reason)
        return DARK, *darkness(entry)

    def _fit(self, entry: Any) -> tuple[str, str]:
        """Whether AWS takes the session for certain. If AWS refuses the chosen sensor as full, the
        function tries the next best: so the session fits if one of them has room."""
        sensors = [self.known.get(key) or Sensor(key) for key in entry.choice.ranked]
        rank = entry.choice.verdicts[entry.target_id].rank.name
        vpc_id = entry.source.interface.vpc_id or ""
        if rank == "IN_ZONE" and sensors and vpc_id not in (sensors[0].vpc_id or vpc_id):
            rank = "OTHER_VPC"
        for quota, fits in ((USUAL_SOURCES, (PLANNED, rank)), (MOST_SOURCES, (MAYBE, "size"))):
            for sensor in sensors:
                if self._taken[sensor.target_id] < sensor.room(quota):
                    self._taken[sensor.target_id] += 1
                    return fits
        return DARK, "full"

    def groups(self, *fates: str) -> list[Group]:
        """The findings of these fates: fate by fate, the largest first."""
        groups = []
        for (fate, label), found in self._found.items():
            findings = sorted(found.values(), key=lambda finding: -finding.number)
            groups.append(Group(fate, label, findings, sum(each.number for each in findings)))
        groups.sort(key=lambda group: (-group.total, group.label))
        return [group for fate in fates for group in groups if group.fate == fate]

    @property
    def concerns(self) -> list[Group]:
        """What an operator has to act on: what is dark, then what may not fit."""
        return self.groups(DARK, MAYBE)

    @property
    def complete(self) -> bool:
        """Whether all was read, and all that is to be mirrored is or would be, for certain."""
        return not (self.unread or self.concerns)

    def coverage(self) -> dict[str, Counter[str]]:
        """How many interfaces, instances and, where there are any, databases have which fate; what
        is skipped does not count. An instance counts as what its worst interface is."""
        meant = [item for item in self.interfaces if item.fate != SKIPPED]
        worst: dict[str | None, str] = {}
        for item in meant:
            so_far = worst.get(item.instance_id, COVERED)
            worst[item.instance_id] = max(item.fate, so_far, key=MEANT.index)
        worst.pop(None, None)
        databases = Counter(item.fate for item in meant if not item.instance_id)
        rows = {"interfaces": Counter(item.fate for item in meant)}
        rows["instances"] = Counter(worst.values())
        return rows | ({"databases": databases} if databases else {})

    def sensors(self) -> list[Sensor]:
        """The sensors: those that no interface can use, those that may be too full, the others by
        zone; the busiest first."""
        planned = Counter(i.target_id for i in self.interfaces if i.fate in (PLANNED, MAYBE))
        sensors = []
        for target_id, sensor in self.known.items():
            problem, stages = "", self._rejected.get(target_id)
            if stages and target_id not in self._usable:
                stage = max(stages, key=lambda stage: stages[stage].number)
                problem = f"{stage}: {stages[stage]}."
            sensors.append(sensor._replace(planned=planned[target_id], problem=problem))
        return sorted(sensors, key=lambda s: (not s.problem, not s.tight, s.zone, -s.after))

    @property
    def charged(self) -> tuple[int, int]:
        """Interfaces that AWS charges for, now and after: those that have a session, whether or not
        its packets arrive."""
        now = sum(1 for item in self.interfaces if item.session_id and item.fate != ELSEWHERE)
        return now, now + sum(1 for i in self.interfaces if i.fate in (PLANNED, MAYBE))

    def notes(self) -> list[str]:
        """What an operator should know besides, a sentence each."""
        notes = [f"Not everything was read. {reason}" for reason in self.unread]
        for permission, count in self.lacking.items():
            notes.append(f"{permission} is missing and could settle {plural(count, 'verdict')}.")
        if elsewhere := sum(group.total for group in self.groups(ELSEWHERE)):
            targets = "Mirrored to targets that are not configured"
            notes.append(f"{targets}: {elsewhere:,}. These count neither as covered nor as dark.")
        return notes + self.remarks


def darkness(entry: Any) -> tuple[str, str]:
    """Why no sensor can take an interface, or why its packets do not arrive: the stage at which the
    last sensors fell, and what decides over the first of these."""
    verdicts = entry.choice.verdicts
    stages = {key: verdict.stage for key, verdict in verdicts.items() if verdict.stage}
    stage = max(stages.values(), key=STAGES.index, default="unavailable")
    label = f"blocked at {stage}" if entry.outcome == "blocked" else stage
    if not stages:
        return label, entry.reason
    if stage in ("zone", "vpc"):
        # Which sensors there are elsewhere is no news.
        place = getattr(entry.source.interface, "zone" if stage == "zone" else "vpc_id") or "?"
        of_tag = "No sensor that the instance's tag names is in "
        return label, (of_tag if "tag" in stages.values() else NO_SENSOR) + place
    last = [key for key in stages if stages[key] == stage]
    alike = f" (and {plural(len(last) - 1, 'further sensor')})" if len(last) > 1 else ""
    return label, f"{last[0]}{alike}: {cause_of(verdicts[last[0]])}"


def cause_of(verdict: Any) -> str:
    """The finding that rejects, without the interface's address; or the missing answer."""
    if verdict.error or not verdict.findings:
        return own_words(str(verdict))
    text: str = verdict.findings[0].text
    for name, value in verdict.findings[0].about:
        text = text if name == "address" else text.replace(f"{{{name}}}", str(value))
    return text


def own_words(text: str) -> str:
    """What the function says, to an operator who asks AWS with credentials of his own."""
    return text.replace("the function's role", "your AWS identity")


def plural(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
