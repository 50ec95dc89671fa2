"""A timeline in Chrome's trace format, which Perfetto opens too: a track per GPU, one for decisions, one counter.

Slices are named after their requests, so that viewers, which colour by name, give each request its colour. An arrow
leads from each decision to every segment that it started.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from genserve.audit.timeline import Decision, Slice, Timeline

PROCESS = 1
DECISIONS = 0


def to_trace(timeline: Timeline) -> bytes:
    """JSON; times count from the start of the log."""
    return msgspec.json.encode({"displayTimeUnit": "ms", "traceEvents": list(_events(timeline))})


def _events(timeline: Timeline) -> Iterator[dict[str, Any]]:
    tracks = {worker_id: index for index, worker_id in enumerate(timeline.workers, DECISIONS + 1)}
    yield _meta("process_name", DECISIONS, "GenServe")
    yield _meta("thread_name", DECISIONS, "decisions")
    for worker_id, track in tracks.items():
        yield _meta("thread_name", track, worker_id)
    zero_us = timeline.from_us
    for piece in timeline.slices:
        yield _slice(piece, tracks[piece.worker_id], zero_us)
    first: dict[str, Slice] = {}
    for piece in timeline.slices:
        first.setdefault(piece.segment_id, piece)
    for decision in timeline.decisions:
        yield from _decision(decision, zero_us)
        for segment_id in decision.segments:
            if segment_id in first:
                target = first[segment_id]
                yield from _arrow(segment_id, decision, target, tracks[target.worker_id], zero_us)
    for at_us, depth in timeline.depths:
        yield {"ph": "C", "name": "queue depth", "pid": PROCESS, "ts": at_us - zero_us, "args": {"requests": depth}}
    for life in timeline.lives:
        if life.deadline_us <= timeline.to_us:
            at_us = max(life.deadline_us - zero_us, 0)
            name = f"deadline of {life.request_id}"
            yield {"ph": "i", "s": "p", "name": name, "pid": PROCESS, "tid": DECISIONS, "ts": at_us}


def _meta(kind: str, track: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": PROCESS, "tid": track, "args": {"name": name}}


def _slice(piece: Slice, track: int, zero_us: int) -> dict[str, Any]:
    details = {"segment": piece.segment_id, "steps": piece.steps, "degree": piece.degree, "end": piece.end}
    return {
        "ph": "X",
        "name": "+".join(piece.requests),
        "cat": piece.stage,
        "pid": PROCESS,
        "tid": track,
        "ts": piece.from_us - zero_us,
        "dur": max(piece.to_us - piece.from_us, 1),
        "args": {"stage": piece.stage, **details},
    }


def _decision(decision: Decision, zero_us: int) -> Iterator[dict[str, Any]]:
    yield {
        "ph": "X",
        "name": decision.planner,
        "cat": "decision",
        "pid": PROCESS,
        "tid": DECISIONS,
        "ts": decision.at_us - zero_us,
        "dur": max(decision.took_us, 1),
        "args": {"position": decision.position, "starts": list(decision.segments)},
    }


def _arrow(segment_id: str, decision: Decision, target: Slice, track: int, zero_us: int) -> Iterator[dict[str, Any]]:
    both = {"name": "starts", "cat": "decision", "id": segment_id, "pid": PROCESS}
    yield {**both, "ph": "s", "tid": DECISIONS, "ts": decision.at_us - zero_us}
    yield {**both, "ph": "f", "bp": "e", "tid": track, "ts": target.from_us - zero_us}
