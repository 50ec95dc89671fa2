"""The whole system in one process, its spans sent to a collector: what is seen live is what the log says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from genserve.api.app import create_app
from genserve.diffusion.catalog import Catalog
from genserve.domain import events as e
from genserve.scheduling.telemetry import Translator
from observability.tracing import ENDPOINTS, setup_tracing
from tests.actors.cell import LocalCell
from tests.actors.fake_runner import FakeRunner
from tests.actors.virtual_time import run
from tests.capture import captured_log
from tests.observability.receiver import Received, Receiver, otlp_receiver

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "gs-0123456789"
VIDEO = {"model": "tiny-wan", "prompt": "a walrus in the snow", "num_inference_steps": 8, "slo_ms": 600_000}
IMAGE = {"model": "tiny-sd3", "prompt": "a walrus indoors", "num_inference_steps": 3, "slo_ms": 10_000}


class Seen(NamedTuple):
    """One run of the system: what it told, and its log."""

    collector: Receiver
    log: list[e.Recorded]
    lines: list[dict[str, object]]
    text: str
    page: str
    video: str
    image: str

    @property
    def spans(self) -> set[tuple[object, ...]]:
        return {
            (s.name, s.trace_id, s.span_id, s.parent_id, s.start_us, s.end_us, s.links) for s in self.collector.spans
        }


async def _serve(folder: Path) -> tuple[list[e.Recorded], str, str, str]:
    """A video, and an image for which it is paused, over HTTP on one worker: (log, metrics, ids)."""
    cell = await LocalCell(folder, workers=1).start()
    app = create_app(cell.gateway, Catalog.load(), cell.settings, clock=cell.loop.clock_us)
    headers = {"authorization": f"Bearer {SECRET}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers=headers, timeout=None
    ) as client:
        video = (await client.post("/v1/videos", json=VIDEO)).json()["id"]
        await cell.wait_for(video, e.StageStarted, from_step=0, stage="denoise")
        traceparent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        reply = await client.post("/v1/images/generations", json=IMAGE, headers=traceparent)
        assert reply.status_code == 200, reply.text
        await cell.finish(video)
        page = (await client.get("/metrics")).text
    await cell.runtime.find("scheduler").ask("stop")
    return cell.log, page, video, reply.headers["genserve-request-ids"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """One run for all tests."""
    with otlp_receiver() as collector, captured_log(level="info") as out, pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENDPOINTS[0], collector.url)
        patch.setattr(FakeRunner, "models", ("tiny-wan", "tiny-sd3"))
        log, page, video, image = run(_serve(tmp_path_factory.mktemp("cell")))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    return Seen(collector, log, lines, out.getvalue(), page, video, image)


def names(spans: list[Received]) -> list[str]:
    return [s.name for s in spans]


def test_the_callers_trace_is_continued_from_the_http_header(seen: Seen) -> None:
    image = seen.collector.of(seen.image)
    assert names(image) == ["queued", "run encode", "run denoise", "run decode", "generate_content tiny-sd3"]
    assert {s.trace_id for s in image} == {TRACE}
    assert image[-1].parent_id == PARENT
    assert {s.parent_id for s in image[:-1]} == {image[-1].span_id}


def test_a_video_paused_for_an_image_shows_it_in_its_trace(seen: Seen) -> None:
    video = seen.collector.of(seen.video)
    assert names(video) == [
        "queued",
        "run encode",
        "run denoise",
        "paused",
        "run denoise",
        "run decode",
        "generate_content tiny-wan",
    ]
    before, paused, after = video[2:5]
    assert (before.attributes["genserve.outcome"], after.attributes["genserve.outcome"]) == ("paused", "finished")
    assert before.attributes["genserve.step.to"] == after.attributes["genserve.step.from"]
    assert (before.end_us, after.start_us) == (paused.start_us, paused.end_us)
    assert video[-1].attributes["genserve.pauses"] == 1
    assert {s.service for s in video} == {"genserve"}


def test_decisions_and_runs_link_to_each_other(seen: Seen) -> None:
    decisions = {s.span_id: s for s in seen.collector.spans if s.name == "decide"}
    runs = [s for s in seen.collector.spans if s.name.startswith("run ")]
    assert all(run.span_id in decisions[link].links for run in runs for link in run.links)
    assert all(len(run.links) == 1 for run in runs)


def test_the_log_exported_again_gives_the_same_spans(seen: Seen) -> None:
    with otlp_receiver() as again, pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENDPOINTS[0], again.url)
        translator = Translator(tracing=setup_tracing())
        translator.translate(seen.log)
        translator.close()
    assert seen._replace(collector=again).spans == seen.spans
    assert len(seen.spans) == len(seen.collector.spans) > 10


def test_metrics_tell_the_same_story_as_the_log(seen: Seen) -> None:
    wan = 'media="video",model="tiny-wan",slo_class="standard"'
    assert f"genserve_preemptions_total{{{wan}}} 1.0" in seen.page
    assert f"genserve_slo_met_total{{{wan}}} 1.0" in seen.page
    assert 'genserve_step_seconds_count{media="video",model="tiny-wan",sp_degree="1",stage="denoise"} 8.0' in seen.page
    events = sum(
        float(x.split()[1]) for x in seen.page.splitlines() if x.startswith("genserve_journal_append_events_sum")
    )
    assert events == len(seen.log)


def test_lines_have_position_and_request_and_neither_prompt_nor_key(seen: Seen) -> None:
    told = [line for line in seen.lines if "position" in line]
    assert {line["position"] for line in told if line["event"] == "request completed"} == {
        r.position for r in seen.log if isinstance(r.event, e.RequestCompleted)
    }
    assert {line["request_id"] for line in told if "request_id" in line} == {seen.video, seen.image}
    assert "walrus" not in seen.text
    assert SECRET not in seen.text
