"""The picture of an account as one page: self-contained, without network and without script.

It says the same as the terminal, in the same order, and lists every interface. It follows the
reader's light or dark scheme, prints, and is read on a phone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from html import escape
from itertools import groupby
from pathlib import Path

from picture import (
    COVERED,
    DARK,
    ELSEWHERE,
    PLANNED,
    SKIPPED,
    WHAT_DARK_MEANS,
    Coverage,
    Finding,
    Interface,
    Kind,
    Load,
    Picture,
    gist,
    percent,
    plural,
    total,
)

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
LEGEND = {
    COVERED: "mirrored now",
    PLANNED: "would be mirrored",
    ELSEWHERE: "mirrored elsewhere",
    DARK: "dark",
}
SHOWN_FINDINGS = 20  # of a kind, above the lists
REASON_LIMIT = 400  # characters of what was found, in a list that may be long
OPEN_LISTS = 50  # interfaces: a list of dark ones no longer than this is open at first


def pieces(picture: Picture, when: datetime | None = None) -> Iterator[str]:
    """The page, piece by piece, so that it need not be in memory whole."""
    headline = escape(picture.headline())
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    # Nothing is loaded and nothing runs, whatever a tag of the account may hold.
    yield '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    yield "style-src 'unsafe-inline'\">\n"
    yield f"<title>{headline} - traffic mirroring preview</title>\n<style>{STYLE}</style>\n"
    yield "</head>\n<body>\n"
    yield from _header(picture, when)
    yield "<main>\n"
    yield from _coverage(*picture.coverage())
    yield from _dark(picture)
    yield from _sensors(picture.loads())
    yield from _planned(picture)
    yield from _skipped(picture)
    yield from _notes(picture)
    yield from _lists(picture)
    yield "</main>\n<footer>\n<p>Made by <code>deploy/preview.sh</code>. A preview reads and "
    yield "decides; it creates and changes nothing.</p>\n</footer>\n</body>\n</html>\n"


def _header(picture: Picture, when: datetime | None) -> Iterator[str]:
    """The answer, and what is dark and why."""
    where = [
        "Traffic mirroring preview",
        f"account {picture.account}" if picture.account else "",
        picture.region or "",
        f"{when:%d %B %Y, %H:%M} UTC" if when else "",
    ]
    yield "<header>\n"
    yield f'<p class="where">{" · ".join(escape(text) for text in where if text)}</p>\n'
    alarm = ' class="alarm"' if picture.stays_dark else ""
    yield f"<h1{alarm}>{escape(picture.headline())}</h1>\n"
    dark = picture.kinds(DARK)
    if dark:
        yield f"<p>{WHAT_DARK_MEANS}</p>\n" if picture.known_dark else ""
        yield '<ul class="why">\n'
        for kind, findings in dark:
            number = total(findings)
            yield f'<li><a href="#{_anchor(kind)}"><span class="count">{number:,}</span> '
            yield f'<span class="what">{escape(_sentence(gist(kind, findings)))}</span>'
            yield f"{_bar([(DARK, number)], picture.interfaces(DARK), 'thin')}</a></li>\n"
        yield "</ul>\n"
    links = {
        "dark": "What stays dark" if dark else "",
        "sensors": "Sensors" if picture.sensors else "",
        "planned": "What would be created" if picture.kinds(PLANNED) else "",
        "skipped": "What is skipped" if picture.kinds(SKIPPED) else "",
        "lists": "Every interface",
    }
    yield '<nav aria-label="On this page">\n<ul>\n'
    yield from (f'<li><a href="#{key}">{text}</a></li>\n' for key, text in links.items() if text)
    yield "</ul>\n</nav>\n</header>\n"


def _coverage(interfaces: Coverage, instances: Coverage) -> Iterator[str]:
    yield '<section aria-labelledby="coverage">\n<h2 id="coverage">Coverage</h2>\n'
    yield f"{_bar(_parts(interfaces), interfaces.all, 'thick')}\n"
    yield '<ul class="legend">\n'
    for (part, count), word in zip(_parts(interfaces), LEGEND.values(), strict=True):
        if count:
            yield f"<li>{_bar([(part, 1)], 1)}{count:,} {word}</li>\n"
    yield '</ul>\n<table class="coverage">\n'
    yield "<caption>An instance counts as covered when all its interfaces do.</caption>\n"
    yield '<thead><tr><td></td><th scope="col">Covered now</th>'
    yield '<th scope="col">Covered after</th></tr></thead>\n<tbody>\n'
    for name, row in (("Interfaces", interfaces), ("Instances", instances)):
        yield f'<tr><th scope="row">{name}</th>'
        for count in (row.now, row.after):
            yield f'<td><span class="big">{percent(count, row.all)}</span> '
            yield f'<span class="soft">{count:,} of {row.all:,}</span></td>'
        yield "</tr>\n"
    yield "</tbody>\n</table>\n</section>\n"


def _parts(coverage: Coverage) -> list[tuple[str, int]]:
    return [
        (COVERED, coverage.now),
        (PLANNED, coverage.planned),
        (ELSEWHERE, coverage.elsewhere),
        (DARK, coverage.dark),
    ]


def _dark(picture: Picture) -> Iterator[str]:
    kinds = picture.kinds(DARK)
    if not kinds:
        return
    yield '<section aria-labelledby="dark">\n<h2 id="dark">What stays dark, and what to do</h2>\n'
    for kind, findings in kinds:
        anchor = _anchor(kind)
        yield f'<div class="case">\n<h3 id="{anchor}">'
        yield f'<span class="count">{total(findings):,}</span> {escape(_sentence(kind.meaning))} '
        yield f'<span class="tag">{escape(kind.label)}</span></h3>\n'
        if kind.remedy:
            yield f'<p class="do"><b>Do this:</b> {_marked(kind.remedy)}</p>\n'
        yield '<ul class="found">\n'
        for finding in findings[:SHOWN_FINDINGS]:
            yield f"<li><b>{len(finding):,}</b> {_marked(_short(finding.text))}"
            yield f"<br>{_examples(finding)}</li>\n"
        more = findings[SHOWN_FINDINGS:]
        if more:
            yield f"<li><b>{total(more):,}</b> {plural(len(more), 'further finding')}, "
            yield "in the lists below</li>\n"
        yield "</ul>\n</div>\n"
    yield "</section>\n"


def _sensors(loads: Sequence[Load]) -> Iterator[str]:
    if not loads:
        return
    scale = max(load.after for load in loads)
    yield '<section aria-labelledby="sensors">\n<h2 id="sensors">Sensors and their load</h2>\n'
    yield "<table>\n<caption>Sessions of each sensor: those it has, then those it would "
    yield "get. The bars of zones have a scale of their own.</caption>\n"
    yield '<thead><tr><th scope="col">Sensor</th><th scope="col" class="wide">Account</th>'
    yield '<th scope="col" class="n">Now</th><th scope="col" class="n">After</th>'
    yield '<th scope="col">Sessions</th></tr></thead>\n'
    by_zone = sorted(loads, key=lambda load: (load.sensor.zone is None, load.sensor.zone or ""))
    zones = [
        (zone or "Zone not known", list(group))
        for zone, group in groupby(by_zone, key=lambda load: load.sensor.zone)
    ]
    zone_scale = max(sum(load.after for load in here) for _, here in zones)
    for zone, here in zones:
        now, planned = sum(load.now for load in here), sum(load.planned for load in here)
        yield '<tbody>\n<tr class="zone"><th scope="rowgroup">'
        yield f'{escape(zone)} <span class="tag">{plural(len(here), "sensor")}</span></th>'
        yield f'<td class="wide"></td><td class="n">{now:,}</td>'
        yield f'<td class="n">{now + planned:,}</td>'
        bar = _bar([(COVERED, now), (PLANNED, planned)], zone_scale)
        yield f'<td class="bar">{bar}</td></tr>\n'
        for load in here:
            yield from _sensor(load, scale)
        yield "</tbody>\n"
    yield "</table>\n</section>\n"


def _sensor(load: Load, scale: int) -> Iterator[str]:
    sensor = load.sensor
    yield f'<tr><th scope="row"><code>{escape(sensor.target_id)}</code></th><td class="wide">'
    yield f"<code>{escape(sensor.account or 'not known')}</code></td>"
    now = "-" if sensor.sessions is None else f"{sensor.sessions:,}"
    yield f'<td class="n">{now}</td><td class="n">{load.after:,}</td>'
    bar = _bar([(COVERED, load.now), (PLANNED, load.planned)], scale, "thin")
    yield f'<td class="bar">{bar}</td></tr>\n'
    if load.problem:
        stage, reason = load.problem
        words = f"Nobody can use it, {stage}: {_short(reason)}"
        yield f'<tr class="problem"><td colspan="5">{_marked(words)}</td></tr>\n'


def _planned(picture: Picture) -> Iterator[str]:
    kinds = picture.kinds(PLANNED)
    if not kinds:
        return
    yield '<section aria-labelledby="planned">\n<h2 id="planned">What would be created</h2>\n'
    yield "<table>\n<caption>Sessions, by what to know about them before you deploy.</caption>\n"
    yield '<thead><tr><th scope="col" class="n">Sessions</th><th scope="col">Where to</th>'
    yield "</tr></thead>\n<tbody>\n"
    for kind, findings in kinds:
        named = [
            f"{len(finding):,} to <code>{escape(finding.evidence)}</code>"
            for finding in findings[:SHOWN_FINDINGS]
        ]
        more = findings[SHOWN_FINDINGS:]
        if more:
            named.append(f"{total(more):,} to {plural(len(more), 'further sensor')}")
        yield f'<tr><td class="n">{total(findings):,}</td><td>{escape(_sentence(kind.meaning))}'
        yield f'<br><span class="soft">{", ".join(named)}</span></td></tr>\n'
    yield "</tbody>\n</table>\n</section>\n"


def _skipped(picture: Picture) -> Iterator[str]:
    kinds = picture.kinds(SKIPPED)
    if not kinds:
        return
    yield '<section aria-labelledby="skipped">\n<h2 id="skipped">What is skipped, and why</h2>\n'
    yield "<table>\n<caption>Not meant to be mirrored, or AWS cannot.</caption>\n"
    yield '<thead><tr><th scope="col" class="n">Interfaces</th><th scope="col">Why</th>'
    yield "</tr></thead>\n<tbody>\n"
    for kind, findings in kinds[:SHOWN_FINDINGS]:
        yield f'<tr><td class="n">{total(findings):,}</td><td>{escape(_short(kind.meaning))}'
        yield f"<br>{_examples(findings[0])}</td></tr>\n"
    more = [findings for _, findings in kinds[SHOWN_FINDINGS:]]
    if more:
        yield f'<tr><td class="n">{sum(map(total, more)):,}</td>'
        yield f"<td>{plural(len(more), 'further reason')}, in the lists below</td></tr>\n"
    yield "</tbody>\n</table>\n</section>\n"


def _notes(picture: Picture) -> Iterator[str]:
    notes = picture.notes()
    if notes:
        yield '<section aria-labelledby="notes">\n<h2 id="notes">Good to know</h2>\n<ul>\n'
        yield from (f"<li>{_marked(note)}</li>\n" for note in notes)
        yield "</ul>\n</section>\n"


def _lists(picture: Picture) -> Iterator[str]:
    """Every interface, in a table for each fate and reason."""
    yield '<section aria-labelledby="lists">\n<h2 id="lists">Every interface</h2>\n'
    yield '<p class="soft screen">Open the lists that you want printed.</p>\n'
    words = {DARK: "Dark", PLANNED: "Would be created", SKIPPED: "Skipped"}
    for fate in (DARK, PLANNED, ELSEWHERE, COVERED, SKIPPED):
        for kind, findings in picture.kinds(fate):
            number = total(findings)
            opened = " open" if fate == DARK and number <= OPEN_LISTS else ""
            title = f"{words[fate]}: {kind.meaning}" if fate in words else _sentence(kind.meaning)
            yield f"<details{opened}>\n<summary><h3>{number:,} · {escape(_short(title))}</h3>"
            yield "</summary>\n"
            yield from _table(fate, kind, findings)
            yield "</details>\n"
    yield "</section>\n"


def _table(fate: str, kind: Kind, findings: Sequence[Finding]) -> Iterator[str]:
    """The interfaces of a kind, with a row of what was found above those it was found of."""
    faces = [face for finding in findings for face in finding.interfaces]
    columns = ["Interface", "Instance"]
    columns += ["Address"] if any(face.address for face in faces) else []
    columns += ["Session"] if any(face.session_id for face in faces) else []
    yield f"<table>\n<caption>{plural(len(faces), 'interface')}</caption>\n<thead><tr>"
    yield from (f'<th scope="col">{column}</th>' for column in columns)
    yield "</tr></thead>\n"
    for finding in findings:
        yield "<tbody>\n"
        if finding.evidence:
            to = "to " if fate in (COVERED, PLANNED, ELSEWHERE) else ""
            yield f'<tr><th scope="rowgroup" colspan="{len(columns)}">{len(finding):,} · '
            yield f"{_marked(_short(to + finding.text))}</th></tr>\n"
        yield from (_row(face, columns) for face in finding.interfaces)
        yield "</tbody>\n"
    yield "</table>\n"


def _row(face: Interface, columns: Iterable[str]) -> str:
    cells = {
        "Interface": face.interface_id,
        "Instance": face.instance_id,
        "Address": face.address,
        "Session": face.session_id,
    }
    row = "".join(f"<td>{escape(cells[column] or '')}</td>" for column in columns)
    return f'<tr class="ids">{row}</tr>\n'


def _bar(parts: Sequence[tuple[str, int]], scale: int, size: str = "") -> str:
    """Counts as a bar of parts. The numbers stand beside it, so it is for the eyes only."""
    drawn, at = [], 0.0
    for part, count in parts:
        width = 100 * count / scale if scale else 0
        if count:
            drawn.append(f'<rect class="{part}" x="{at:.5g}" width="{width:.5g}" height="1"/>')
        at += width
    return (
        f'<svg{f" class={chr(34)}{size}{chr(34)}" if size else ""} viewBox="0 0 100 1" '
        'preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" '
        f'height="1"/>{"".join(drawn)}</svg>'
    )


def _anchor(kind: Kind) -> str:
    return f"dark-{escape(kind.label.replace(' ', '-'))}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _short(text: str) -> str:
    return text if len(text) <= REASON_LIMIT else f"{text[:REASON_LIMIT]}…"


# IDs of resources, names of variables, and what stands between backticks.
_CODE = re.compile(r"\b(?:[a-z]{1,6}-[0-9a-f]{8,17}|[A-Z]+(?:_[A-Z]+)+(?:=\w+)?)\b|`[^`]+`")


def _marked(text: str) -> str:
    """The text with what is code in it marked as such."""
    return _CODE.sub(lambda found: f"<code>{found[0].strip('`')}</code>", escape(text))


def _examples(finding: Finding) -> str:
    shown = finding.interfaces[:3]
    named = ", ".join(
        f"<code>{escape(face.interface_id)}</code> of <code>{escape(face.instance_id)}</code>"
        for face in shown
    )
    more = f" and {len(finding) - len(shown):,} more" if len(finding) > len(shown) else ""
    return f'<span class="soft">{named}{more}</span>'
