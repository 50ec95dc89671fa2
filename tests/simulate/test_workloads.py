"""Workloads and calibrations: from the papers' data or a user's file, equal for equal seeds."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import pytest
from msgspec.structs import replace

from genserve.domain.request import Media, Stage
from genserve.errors import CallerError
from genserve.simulate.calibration import calibration_names, load_calibration
from genserve.simulate.workloads import Workload, draw_requests

GENSERVE = load_calibration("genserve")


def draw(seed: int = 0, **changes: object):  # type: ignore[no-untyped-def]
    workload = replace(Workload(), **changes)  # type: ignore[arg-type]
    return draw_requests(workload, load_calibration(workload.calibration), seed=seed)


def gaps(specs) -> list[float]:  # type: ignore[no-untyped-def]
    return [(b.arrival_us - a.arrival_us) / 1e6 for a, b in pairwise(specs)]


@pytest.mark.parametrize("name", calibration_names())
def test_every_shipped_calibration_prices_every_stage_of_its_classes(name: str) -> None:
    calibration = load_calibration(name)
    assert calibration.note
    for kind in calibration.classes:
        assert calibration.table.step_us(kind.model, kind.shape) > 0
        assert all(calibration.table.stage_us(kind.model, s, kind.shape) > 0 for s in Stage)


def test_genserve_tables_are_as_printed() -> None:
    table = load_calibration("genserve-tables")
    large = next(c for c in table.classes if c.label == "video-L")
    steps = [table.table.step_us(large.model, large.shape, degree=k) for k in (1, 2, 4, 8)]
    assert steps == [1_000_000, 500_000, 256_410, 142_857]
    assert large.allowance_us == round(1.5 * (50.0 + 0.03 + 2.47) * 1e6)


def test_images_take_1_2_2_4_and_6_seconds_on_the_default_calibration() -> None:
    whole = [round(c.allowance_us / 1.5e6, 1) for c in GENSERVE.classes if c.media is Media.IMAGE]
    assert whole == [1.2, 2.4, 6.0]


def test_equal_seeds_draw_equal_requests_and_other_seeds_others() -> None:
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize(("mix", "share"), [("light", 0.2), ("balanced", 0.5), ("heavy", 0.8), ("0.3", 0.3)])
def test_a_mix_is_a_share_of_videos(mix: str, share: float) -> None:
    specs = draw(mix=mix, requests=4000)
    assert sum(s.media is Media.VIDEO for s in specs) / 4000 == pytest.approx(share, abs=0.03)


def test_skewed_sizes_lean_to_large_ones() -> None:
    counts = Counter(s.slo_class[-1] for s in draw(sizes="skewed", requests=4000))
    assert counts["L"] > counts["M"] > counts["S"]


def test_tetriserves_skew_has_the_published_shares() -> None:
    counts = Counter(s.slo_class for s in draw(calibration="tetriserve", sizes="skewed", requests=8000))
    shares = [counts[f"image-{side}"] / 8000 for side in (256, 512, 1024, 2048)]
    assert shares == pytest.approx([0.167, 0.175, 0.211, 0.447], abs=0.02)


@pytest.mark.parametrize(("arrivals", "variation"), [("poisson", 1.0), ("bursty", 3.0), ("constant", 0.0)])
def test_gaps_have_the_mean_of_the_rate_and_the_variation_asked_for(arrivals: str, variation: float) -> None:
    found = gaps(draw(arrivals=arrivals, rate=60, requests=8000))
    assert fmean(found) == pytest.approx(1.0, abs=0.12)
    assert stdev(found) / fmean(found) == pytest.approx(variation, abs=0.35)


def test_sigma_scales_every_deadline() -> None:
    loose, tight = draw(sigma=2.0)[0], draw()[0]
    assert loose.deadline_us - loose.arrival_us == 2 * (tight.deadline_us - tight.arrival_us)


def test_a_duration_ends_arrivals_in_time() -> None:
    specs = draw(duration_s=600.0, rate=60)
    assert 500 < len(specs) < 700
    assert specs[-1].arrival_us < 600e6


def test_a_users_own_costs_and_classes_are_a_calibration(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    shape = {"width": 64, "height": 64}
    path.write_text(
        json.dumps(
            {
                "family": "table",
                "costs": {
                    "name": "mine",
                    "stages": [{"model": "m", "stage": "denoise", "shape": shape, "us": 1000}],
                },
                "classes": [
                    {
                        "label": "image",
                        "model": "m",
                        "media": "image",
                        "shape": shape,
                        "steps": 4,
                        "allowance_us": 9000,
                    }
                ],
            }
        )
    )
    mine = load_calibration(str(path))
    assert (mine.name, mine.table.step_us("m", mine.classes[0].shape)) == ("mine", 1000)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"us": 0}, "stages\\[0\\]"),
        ({"degree": 0}, "stages\\[0\\]"),
        ({"shape": {"width": 0, "height": 64}}, "stages\\[0\\]"),
        ({"model": "other"}, "no cost of a step of m"),
        ({"degree": 2}, "no step of m on one GPU, alone"),
        ({"degree": 6}, "m: degree 6 is no power of two"),
        ({"degre": 2}, "unknown field `degre`"),
    ],
)
def test_a_cost_that_cannot_be_is_refused_with_its_place(tmp_path: Path, change: dict[str, object], says: str) -> None:
    shape = {"width": 64, "height": 64}
    row = {"model": "m", "stage": "denoise", "shape": shape, "us": 1000, **change}
    kind = {"label": "image", "model": "m", "media": "image", "shape": shape, "steps": 4, "allowance_us": 9000}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"family": "table", "costs": {"name": "mine", "stages": [row]}, "classes": [kind]}))
    with pytest.raises(CallerError, match=says):
        load_calibration(str(path))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mix": "much"}, "mix is light, balanced, heavy or a share"),
        ({"mix": "1.5"}, "mix is light, balanced, heavy or a share"),
        ({"arrivals": "never"}, "arrivals is one of poisson, bursty, wave, constant"),
        ({"sizes": "large"}, "sizes is one of uniform, skewed"),
        ({"rate": 0.0}, "rate is from 0.001"),
        ({"sigma": float("nan")}, "sigma is from 0"),
        ({"duration_s": float("inf")}, "duration_s is from 0"),
        ({"requests": 0}, "requests is from 1"),
        ({"duration_s": 0.001}, "no request arrives: give seed 0 a longer duration"),
        ({"trace": "/nothing.csv"}, "/nothing.csv"),
        ({"calibration": "nothing"}, "genserve-tables"),
    ],
)
def test_a_wrong_workload_is_refused_with_what_to_change(changes: dict[str, object], says: str) -> None:
    with pytest.raises(CallerError, match=says):
        draw(**changes)
