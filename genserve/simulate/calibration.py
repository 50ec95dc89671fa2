"""What the papers published, made into cost tables and request classes; every free parameter is in a file.

A calibration file names a family and its assumptions. Family "table" carries the costs and classes themselves, which
is how a measured profile or a user's own numbers come in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from genserve.domain.costs import CostData, CostTable, Prices, StageCost, find_gaps
from genserve.domain.request import Media, Shape, Stage
from genserve.errors import CallerError
from genserve.simulate.cascades import load_cascade, paper_data

SECOND_US = 1_000_000


class RequestClass(Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of request of a workload. ``allowance_us`` is deadline minus arrival at sigma 1."""

    label: str
    model: str
    media: Media
    shape: Shape
    steps: Annotated[int, Meta(ge=1)]
    allowance_us: Annotated[int, Meta(ge=0)]
    heavy_model: str = ""


class Calibration(Struct, frozen=True):
    """Costs and classes to simulate with, and what was assumed to get them."""

    name: str
    costs: CostData
    classes: tuple[RequestClass, ...]
    note: str = ""
    deferral: tuple[tuple[float, float], ...] = ()
    """f(t) of a cascade: how many answers score below t."""

    @property
    def table(self) -> CostTable:
        return CostTable(self.costs)


def calibration_names() -> list[str]:
    """The calibrations that are shipped."""
    folder = resources.files("genserve.simulate") / "data" / "calibrations"
    return sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json"))


def load_calibration(name_or_path: str) -> Calibration:
    """A shipped calibration by name, or one from a JSON file.

    Raises CallerError ``invalid_calibration``.
    """
    shipped = resources.files("genserve.simulate") / "data" / "calibrations" / f"{name_or_path}.json"
    source = shipped if name_or_path in calibration_names() else Path(name_or_path)
    try:
        tree = json.loads(source.read_text("utf-8-sig"))
        build = _FAMILIES[tree["family"]]
        return build(Path(name_or_path).stem if source is not shipped else name_or_path, tree)
    except OSError as error:
        names = ", ".join(calibration_names())
        raise CallerError(
            "invalid_calibration", f"no file or calibration {name_or_path!r}; shipped: {names}"
        ) from error
    except KeyError as error:
        raise CallerError("invalid_calibration", f"{name_or_path}: {error} is missing or unknown") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise CallerError("invalid_calibration", f"{name_or_path}: {error}") from error


def us(seconds: float) -> int:
    return round(seconds * SECOND_US)


# ── GenServe ─────────────────────────────────────────────────────────────────────────────────────────────

WAN, SD35 = "wan2.2-5b", "sd3.5-medium"
_VIDEO_SIDES = {"256p": ("S", 256), "480p": ("M", 480), "720p": ("L", 768)}
_IMAGE_SIDES = {"S": (720, 2304), "M": (1024, 4096), "L": (1440, 8100)}
_IMAGE_DECODE_S = {"S": 0.08, "M": 0.14, "L": 0.22}
_STEPS = 50


def _genserve(name: str, tree: dict[str, Any]) -> Calibration:
    """Table 2 and Figure 5 for videos; Table 3 extended by a quadratic in tokens for images."""
    data = paper_data("genserve_costs")
    rows, classes = [], []
    for row in data["t2v_stage_seconds"]["rows"]:
        label, side = _VIDEO_SIDES[row["resolution"]]
        shape, factor = Shape(side, side, 81), tree["video_factor"]
        speed = data["sp_speedup_over_sp1"]["dit"][row["resolution"]]
        times = {int(k): us(row["dit"] * factor / _STEPS / s) for k, s in speed.items()}
        rows += _rows(WAN, shape, times, us(row["text_encode"]), us(row["vae_decode"] * factor))
        classes.append((f"video-{label}", WAN, Media.VIDEO, shape))
    for label, (side, tokens) in _IMAGE_SIDES.items():
        shape, work = Shape(side, side), _image_tflop(data, tokens)
        times = {k: us(work / tree["image_tflops"] / s) for k, s in _image_speedups(data, work).items()}
        rows += _rows(SD35, shape, times, us(0.03), us(_IMAGE_DECODE_S[label]))
        rows += [StageCost(SD35, Stage.DENOISE, shape, round(times[1] * b * 0.95), 1, b) for b in (2, 4, 8)]
        classes.append((f"image-{label}", SD35, Media.IMAGE, shape))
    costs = _cost_data(name, rows, tree)
    degrees, only, factors = tree["deadline_degrees"], tree.get("only"), tree.get("deadline_factors", {})
    wanted = [c for c in classes if only is None or c[0] in only]
    made = [_genserve_class(CostTable(costs), c, degrees.get(c[0], 1), factors.get(c[0], 1.5)) for c in wanted]
    return Calibration(name, costs, tuple(made), tree["note"])


