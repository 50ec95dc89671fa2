"""Clusters in the middle of things: who runs where, how far, on the papers' cost tables."""

from __future__ import annotations

from msgspec.structs import replace

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState
from genserve.domain.costs import CostData, CostTable, Prices
from genserve.domain.plan import Plan, Start, Yield
from genserve.domain.request import RequestSpec, Stage
from genserve.planners.view import Task, View
from genserve.simulate.calibration import Calibration, load_calibration
from tests.builders import SECOND, History

TABLES = load_calibration("genserve-tables")
"""GenServe's Tables 2 and 3 as printed."""


def free_of_charge(calibration: Calibration = TABLES) -> CostTable:
    """Its costs with every change for nothing, so that literal numbers stay plain."""
    data = calibration.costs
    return CostTable(CostData(data.name, data.stages, Prices(0, 0, 0, 0, 0)))


def a_spec(label: str, name: str, *, calibration: Calibration = TABLES, **changes: object) -> RequestSpec:
    """A request of a class of the calibration; deadline in seconds by ``within``, from time 0."""
    kind = next(c for c in calibration.classes if c.label == label)
    within_s = changes.pop("within", kind.allowance_us / SECOND)
    spec = RequestSpec(name, kind.model, kind.media, kind.shape, kind.steps, 0, 0, slo_class=label)
    return replace(spec, deadline_us=round(float(within_s) * SECOND), **changes)  # type: ignore[arg-type]


class Scene(History):
    """A history with verbs for the usual situations. Everything happens at time ``now_us``."""

    def run(self, spec: RequestSpec, *workers: str, step: int = 0) -> Scene:
        """It denoises on these workers and has just passed a boundary after ``step`` steps."""
        name = spec.request_id
        self.submit(spec)
        names = {s: f"{name}-{s}" for s in Stage}
        at = {"request_ids": (name,), "model": spec.model, "reason": "scene"}
        self.decide(
            Start(names[Stage.ENCODE], stage=Stage.ENCODE, workers=workers[:1], **at),
            Start(names[Stage.DENOISE], stage=Stage.DENOISE, workers=workers, to_step=spec.steps,
                  after=names[Stage.ENCODE], **at),
            Start(names[Stage.DECODE], stage=Stage.DECODE, workers=workers[:1], after=names[Stage.DENOISE], **at),
        )  # fmt: skip
        self.of(name, e.StageStarted(names[Stage.ENCODE], Stage.ENCODE, 0, workers[:1]))
        self.of(name, e.StageFinished(names[Stage.ENCODE], Stage.ENCODE, 0, 0))
        self.of(name, e.StageStarted(names[Stage.DENOISE], Stage.DENOISE, 0, workers))
        return self.steps(spec, step, len(workers))

    def steps(self, spec: RequestSpec, step: int, degree: int) -> Scene:
        if step:
            table = self.state.costs.step_us(spec.model, spec.shape, degree=degree)
            took_us, name = step * table, spec.request_id
            self.of(name, e.StepsFinished(f"{name}-{Stage.DENOISE}", 0, 0, step, took_us, degree))
        return self

    def pause(self, spec: RequestSpec, *workers: str, step: int) -> Scene:
        """It ran there and was stopped."""
        self.run(spec, *workers, step=step)
        self.of(spec.request_id, e.RequestPaused(f"{spec.request_id}-denoise", 0, step, workers[0]))
        return self

    def wait(self, *specs: RequestSpec) -> Scene:
        self.submit(*specs)
        return self

    def at(self, seconds: float) -> ClusterState:
        """The state as seen that many seconds after the start."""
        return replace(self.state, clock_us=round(seconds * SECOND))


def a_scene(gpus: int = 8, *, costs: CostTable | None = None, per_node: int = 8) -> Scene:
    scene = Scene()
    scene.workers(gpus, per_node=per_node).costs(costs or free_of_charge())
    scene.now_us = 1
    return scene


def a_task(state: ClusterState, request_id: str) -> Task:
    return next(t for t in View(state).tasks if t.request_id == request_id)


def started(plan: Plan) -> dict[str, int]:
    """Width of each denoising start by its first request."""
    return {a.request_ids[0]: len(a.workers) for a in plan.actions if isinstance(a, Start) and a.stage is Stage.DENOISE}


def stopped(plan: Plan) -> list[str]:
    """Requests whose running segment is told to stop, in order."""
    return [a.segment_id.rsplit("-", 1)[0] for a in plan.actions if isinstance(a, Yield)]
