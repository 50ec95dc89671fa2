"""Names, units, labels and buckets that dashboards rely on."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from observability.metrics import LATENCY_BUCKETS, Metrics


def families(metrics: Metrics) -> dict[str, str]:
    return {f.name: f.type for f in text_string_to_metric_families(metrics.render().decode())}


def test_every_name_has_the_prefix_and_every_histogram_its_unit() -> None:
    found = families(Metrics())
    assert all(name.startswith("genserve_") for name in found)
    units = ("_seconds", "_bytes", "_size", "_events")
    assert all(name.endswith(units) for name, kind in found.items() if kind == "histogram")


@pytest.mark.parametrize("name", ["request_e2e_seconds", "request_queue_seconds", "stage_seconds"])
def test_buckets_reach_the_thirty_minutes_of_a_video(name: str) -> None:
    metrics = Metrics()
    for histogram in (metrics.e2e_seconds, metrics.queue_seconds):
        histogram.labels("t2v", "video", "standard").observe(1799)
    metrics.stage_seconds.labels("t2v", "video", "denoise", 8).observe(1799)
    page = metrics.render().decode()
    (line,) = [x for x in page.splitlines() if x.startswith(f"genserve_{name}_bucket") and 'le="1800.0"' in x]
    assert line.endswith(" 1.0")
    assert max(LATENCY_BUCKETS) == 30 * 60


def test_the_published_names_are_there() -> None:
    assert set(families(Metrics())) >= {
        f"genserve_{name}"
        for name in (
            "requests_running",
            "requests_waiting",
            "requests_paused",
            "requests_submitted",
            "requests_completed",
            "requests_failed",
            "requests_cancelled",
            "request_queue_seconds",
            "request_e2e_seconds",
            "step_seconds",
            "stage_seconds",
            "slo_met",
            "slo_missed",
            "preemptions",
            "regroups",
            "batch_size",
            "plan_seconds",
            "plan_actions",
            "journal_append_seconds",
            "journal_append_events",
            "journal_lag_seconds",
            "checkpoint_seconds",
            "checkpoint_bytes",
            "worker_busy_seconds",
        )
    }


def test_two_sets_of_metrics_share_nothing_and_leave_the_global_registry_alone() -> None:
    first, second = Metrics(), Metrics()
    first.observe_append(seconds=0.001, events=3)
    assert first.registry.get_sample_value("genserve_journal_append_events_sum") == 3
    assert second.registry.get_sample_value("genserve_journal_append_events_sum") == 0
    assert not [f for f in REGISTRY.collect() if f.name.startswith("genserve_")]
