"""The third driver of the loop: a heap for a clock and a cost table for workers; not a copy of the scheduler.

The log it writes has the facts of a live log in the same order and is checked against the same laws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.costs import CostTable
from genserve.domain.ids import SCHEDULER_STREAM, request_stream, worker_stream
from genserve.domain.laws import LawBook
from genserve.domain.request import RequestSpec, Stage
from genserve.errors import InvariantBroken
from genserve.planners.admission import Admission
from genserve.planners.interface import Planner
from genserve.scheduling.digest import no_digest
from genserve.scheduling.loop import Loop
from genserve.scheduling.placement import stages_of
from genserve.simulate.agenda import Agenda
from genserve.simulate.fleet import Fleet
from genserve.simulate.truth import Errors, Truth

MAX_ROUNDS = 10_000
"""Batches recorded at one instant before the simulation calls it a livelock."""

MAX_QUIET = 10_000
"""Timers in a row after which nothing was recorded: nothing will happen any more, so the run is over."""

Observer = Callable[[e.Recorded], None]


class Outage(Struct, frozen=True):
    """A worker that is lost at ``from_us`` and, unless ``until_us`` is 0, joins again as the next incarnation."""

    worker_id: str
    from_us: int
    until_us: int = 0


class Scenario(Struct, frozen=True):
    """Everything a run depends on besides the planner."""

    requests: tuple[RequestSpec, ...]
    costs: CostTable
    gpus: int = 8
    gpus_per_node: int = 8
    errors: Errors = Errors()
    outages: tuple[Outage, ...] = ()
    cancels: tuple[tuple[int, str], ...] = ()
    seed: int = 0
    progress_us: int = 0
    deferral: tuple[tuple[float, float], ...] = ()
    placement: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """By worker or pattern, the stages it holds from the start, as in the settings; by default nothing is said."""
    admission: Admission | None = None
    """Without one everything is admitted."""


class Simulation:
    """One run. ``log`` keeps what was recorded unless ``keep_log`` is off; ``decision_us`` are measured wall times."""

    def __init__(
        self,
        planner: Planner,
        *,
        agenda: Agenda,
        fleet: Fleet,
        state: ClusterState | None = None,
        memory: Any = None,
        observers: Sequence[Observer] = (),
        digest: Callable[[ClusterState], str] = no_digest,
        keep_log: bool = True,
        position: int = 0,
        now_us: int = 0,
        admission: Admission | None = None,
    ) -> None:
        self.agenda = agenda
        self.fleet = fleet
        self.loop = Loop(planner, dispatcher=fleet, state=state, memory=memory, digest=digest, admission=admission)
        self.log: list[e.Recorded] = []
        self.decision_us: list[int] = []
        self.facts = 0
        self.now_us = now_us
        self._position = position
        self._versions: dict[str, int] = {}
        self._keep_log = keep_log
        self._observers = tuple(observers)
        self._timer_us = 0

    def say(self, stream: str, event: e.AnyEvent) -> None:
        """Put a fact of the outside world into the current batch."""
        self.fleet.outbox.append((stream, event))

    def run(self, *, until_us: int | None = None, max_facts: int | None = None) -> None:
        """Let everything happen, up to a time or a number of facts if given."""
        quiet, facts = 0, self.facts
        while (at_us := self.agenda.next_us) is not None and quiet < MAX_QUIET:
            if (until_us is not None and at_us > until_us) or (max_facts is not None and self.facts >= max_facts):
                return
            self.now_us = self.fleet.now_us = max(self.now_us, at_us)
            for happening in self.agenda.take(self.now_us):
                happening()
            self.settle()
            quiet = quiet + 1 if facts == self.facts else 0
            facts = self.facts

    def settle(self) -> None:
        """Record what was said, and what follows from it, until nothing more follows at this instant."""
        for _ in range(MAX_ROUNDS):
            said, self.fleet.outbox = self.fleet.outbox, []
            answers = self._observe(self._record(said)) if said else self.loop.react(self.now_us)
            if not answers and not self.fleet.outbox:
                self._set_timer()
                return
            self.fleet.outbox = [*map(self._timed, answers), *self.fleet.outbox]
        planner = self.loop.planner.name
        raise InvariantBroken("livelock", f"{planner} decides without end at {self.now_us} us")

    def _observe(self, batch: list[e.Recorded]) -> list[tuple[str, e.AnyEvent]]:
        answers = self.loop.observe(batch, self.now_us)
        self.fleet.state = self.loop.state
        for recorded in batch:
            if type(recorded.event) in _LOSSES:
                self.fleet.resync(self.loop.state)
                break
        return answers

    def _record(self, said: Iterable[tuple[str, e.AnyEvent]]) -> list[e.Recorded]:
        batch = []
        for stream, event in said:
            self._position += 1
            version = self._versions[stream] = self._versions.get(stream, 0) + 1
            recorded = e.Recorded(self._position, stream, version, self.now_us, event, self.now_us)
            batch.append(recorded)
            for observer in self._observers:
                observer(recorded)
        self.facts += len(batch)
        if self._keep_log:
            self.log.extend(batch)
        return batch

    def _timed(self, answer: tuple[str, e.AnyEvent]) -> tuple[str, e.AnyEvent]:
        """Wall time is taken out of the log, so that equal seeds give equal bytes."""
        stream, event = answer
        if isinstance(event, e.PlanDecided):
            self.decision_us.append(event.took_us)
            event = replace(event, took_us=0)
        return stream, event

    def _set_timer(self) -> None:
        """A planner's wish to be called again, even if nothing happens."""
        wake_us = self.loop.wake_at_us
        if wake_us > self.now_us and wake_us != self._timer_us:
            self._timer_us = wake_us
            self.agenda.put(wake_us, lambda: None)


