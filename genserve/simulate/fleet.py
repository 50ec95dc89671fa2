"""Simulated workers as the loop sees them: they obey decisions and can take over a live cluster. Not a scheduler.

Obeys PlanDecided like the live worker and request actors do: same facts, same order, without latents.
"""

from __future__ import annotations

from functools import partial

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState, Segment
from genserve.domain.plan import Accept, Cancel, Defer, Load, Start, Unload, Yield
from genserve.domain.request import Stage, Status
from genserve.simulate.gpus import Gpus
from genserve.simulate.jobs import Job


class Fleet(Gpus):
    """The dispatcher of a simulation; what it is told takes effect at step boundaries."""

    # ── what the driver tells it ─────────────────────────────────────────────────────────────────────────

    def adopt(self, state: ClusterState) -> None:
        """Take over a live cluster as it stands: queued and running segments go on."""
        self.state = state
        self._queues = {w.worker_id: [] for w in state.workers.values()}
        for segment in state.segments.values():
            self._enqueue(segment)
        for segment in state.segments.values():
            if segment.is_running:
                self._take_over(segment)
        for worker in state.workers.values():
            self._queues[worker.worker_id] = [s for s in worker.queue if s in self._jobs]
        self._start_ready(tuple(self._jobs))
        for request in state.requests.values():
            if request.status is Status.FINISHING and not request.is_answered:
                self._say(request.request_id, e.RequestCompleted(request.attempt))

    def resync(self, state: ClusterState) -> None:
        """After a loss or a refusal: drop what the log says is gone, such as segments of an older attempt."""
        self.state = state
        gone = [q for q in self._queues if q not in state.workers]
        for worker_id in gone:
            del self._queues[worker_id]
        for worker_id in state.workers:
            self._queues.setdefault(worker_id, [])
        stale = [
            r for r, s in self._samples.items() if r not in state.requests or state.requests[r].attempt != s.attempt
        ]
        self._is_settling = True
        for request_id in stale:
            self._leave_all(request_id)
            del self._samples[request_id]
        for request_id in self._samples:
            self._leave_void(request_id)
        for job in [j for j in self._jobs.values() if not j.members and j.workers[0] in gone]:
            del self._jobs[job.segment_id]
        self._is_settling = False
        self._start_ready(tuple(self._jobs))

    def dispatch(self, recorded: e.Recorded) -> None:
        """Do what a committed decision says."""
        decided = recorded.event
        assert isinstance(decided, e.PlanDecided)
        fresh = []
        heard_us = self.now_us + self._truth.dispatch_us
        for action in decided.actions:
            if isinstance(action, Start):
                job = self._enqueue(action)
                job.ready_us = heard_us
                fresh.append(job.segment_id)
            elif isinstance(action, Yield):
                self._yield(action.segment_id)
            elif isinstance(action, Cancel):
                self._cancel(action.request_id)
            elif isinstance(action, Accept):
                self._complete(action.request_id, self._samples[action.request_id])
            elif isinstance(action, Defer):
                del self._samples[action.request_id]
            elif isinstance(action, Load | Unload):
                fresh.append(self._enqueue(self._errand(action)).segment_id)
        if heard_us > self.now_us and fresh:
            self._agenda.put(heard_us, partial(self._start_ready, tuple(fresh)))
        else:
            self._start_ready(fresh)

    # ── revisions: they take effect at the next boundary ─────────────────────────────────────────────────

    def _yield(self, segment_id: str) -> None:
        job = self._jobs.get(segment_id)
        if job is None or job.stopping:
            return
        if not job.is_running:
            self._pause(job)
            return
        if job.stage is not Stage.DENOISE:
            job.stopping = False
            return
        step = job.boundary_after(self.now_us + self._truth.dispatch_us)
        if step >= job.to_step:
            return
        job.stopping = True
        job.to_step = step
        job.ticket += 1
        self._agenda.put(job.time_of(step), partial(self._end, job, job.ticket))

    def _cancel(self, request_id: str) -> None:
        sample = self._samples.get(request_id)
        job = next((self._jobs[s] for s in sample.jobs if s in self._jobs), None) if sample else None
        if job is None:
            return
        if not job.is_running:
            self._pause_one(job, request_id)
            return
        at_us = job.began_us + job.period_us
        if job.stage is Stage.DENOISE:
            at_us = job.time_of(min(job.boundary_after(self.now_us), job.to_step))
        self._agenda.put(at_us, partial(self._drop, job, request_id))

    def _drop(self, job: Job, request_id: str) -> None:
        sample = self._samples.get(request_id)
        if sample is None or not sample.jobs:
            return
        if job.stage is Stage.DENOISE and job.segment_id in sample.jobs:
            self._report_to(job, min(job.to_step, job.boundary_after(self.now_us) - 1))
        self._pause_one(job, request_id)
        if sample.jobs:
            self._cancel(request_id)
        if job.segment_id in self._jobs and job.stage is Stage.DENOISE and job.reported < job.to_step:
            self._shrink(job)

    def _shrink(self, job: Job) -> None:
        """From this boundary on the steps of a batch are those of a smaller one."""
        first = self._samples[job.members[0]].spec
        job.period_us = self._truth.step_us(first, degree=len(job.workers), batch=len(job.members))
        job.from_step, job.began_us = job.reported, self.now_us
        self._plan_reports(job)

    # ── taking over a live cluster ───────────────────────────────────────────────────────────────────────

    def _take_over(self, segment: Segment) -> None:
        """A running segment goes on from its last known boundary."""
        job = self._jobs[segment.segment_id]
        sample = self._samples[job.members[0]]
        job.is_running = True
        job.from_step = job.reported = sample.step if job.stage is Stage.DENOISE else 0
        self._price(job, [self._samples[r] for r in job.members])
        job.began_us = segment.boundary_us
        passed = max(0, self.now_us - job.began_us) // job.period_us
        if job.stage is Stage.DENOISE:
            job.to_step = max(job.to_step, job.reported)
            latest = job.to_step - job.reported
            job.began_us += max(0, passed - latest) * job.period_us
        elif passed:
            job.began_us = self.now_us - job.period_us
        if segment.yielding and job.stage is Stage.DENOISE:
            step = min(job.boundary_after(self.now_us), job.to_step)
            job.stopping, job.to_step = step < job.to_step, step
        self._plan_reports(job)