def _genserve_class(table: CostTable, kind: tuple[str, str, Media, Shape], degree: int, factor: float) -> RequestClass:
    """Deadline = arrival + sigma x factor (1.5) x end-to-end latency alone at ``degree``."""
    label, model, media, shape = kind
    latency = _STEPS * table.step_us(model, shape, degree=degree)
    latency += sum(table.stage_us(model, s, shape) for s in (Stage.ENCODE, Stage.DECODE))
    return RequestClass(label, model, media, shape, _STEPS, round(factor * latency))


def _image_tflop(data: dict[str, Any], tokens: int) -> float:
    """Work of one image step: a n + b n squared through the two largest published sizes."""
    table = [r for r in data["per_step_compute"]["rows"] if r["model"].startswith("SD3.5")]
    (n0, w0), (n1, w1) = [(r["seq_len"], r["tflop"]) for r in table[-2:]]
    b = (w1 / n1 - w0 / n0) / (n1 - n0)
    return float((w0 / n0 - b * n0) * tokens + b * tokens * tokens)


def _image_speedups(data: dict[str, Any], work: float) -> dict[int, float]:
    """Speed-ups of a video step with as much work, interpolated in its logarithm; below the smallest, its own."""
    steps = {r["resolution"]: r["tflop"] for r in data["per_step_compute"]["rows"] if r["model"].startswith("Wan")}
    known = sorted((tflop, data["sp_speedup_over_sp1"]["dit"][size]) for size, tflop in steps.items())
    work = min(max(work, known[0][0]), known[-1][0])
    upper = next(i for i in range(1, len(known)) if known[i][0] >= work)
    (w0, s0), (w1, s1) = known[upper - 1], known[upper]
    part = math.log(work / w0) / math.log(w1 / w0)
    return {int(k): s0[k] + (s1[k] - s0[k]) * part for k in s0}


# ── TetriServe ───────────────────────────────────────────────────────────────────────────────────────────


def _tetriserve(name: str, tree: dict[str, Any]) -> Calibration:
    """FLUX on H100 from the work column of Table 1; deadlines are the paper's."""
    rows, classes = [], []
    for entry in paper_data("tetriserve_workload")["resolutions"]:
        side = str(entry["side"])
        shape = Shape(entry["side"], entry["side"])
        alone = entry["tflop"] / _STEPS / tree["tflops"][side]
        times = {2**i: us(alone / s) for i, s in enumerate(tree["speedups"][side])}
        rows += _rows("flux.1-dev", shape, times, us(tree["encode_s"]), us(tree["decode_s"][side]))
        classes.append(RequestClass(f"image-{side}", "flux.1-dev", Media.IMAGE, shape, _STEPS, us(entry["slo_base"])))
    return Calibration(name, _cost_data(name, rows, tree), tuple(classes), tree["note"])


# ── TridentServe ─────────────────────────────────────────────────────────────────────────────────────────


def _tridentserve(name: str, tree: dict[str, Any]) -> Calibration:
    """Diffuse times of the release, steps of its README, deadlines by its formula or the paper's 2.5 x."""
    rows, classes = [], []
    model, steps = tree["model"], tree["steps"]
    for entry in paper_data("tridentserve_costs")["models"][model]:
        if entry["shape"] not in tree["shapes"] or (entry["frames"] == 1 and "Video" in model):
            continue
        height, width = map(int, entry["shape"].split("x"))
        shape = Shape(width, height, entry["frames"])
        fixes = tree.get("fixes", {}).get(f"{entry['shape']}x{entry['frames']}", {})
        times = {int(k): us(fixes.get(k, s)) for k, s in entry["sp"].items()}
        encode, decode = _trident_stages(times[1] * steps)
        rows += _rows(model, shape, times, encode, decode)
        media = Media.IMAGE if entry["frames"] == 1 else Media.VIDEO
        diffuse_s = times[efficient_degree(times)] * steps / SECOND_US
        allowance = us(release_allowance_s(diffuse_s)) if tree["deadline"] == "release" else us(2.5 * diffuse_s)
        classes.append(
            RequestClass(f"{media}-{entry['shape']}x{entry['frames']}", model, media, shape, steps, allowance)
        )
    return Calibration(name, _cost_data(name, rows, tree), tuple(classes), tree["note"])


