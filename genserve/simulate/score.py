"""What a run was worth: attainment, latencies, interruptions, use of the GPUs; a fold over its log, not a planner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from genserve.domain import events as e
from genserve.domain.ids import REQUEST_STREAM
from genserve.domain.plan import Defer
from genserve.domain.request import Media, RequestSpec, Stage
from genserve.scheduling.verdicts import REFUSED


class Outcome(Struct, frozen=True):
    """One request's life in numbers; ``finished_us`` is 0 if it never finished.

    A pause is a stop that was followed by waiting; a switch is a change of degree while it ran or across a stop.
    """

    request_id: str
    label: str
    media: Media
    arrival_us: int
    deadline_us: int
    finished_us: int = 0
    pauses: int = 0
    switches: int = 0
    is_refused: bool = False

    @property
    def is_met(self) -> bool:
        return 0 < self.finished_us <= self.deadline_us

    @property
    def latency_us(self) -> int:
        return self.finished_us - self.arrival_us

    @property
    def lateness(self) -> float:
        """How late, in allowances (deadline minus arrival); 0 for a request on time."""
        return max(0.0, (self.finished_us - self.deadline_us) / max(1, self.deadline_us - self.arrival_us))


class _Life:
    __slots__ = ("degree", "finished_us", "is_refused", "pauses", "spec", "stopped_us", "switches")

    def __init__(self, spec: RequestSpec) -> None:
        self.spec = spec
        self.degree = 0
        self.stopped_us = -1
        self.finished_us = 0
        self.pauses = 0
        self.switches = 0
        self.is_refused = False


class Scorer:
    """Watches a log; ``outcomes`` and ``busy_us`` are what it saw."""

    def __init__(self) -> None:
        self.busy_us = 0
        self.refused = 0
        self.deferred = 0
        self._lives: dict[str, _Life] = {}
        self._running: dict[str, tuple[int, int]] = {}

    def watch(self, recorded: e.Recorded) -> None:
        event, now_us = recorded.event, recorded.recorded_us
        kind = type(event)
        if kind is e.StepsFinished:
            return
        if isinstance(event, e.RequestSubmitted):
            self._lives[event.request.request_id] = _Life(event.request)
        elif isinstance(event, e.StageStarted):
            self._running.setdefault(event.segment_id, (now_us, len(event.workers)))
            if event.stage is Stage.DENOISE:
                self._denoise(self._lives[recorded.stream[len(REQUEST_STREAM) :]], event, now_us)
        elif isinstance(event, e.StageFinished | e.RequestPaused):
            began_us, width = self._running.pop(event.segment_id, (now_us, 0))
            self.busy_us += (now_us - began_us) * width
            if isinstance(event, e.RequestPaused):
                self._lives[recorded.stream[len(REQUEST_STREAM) :]].stopped_us = now_us
        elif isinstance(event, e.RequestCompleted):
            self._lives[recorded.stream[len(REQUEST_STREAM) :]].finished_us = now_us
        elif isinstance(event, e.PlanDecided):
            self.deferred += sum(isinstance(a, Defer) for a in event.actions)
        elif isinstance(event, e.RequestFailed) and event.code == REFUSED:
            self.refused += 1
            self._lives[recorded.stream[len(REQUEST_STREAM) :]].is_refused = True

    def _denoise(self, life: _Life, event: e.StageStarted, now_us: int) -> None:
        if life.degree:
            life.pauses += now_us > life.stopped_us >= 0
            life.switches += life.degree != len(event.workers)
        life.degree = len(event.workers)

    def absorb(self, other: Scorer) -> None:
        """Add what another one saw, of other requests and GPUs."""
        self.busy_us += other.busy_us
        self.refused += other.refused
        self.deferred += other.deferred
        self._lives.update(other._lives)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(
            Outcome(
                r,
                x.spec.slo_class,
                x.spec.media,
                x.spec.arrival_us,
                x.spec.deadline_us,
                x.finished_us,
                x.pauses,
                x.switches,
                x.is_refused,
            )
            for r, x in self._lives.items()
        )


class Score(Struct, frozen=True):
    """One run in numbers. Latencies are seconds over requests that finished, by group: all, image, video, labels.

    ``served`` is the share of a group that was finished when the last request arrived: what is starved is finished
    only when nobody comes any more, so starving shows here.
    """

    attainment: dict[str, float]
    served: dict[str, float]
    completed: float
    latency_s: dict[str, dict[str, float]]
    worst_lateness: float
    pauses: float
    switches: float
    utilization: float
    decisions: int
    decision_us: dict[str, float]
    requests: int
    images: int = 0
    refused: float = 0.0
    admitted_on_time: float = 0.0
    heavy_share: float = 0.0


def score(scorer: Scorer, *, gpus: int, decision_us: Sequence[int]) -> Score:
    outcomes = scorer.outcomes
    groups = grouped(outcomes)
    count = max(1, len(outcomes))
    last_us = max((o.arrival_us for o in outcomes), default=0)
    span_us = max((o.finished_us for o in outcomes), default=0) - min((o.arrival_us for o in outcomes), default=0)
    return Score(
        attainment={g: share_met(of) for g, of in groups.items()},
        served={g: sum(0 < o.finished_us <= last_us for o in of) / max(1, len(of)) for g, of in groups.items()},
        completed=sum(o.finished_us > 0 for o in outcomes) / count,
        latency_s={g: _latencies(of) for g, of in groups.items()},
        worst_lateness=max((o.lateness for o in outcomes), default=0.0),
        pauses=sum(o.pauses for o in outcomes) / count,
        switches=sum(o.switches for o in outcomes) / count,
        utilization=scorer.busy_us / max(1, span_us * gpus),
        decisions=len(decision_us),
        decision_us={f"p{p}": percentile(decision_us, p) for p in (50, 99)} | {"max": max(decision_us, default=0)},
        requests=len(outcomes),
        images=sum(o.media is Media.IMAGE for o in outcomes),
        refused=scorer.refused / count,
        heavy_share=scorer.deferred / count,
        admitted_on_time=sum(o.is_met for o in outcomes) / max(1, len(outcomes) - scorer.refused),
    )


def grouped(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """All, by media and by label, each in log order."""
    groups: dict[str, list[Outcome]] = {"all": []}
    for outcome in outcomes:
        for name in ("all", str(outcome.media), outcome.label):
            groups.setdefault(name, []).append(outcome)
    return dict(sorted(groups.items()))


def share_met(outcomes: Sequence[Outcome]) -> float:
    return sum(o.is_met for o in outcomes) / max(1, len(outcomes))


def _latencies(outcomes: Sequence[Outcome]) -> dict[str, float]:
    seconds = [o.latency_us / 1e6 for o in outcomes if o.finished_us]
    if not seconds:
        return {}
    named = {f"p{p}": percentile(seconds, p) for p in (50, 90, 95, 99)}
    return {"mean": sum(seconds) / len(seconds), **named, "max": max(seconds)}


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank; 0 of nothing."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return float(ranked[min(len(ranked) - 1, max(0, -(-len(ranked) * int(percent * 10) // 1000) - 1))])
