"""Which workers hold a stage's weights, and which are free for another segment; not who should hold or run what.

Where no worker has said what it holds, nothing is known and nothing counts as missing.
"""

from __future__ import annotations

from genserve.domain.cluster import ClusterState, Worker
from genserve.domain.estimate import release_us
from genserve.domain.request import Stage


def is_placed(state: ClusterState) -> bool:
    """Whether the workers have said what they hold."""
    return any(worker.resident for worker in state.workers.values())


def missing(state: ClusterState, workers: tuple[str, ...], model: str, stage: Stage) -> tuple[str, ...]:
    """Those of the workers that have to load the stage first."""
    if not is_placed(state):
        return ()
    key = (model, stage)
    return tuple(w for w in workers if w in state.workers and key not in state.workers[w].resident)


def holders(state: ClusterState, model: str, stage: Stage) -> frozenset[str]:
    """Workers that can run the stage without loading it; where none can, those that are to run it."""
    key = (model, stage)
    found = frozenset(w.worker_id for w in state.workers.values() if key in w.resident)
    return found or places(state, model, stage)


def places(state: ClusterState, model: str, stage: Stage) -> frozenset[str]:
    """Workers that are to run the stage, also those that had to drop it for another one; all where there are none."""
    key = (model, stage)
    found = frozenset(w.worker_id for w in state.workers.values() if key in w.resident or key in (w.displaced or ()))
    return found or frozenset(state.workers)


def denoisers(state: ClusterState) -> frozenset[str]:
    """Workers that are to run some model's denoiser; all where there are none. These are the GPUs to plan with."""
    told = [w for w in state.workers.values() if w.resident]
    found = frozenset(w.worker_id for w in told if any(stage is Stage.DENOISE for _, stage in w.placed))
    return found or frozenset(state.workers)


def is_free(state: ClusterState, worker: Worker) -> bool:
    """Whether a denoising segment would start at once: all that is queued are encodes and decodes of requests whose
    stage before that still runs elsewhere.
    """
    segments = state.segments
    for segment_id in worker.queue:
        segment = segments[segment_id]
        before = None if segment.stage is Stage.DENOISE else segments.get(segment.after)
        if before is None or worker.worker_id in before.workers:
            return False
    return True


def ending(state: ClusterState, worker: Worker) -> str:
    """The last segment of a queue that will have run, or stopped, before a decision could reach an idle worker; ""
    otherwise.

    Another one may be queued behind it, so that no GPU idles while the news of its end travels.
    """
    if not state.dispatch_us or not worker.queue:
        return ""
    return worker.queue[-1] if 0 < release_us(state, worker) <= state.clock_us + lead_us(state) else ""


def lead_us(state: ClusterState) -> int:
    """How far ahead of a worker's end to decide what comes next: a dispatch, and as much again for the decision."""
    return 2 * (state.dispatch_us or 0)


def endings(state: ClusterState) -> dict[str, int]:
    """By the last segment of each queue whose end or stop can be told: from when on others may be queued behind it."""
    if not state.dispatch_us:
        return {}
    lead, busy = lead_us(state), (w for w in state.workers.values() if w.queue)
    return {w.queue[-1]: release - lead for w in busy if (release := release_us(state, w))}