_LOSSES = frozenset((e.WorkerLost, e.WorkerJoined, e.ActionRefused, e.AttemptFailed))


class Run(Struct, frozen=True):
    """What came out of a simulation; ``log`` is empty where it was not kept."""

    log: tuple[e.Recorded, ...]
    state: ClusterState
    facts: int
    steps: int
    decision_us: tuple[int, ...]
    finished_us: int


def simulate(
    planner: Planner,
    scenario: Scenario,
    *,
    observers: Sequence[Observer] = (),
    digest: Callable[[ClusterState], str] = no_digest,
    keep_log: bool = True,
) -> Run:
    """Run a scenario to its end.

    Raises InvariantBroken ``law_broken`` when the log breaks a law and ``livelock`` when decisions never settle.
    """
    agenda, laws = Agenda(), LawBook()
    truth = Truth(scenario.costs, errors=scenario.errors, seed=scenario.seed, deferral=scenario.deferral)
    fleet = Fleet(agenda, truth, progress_us=scenario.progress_us)
    simulation = Simulation(
        planner,
        agenda=agenda,
        fleet=fleet,
        observers=(laws.watch, *observers),
        digest=digest,
        keep_log=keep_log,
        admission=scenario.admission,
    )
    _open(simulation, scenario)
    simulation.run()
    if laws.violations:
        raise InvariantBroken("law_broken", f"{planner.name}: {laws.violations[0]}")
    return Run(
        tuple(simulation.log),
        simulation.loop.state,
        simulation.facts,
        fleet.steps_run,
        tuple(simulation.decision_us),
        simulation.now_us,
    )


def _open(simulation: Simulation, scenario: Scenario) -> None:
    """The facts every log begins with, and everything from outside put on the agenda."""
    planner, say = simulation.loop.planner, simulation.say
    say(SCHEDULER_STREAM, e.LeaderElected(epoch=1, holder="simulation"))
    say(SCHEDULER_STREAM, e.PlannerChanged(planner.name, planner.digest, planner.parameters()))
    say(SCHEDULER_STREAM, e.CostsUpdated(scenario.costs.data))
    for index in range(scenario.gpus):
        worker_id = worker_name(index)
        node = f"node-{index // scenario.gpus_per_node:03}"
        say(worker_stream(worker_id), e.WorkerJoined(worker_id, 1, node, resident=_resident(scenario, worker_id)))
    simulation.settle()
    for spec in sorted(scenario.requests, key=lambda r: (r.arrival_us, r.request_id)):
        simulation.agenda.put(spec.arrival_us, partial(_arrive, simulation, spec, scenario.admission))
    for at_us, request_id in scenario.cancels:
        simulation.agenda.put(at_us, partial(_cancel, simulation, request_id))
    for outage in scenario.outages:
        _plan_outage(simulation, outage, resident=_resident(scenario, outage.worker_id))


def _resident(scenario: Scenario, worker_id: str) -> tuple[tuple[str, Stage], ...]:
    if not scenario.placement:
        return ()
    models = {c.model for c in scenario.costs.data.stages} | {r.model for r in scenario.requests}
    return stages_of(worker_id, dict(scenario.placement), models)


def _arrive(simulation: Simulation, spec: RequestSpec, admission: Admission | None) -> None:
    verdict_by_us = max(1, simulation.now_us + admission.patience_us) if admission else 0
    simulation.say(request_stream(spec.request_id), e.RequestSubmitted(spec, verdict_by_us))


def _cancel(simulation: Simulation, request_id: str) -> None:
    if request_id in simulation.loop.state.requests:
        simulation.say(request_stream(request_id), e.CancelRequested("simulated"))


def _plan_outage(simulation: Simulation, outage: Outage, *, resident: tuple[tuple[str, Stage], ...]) -> None:
    worker_id = outage.worker_id

    def lose() -> None:
        worker = simulation.loop.state.workers.get(worker_id)
        if worker is not None:
            fact = e.WorkerLost(worker_id, worker.incarnation, "simulated outage")
            simulation.say(worker_stream(worker_id), fact)
            if outage.until_us:
                back = e.WorkerJoined(worker_id, worker.incarnation + 1, worker.node, resident=resident)
                at_us = max(outage.until_us, simulation.now_us + 1)
                simulation.agenda.put(at_us, partial(simulation.say, worker_stream(worker_id), back))

    simulation.agenda.put(outage.from_us, lose)


def worker_name(index: int) -> str:
    """Names sort in the order of numbers."""
    return f"gpu-{index:04}"
