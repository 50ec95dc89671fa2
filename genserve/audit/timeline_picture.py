"""A timeline as one HTML file with an SVG in it: GPUs above, queue depth, requests with their deadlines below."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from html import escape

from genserve.audit.timeline import Life, Slice, Timeline

LABEL, WIDTH, LANE, GAP, AXIS = 150, 1100, 26, 6, 26
MAX_LIVES = 80
LIGHTNESS = {"encode": 78, "denoise": 58, "decode": 42}
"""A request has one hue; its stages differ in lightness."""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>GenServe timeline</title><style>
body {{ margin: 24px; background: #fbfbf9; color: #22252a; font: 14px system-ui, sans-serif }}
h1 {{ font-size: 19px; margin: 0 0 2px }} p {{ margin: 0 0 14px; color: #5c626b }}
svg {{ display: block; max-width: 100% }}
text {{ font: 12px system-ui, sans-serif; fill: #22252a }}
.quiet {{ fill: #7a818b }}
.lane {{ fill: #eeeeea }} .grid {{ stroke: #dcdcd6 }} .depth {{ fill: #c9d3e4 }}
.slice {{ stroke: #fbfbf9; stroke-width: 1 }}
.deadline {{ stroke: #22252a; stroke-width: 2 }} .late {{ fill: #c0392b }} .name {{ fill: #fff; pointer-events: none }}
</style></head><body><h1>GenServe timeline</h1><p>{summary}</p>
<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{body}</svg></body></html>
"""


def to_html(timeline: Timeline) -> str:
    """A page that needs nothing else; hovering over a slice tells what it is."""
    picture = _Picture(timeline)
    body = "\n".join(picture.draw())
    return _PAGE.format(summary=escape(_summary(timeline)), width=LABEL + WIDTH + 20, height=picture.y + 10, body=body)


def _summary(timeline: Timeline) -> str:
    """Only requests that came to an end of their own are judged."""
    ends = Counter(life.end for life in timeline.lives)
    met = ends["completed"] - sum(life.is_late for life in timeline.lives)
    on_time = f"{met} of {ends['completed'] + ends['failed']} on time"
    rest = [f"{ends[end]} {name}" for end, name in (("cancelled", "cancelled"), ("", "under way")) if ends[end]]
    seconds = (timeline.to_us - timeline.from_us) / 1e6
    return (
        f"{len(timeline.lives)} requests on {len(timeline.workers)} GPUs in {seconds:.1f} s; "
        f"{', '.join([on_time, *rest])}. One colour is one request: "
        "light is encode, dark is decode. A black mark is a deadline, a red bar ended after it."
    )


class _Picture:
    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.y = 0
        self.span_us = max(timeline.to_us - timeline.from_us, 1)

    def x(self, at_us: int) -> float:
        share = (min(max(at_us, self.timeline.from_us), self.timeline.to_us) - self.timeline.from_us) / self.span_us
        return round(LABEL + share * WIDTH, 2)

    def draw(self) -> Iterator[str]:
        yield from self.axis()
        for worker_id in self.timeline.workers:
            yield from self.lane(worker_id)
        yield from self.depth()
        shown = self.timeline.lives[:MAX_LIVES]
        yield from (line for life in shown for line in self.life(life))
        if len(shown) < len(self.timeline.lives):
            yield f'<text class="quiet" x="0" y="{self.y + 12}">and {len(self.timeline.lives) - len(shown)} more</text>'
            self.y += LANE

    def axis(self) -> Iterator[str]:
        """A line every so many whole seconds, about a dozen of them."""
        rows = len(self.timeline.workers) + 2 + min(len(self.timeline.lives), MAX_LIVES)
        bottom = AXIS + rows * (LANE + GAP)
        every = next(s for s in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3600, 1 << 40) if self.span_us / s / 1e6 <= 14)
        for second in range(0, self.span_us // 1_000_000 + 1, every):
            x = self.x(self.timeline.from_us + second * 1_000_000)
            yield f'<line class="grid" x1="{x}" x2="{x}" y1="{AXIS - 6}" y2="{bottom}"/>'
            yield f'<text class="quiet" x="{x}" y="14" text-anchor="middle">{second} s</text>'
        self.y = AXIS

    def lane(self, worker_id: str) -> Iterator[str]:
        yield self.label(worker_id)
        yield f'<rect class="lane" x="{LABEL}" y="{self.y}" width="{WIDTH}" height="{LANE}"/>'
        for piece in self.timeline.slices:
            if piece.worker_id == worker_id:
                yield from self.slice(piece)
        self.y += LANE + GAP

    def slice(self, piece: Slice) -> Iterator[str]:
        x, width = self.x(piece.from_us), max(self.x(piece.to_us) - self.x(piece.from_us), 0.8)
        name = "+".join(piece.requests)
        fill = _colour(piece.requests[0], LIGHTNESS.get(piece.stage, 60))
        text = f"{name} {piece.stage}, {piece.steps} steps, degree {piece.degree}, {piece.segment_id}: {piece.end}"
        box = f'x="{x}" y="{self.y}" width="{width:.2f}" height="{LANE}" fill="{fill}"'
        yield f'<rect class="slice" {box}><title>{escape(text)}</title></rect>'
        room = int(width / 7)
        if room >= 4:
            short = name if len(name) <= room else name[: room - 1] + "…"
            yield f'<text class="name" x="{x + 4}" y="{self.y + 17}">{escape(short)}</text>'

    def depth(self) -> Iterator[str]:
        """How many requests waited, as a filled staircase."""
        most = max((depth for _, depth in self.timeline.depths), default=0) or 1
        yield self.label(f"waiting (up to {most})")
        low = self.y + LANE
        points, last = [f"{LABEL},{low}"], float(low)
        for at_us, depth in (*self.timeline.depths, (self.timeline.to_us, 0)):
            high = round(low - LANE * depth / most, 1)
            points += [f"{self.x(at_us)},{last}", f"{self.x(at_us)},{high}"]
            last = high
        yield f'<polygon class="depth" points="{" ".join(points)}"/>'
        self.y += LANE + GAP

    def life(self, life: Life) -> Iterator[str]:
        end_us = life.ended_us or self.timeline.to_us
        x, deadline = self.x(life.submitted_us), self.x(life.deadline_us)
        yield self.label(life.request_id)
        fill = "" if life.is_late else f' fill="{_colour(life.request_id, 72)}"'
        kind = ' class="late"' if life.is_late else ""
        text = f"{life.request_id}: {life.end or 'live'} after {(end_us - life.submitted_us) / 1e6:.2f} s"
        box = f'x="{x}" y="{self.y + 8}" width="{max(self.x(end_us) - x, 1):.2f}" height="{LANE - 16}"'
        yield f"<rect{kind} {box}{fill}><title>{escape(text)}</title></rect>"
        if life.deadline_us <= self.timeline.to_us:
            yield f'<line class="deadline" x1="{deadline}" x2="{deadline}" y1="{self.y + 2}" y2="{self.y + LANE - 2}"/>'
        else:
            yield f'<text class="quiet" x="{LABEL + WIDTH}" y="{self.y + 17}" text-anchor="end">later →</text>'
        self.y += LANE + GAP

    def label(self, text: str) -> str:
        short = text if len(text) <= 20 else text[:19] + "…"
        return f'<text x="0" y="{self.y + 17}">{escape(short)}</text>'


def _colour(name: str, lightness: int) -> str:
    """The same for the same name, everywhere."""
    return f"hsl({zlib.crc32(name.encode()) % 360} 52% {lightness}%)"
