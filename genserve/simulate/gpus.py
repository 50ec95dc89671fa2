"""Simulated GPUs: segments queue, run, are paused and report the facts a real cluster reports; not who tells them to.

Also the weights they hold: what a segment lacks is loaded before it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from genserve.domain import events as e
from genserve.domain.cluster import ClusterState, Segment
from genserve.domain.ids import request_stream, worker_stream
from genserve.domain.placement import missing
from genserve.domain.plan import Load, Start, Unload
from genserve.domain.request import Stage
from genserve.simulate.agenda import Agenda
from genserve.simulate.jobs import Job, Sample
from genserve.simulate.truth import Truth


class Gpus:
    """All simulated GPUs. Facts are put into ``outbox`` as (stream, event) for the driver to record at once."""

    def __init__(self, agenda: Agenda, truth: Truth, *, progress_us: int = 0) -> None:
        self.outbox: list[tuple[str, e.AnyEvent]] = []
        self.now_us = 0
        self.state = ClusterState()
        self.steps_run = 0
        self._agenda = agenda
        self._truth = truth
        self._progress_us = progress_us
        self._is_settling = False
        self._jobs: dict[str, Job] = {}
        self._queues: dict[str, list[str]] = {}
        self._followers: dict[str, list[str]] = {}
        self._samples: dict[str, Sample] = {}
        self._errands = 0

    # ── segments ─────────────────────────────────────────────────────────────────────────────────────────

    def _enqueue(self, start: Start | Segment) -> Job:
        job = self._jobs[start.segment_id] = Job(start)
        for worker_id in job.workers:
            self._queues.setdefault(worker_id, []).append(job.segment_id)
        for request_id in job.members:
            self._sample(request_id).jobs.append(job.segment_id)
        if job.after:
            self._followers.setdefault(job.after, []).append(job.segment_id)
        return job

    def _sample(self, request_id: str) -> Sample:
        sample = self._samples.get(request_id)
        if sample is None:
            sample = self._samples[request_id] = Sample(self.state.requests[request_id])
        return sample

    def _start_ready(self, candidates: Iterable[str]) -> None:
        if self._is_settling:
            return
        for segment_id in candidates:
            job = self._jobs.get(segment_id)
            if job is None or job.is_running or job.after in self._jobs or job.ready_us > self.now_us:
                continue
            if all(self._is_next(job, worker_id) for worker_id in job.workers):
                self._start(job)

    def _is_next(self, job: Job, worker_id: str) -> bool:
        """Nobody runs there, and whoever is ahead waits for another worker; groups don't pass groups."""
        queue = [self._jobs[segment_id] for segment_id in self._queues[worker_id]]
        if queue[0] is job:
            return not any(other.is_running for other in queue)
        ahead = queue[: queue.index(job)]
        is_passable = all(
            other.after in self._jobs and not (len(other.workers) > 1 and len(job.workers) > 1) for other in ahead
        )
        return is_passable and not any(other.is_running for other in queue)

    def _start(self, job: Job) -> None:
        if not job.members:
            self._run_errand(job)
            return
        samples = [self._samples[r] for r in job.members]
        first = samples[0]
        at_step = first.step if job.stage is Stage.DENOISE else 0
        if job.from_step not in (None, at_step):
            message = f"{job.members[0]} is at step {at_step}, not {job.from_step}"
            self._say(job.members[0], e.ActionRefused(job.segment_id, job.workers[0], "wrong_step", message))
            return
        job.is_running = True
        job.from_step = job.reported = at_step
        lacking = missing(self.state, job.workers, job.model, job.stage)
        if lacking:
            job.began_us = self.now_us + self._truth.prices.load_us
            self._agenda.put(job.began_us, partial(self._loaded, job, lacking))
        else:
            self._begin(job)

    def _loaded(self, job: Job, lacking: tuple[str, ...]) -> None:
        """The weights that were missing are there: the segment begins, unless it is void by now."""
        if self._jobs.get(job.segment_id) is job:
            for worker_id in lacking:
                self._say_loaded(worker_id, job)
            self._begin(job)

    def _begin(self, job: Job) -> None:
        samples = [self._samples[r] for r in job.members]
        at_step = job.reported
        self._price(job, samples)
        batch = len(samples)
        for request_id, sample in zip(job.members, samples, strict=True):
            fact = e.StageStarted(job.segment_id, job.stage, sample.attempt, job.workers, batch, at_step)
            self._say(request_id, fact)
            if job.stage is Stage.DENOISE:
                sample.was_paused = False
                sample.degree = len(job.workers)
            sample.home = job.workers[0]
        self._plan_reports(job)

    def _price(self, job: Job, samples: list[Sample]) -> None:
        spec, batch = samples[0].spec, len(samples)
        if job.stage is Stage.DENOISE:
            job.period_us = self._truth.step_us(spec, degree=len(job.workers), batch=batch)
            before = [(s.was_paused, s.degree, s.home) for s in samples]
            job.paid_us = self._truth.start_us(before, job.workers)
        else:
            job.period_us = self._truth.stage_us(spec, job.stage, batch=batch)
        job.began_us = self.now_us + job.paid_us

    def _plan_reports(self, job: Job) -> None:
        """Put its end on the agenda, and its first step too: that is when an estimate is first corrected."""
        job.ticket += 1
        end_us = job.time_of(job.to_step) if job.stage is Stage.DENOISE else job.began_us + job.period_us
        self._agenda.put(end_us, partial(self._end, job, job.ticket))
        if job.stage is Stage.DENOISE and job.to_step > job.reported + 1:
            first_us = job.time_of(job.reported + 1)
            self._agenda.put(first_us, partial(self._report, job, job.ticket))

    def _report(self, job: Job, ticket: int) -> None:
        if job.ticket != ticket or job.segment_id not in self._jobs:
            return
        self._report_to(job, min(job.to_step, job.boundary_after(self.now_us) - 1))
        if self._progress_us:
            step = max(job.reported + 1, job.boundary_after(self.now_us + self._progress_us) - 1)
            if step < job.to_step:
                self._agenda.put(job.time_of(step), partial(self._report, job, ticket))

    def _report_to(self, job: Job, step: int) -> None:
        if step <= job.reported:
            return
        took_us = (step - job.reported) * job.period_us
        batch, degree = len(job.members), len(job.workers)
        for request_id in job.members:
            sample = self._samples[request_id]
            fact = e.StepsFinished(job.segment_id, sample.attempt, job.reported, step, took_us, degree, batch)
            self._say(request_id, fact)
            sample.step = step
        self.steps_run += (step - job.reported) * batch
        job.reported = step

    def _end(self, job: Job, ticket: int) -> None:
        if job.ticket != ticket or job.segment_id not in self._jobs:
            return
        if job.stage is Stage.DENOISE:
            self._report_to(job, job.to_step)
        if job.stopping:
            self._pause(job)
        else:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        took_us = self.now_us - job.began_us
        for request_id in job.members:
            sample = self._samples[request_id]
            void = self._split_at_stop(sample, job)[1] if job.stage is Stage.DENOISE else []
            sample.jobs.remove(job.segment_id)
            self._say(request_id, e.StageFinished(job.segment_id, job.stage, sample.attempt, took_us))
            if void:
                self._leave(request_id, void)
            if job.stage is Stage.DECODE:
                self._answer(request_id, sample)
        self._remove(job)

    def _answer(self, request_id: str, sample: Sample) -> None:
        """The pixels exist: done, or for the light model of a cascade, scored."""
        if sample.spec.heavy_model:
            self._say(request_id, e.AnswerScored(sample.attempt, self._truth.score_permille(sample.spec)))
        else:
            self._complete(request_id, sample)

    def _complete(self, request_id: str, sample: Sample) -> None:
        """The result is stored a while after its pixels exist."""
        store_us = self._truth.store_us(sample.spec)
        if store_us:
            self._agenda.put(self.now_us + store_us, partial(self._store, request_id, sample))
        else:
            self._store(request_id, sample)

    def _store(self, request_id: str, sample: Sample) -> None:
        """Unless the attempt is over by now; a cancel that came first wins."""
        if self._samples.get(request_id) is not sample:
            return
        del self._samples[request_id]
        request = self.state.requests.get(request_id)
        is_cancelled = request is not None and request.cancelling
        end = e.RequestCancelled("simulated") if is_cancelled else e.RequestCompleted(sample.attempt)
        self._say(request_id, end)

    def _pause(self, job: Job) -> None:
        for request_id in tuple(job.members):
            self._pause_one(job, request_id)

    def _pause_one(self, job: Job, request_id: str) -> None:
        sample = self._samples[request_id]
        sample.was_paused = sample.was_paused or job.is_running
        self._say(request_id, e.RequestPaused(job.segment_id, sample.attempt, sample.step, sample.home))
        self._leave(request_id, tuple(self._split_at_stop(sample, job)[0]))

    def _split_at_stop(self, sample: Sample, job: Job) -> tuple[list[str], list[str]]:
        """A request's segments that run if that one does not stop, and those that go on from its stop."""
        jobs = sample.jobs
        if job.segment_id in jobs:
            for index in range(jobs.index(job.segment_id) + 1, len(jobs)):
                if self._jobs[jobs[index]].is_open:
                    return jobs[:index], jobs[index:]
        return jobs, []

    def _leave_void(self, request_id: str) -> None:
        """Out of the segments that the log has voided while those before them go on."""
        self._leave(request_id, [s for s in self._samples[request_id].jobs if s not in self.state.segments])

    def _leave_all(self, request_id: str) -> None:
        self._leave(request_id, tuple(self._samples[request_id].jobs))

    def _leave(self, request_id: str, segment_ids: Sequence[str]) -> None:
        """Out of some of its segments, queued ones too; the last member to leave frees the group."""
        sample = self._samples[request_id]
        sample.jobs = [s for s in sample.jobs if s not in segment_ids]
        for segment_id in reversed(segment_ids):
            job = self._jobs.get(segment_id)
            if job is not None:
                job.members.remove(request_id)
                if not job.members:
                    self._remove(job)

    def _remove(self, job: Job) -> None:
        """Free its group; whatever waited for that starts now."""
        del self._jobs[job.segment_id]
        next_up = self._followers.pop(job.segment_id, [])
        for worker_id in job.workers:
            queue = self._queues.get(worker_id)
            if queue is not None:
                queue.remove(job.segment_id)
                next_up.extend(queue)
        self._start_ready(next_up)

    # ── residency ────────────────────────────────────────────────────────────────────────────────────────

    def _errand(self, action: Load | Unload) -> Start:
        """A load or an unload in its worker's queue, as a segment of nobody."""
        self._errands += 1
        kind = "load" if isinstance(action, Load) else "unload"
        workers = (action.worker_id,)
        return Start(f"{kind}-{self._errands}", (), action.model, action.stage, workers, action.reason)

    def _run_errand(self, job: Job) -> None:
        job.is_running = True
        is_load = job.segment_id.startswith("load")
        needed = is_load == bool(missing(self.state, job.workers, job.model, job.stage))
        price = self._truth.prices.load_us if is_load and needed else 0
        self._agenda.put(self.now_us + price, partial(self._end_errand, job, is_load=is_load, is_needed=needed))

    def _end_errand(self, job: Job, *, is_load: bool, is_needed: bool) -> None:
        if self._jobs.get(job.segment_id) is not job:
            return
        if is_needed and is_load:
            self._say_loaded(job.workers[0], job)
        elif is_needed:
            fact = e.StageUnloaded(job.workers[0], job.model, job.stage, memory_bytes=self._memory_of(job))
            self._say_worker(job.workers[0], fact)
        self._remove(job)

    def _say_loaded(self, worker_id: str, job: Job) -> None:
        took_us = self._truth.prices.load_us
        self._say_worker(worker_id, e.StageLoaded(worker_id, job.model, job.stage, took_us, self._memory_of(job)))

    def _memory_of(self, job: Job) -> int:
        return self._truth.costs.data.memory_bytes.get(f"{job.model}/{job.stage}", 0)

    # ── facts ────────────────────────────────────────────────────────────────────────────────────────────

    def _say(self, request_id: str, event: e.AnyEvent) -> None:
        self.outbox.append((request_stream(request_id), event))

    def _say_worker(self, worker_id: str, event: e.AnyEvent) -> None:
        self.outbox.append((worker_stream(worker_id), event))