def efficient_degree(times: dict[int, int], floor: float = 0.8) -> int:
    """Largest degree k with (t1 / tk) / k at or above ``floor`` (TridentServe's release)."""
    return max(k for k, t in times.items() if times[1] / t / k >= floor)


def release_allowance_s(diffuse_s: float) -> float:
    """The release's deadline: int(round(4 t) x 1.1) + 2 seconds."""
    return int(round(4 * diffuse_s) * 1.1) + 2


def _trident_stages(diffuse_us: int) -> tuple[int, int]:
    """Encode and decode as shares of the request: 10:63:27 for light ones (1 s) to 2:88:10 for heavy ones (60 s)."""
    part = min(1.0, max(0.0, math.log(max(diffuse_us, 1) / SECOND_US) / math.log(60)))
    encode, diffuse, decode = (a + (b - a) * part for a, b in ((10, 2), (63, 88), (27, 10)))
    return round(diffuse_us * encode / diffuse), round(diffuse_us * decode / diffuse)


# ── DiffServe ────────────────────────────────────────────────────────────────────────────────────────────


def _diffserve(name: str, tree: dict[str, Any]) -> Calibration:
    """A cascade of the release: whole batches as one step, since only their latencies are published."""
    cascade, shape, rows = load_cascade(tree["cascade"]), Shape(512, 512), []
    for model, table in ((tree["light"], cascade.light_ms), (tree["heavy"], cascade.heavy_ms)):
        extra = paper_data("diffserve_costs")["discriminator_ms"] if model == tree["light"] else 0
        rows += [StageCost(model, Stage.DENOISE, shape, us((ms + extra) / 1000), 1, b) for b, ms in table.items()]
        rows += [StageCost(model, s, shape, 1) for s in (Stage.ENCODE, Stage.DECODE)]
    kind = RequestClass("image-512", tree["light"], Media.IMAGE, shape, 1, us(cascade.slo_s), tree["heavy"])
    return Calibration(name, _cost_data(name, rows, tree), (kind,), tree["note"], cascade.deferral)


# ── common ───────────────────────────────────────────────────────────────────────────────────────────────


def _table(name: str, tree: dict[str, Any]) -> Calibration:
    costs = msgspec.convert(tree["costs"], CostData)
    classes = msgspec.convert(tree["classes"], tuple[RequestClass, ...])
    if gaps := find_gaps(costs):
        raise ValueError("; ".join(gaps))
    absent = {c.model for c in classes} - {c.model for c in costs.stages if c.stage is Stage.DENOISE}
    if absent or not classes:
        raise ValueError(f"no cost of a step of {', '.join(sorted(absent))}" if absent else "no classes")
    return Calibration(tree.get("name", name), costs, classes, tree.get("note", ""))


def _rows(model: str, shape: Shape, times: dict[int, int], encode_us: int, decode_us: int) -> list[StageCost]:
    rows = [StageCost(model, Stage.DENOISE, shape, time, degree) for degree, time in times.items()]
    rows.append(StageCost(model, Stage.ENCODE, shape, encode_us))
    rows.append(StageCost(model, Stage.DECODE, shape, decode_us))
    return rows


def _cost_data(name: str, rows: list[StageCost], tree: dict[str, Any]) -> CostData:
    return CostData(name, tuple(sorted(rows)), msgspec.convert(tree["prices"], Prices))


_FAMILIES: dict[str, Callable[[str, dict[str, Any]], Calibration]] = {
    "genserve": _genserve,
    "tetriserve": _tetriserve,
    "tridentserve": _tridentserve,
    "diffserve": _diffserve,
    "table": _table,
}
