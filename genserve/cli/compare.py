"""``genserve compare``: several planners on the same seeds; not the statistics (see genserve.simulate.compare)."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from genserve.cli import simulating as o
from genserve.errors import CallerError

PLANNERS = "save,genserve,genserve_ideal,tetriserve,tridentserve,edf_best_fit,srtf,fifo"
SWEEPABLE = (
    "mix",
    "sizes",
    "sigma",
    "rate",
    "arrivals",
    "cv",
    "gpus",
    "switch_price",
    "bias",
    "spread",
    "noise",
    "verdict_within",
)


def add_to(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    *,
    planners: Annotated[
        str, typer.Option(help="Comma-separated; parameters as name:parameter=value, e.g. save:selection=false.")
    ] = PLANNERS,
    workload: o.WorkloadName = "genserve",
    mix: o.Mix = "balanced",
    sizes: o.Sizes = "uniform",
    rate: o.Rate = 24.0,
    sigma: o.Sigma = 1.0,
    arrivals: o.ArrivalsName = "poisson",
    cv: o.Cv = 3.0,
    requests: o.Requests = 100,
    duration: o.Duration = 0.0,
    trace: o.Trace = "",
    gpus: o.Gpus = 8,
    gpus_per_node: o.PerNode = 8,
    switch_price: o.SwitchPrice = -1.0,
    bias: o.Bias = 0.0,
    spread: o.Spread = 0.0,
    noise: o.Noise = 0.0,
    admission: o.AdmissionFill = 0.0,
    verdict_within: o.VerdictWithin = 0.0,
    told: o.Told = False,
    seeds: o.Seeds = 20,
    first_seed: o.FirstSeed = 0,
    sweep: Annotated[str, typer.Option(help="One option at several values, e.g. sigma=0.8,1.0,1.3.")] = "",
    bound: Annotated[bool, typer.Option("--bound", help="Add the proven bound and the best schedule found.")] = False,
    json_file: o.JsonFile = None,
    html: o.HtmlFile = None,
    jobs: o.Jobs = 0,
) -> None:
    """Run several planners on the same requests and say how they differ, with 95% intervals.

    Example: genserve compare --mix heavy --rate 24 --gpus 8 --seeds 20 --bound --json out.json --html out.html
    """
    given = {
        "calibration": workload, "mix": mix, "sizes": sizes, "rate": rate, "sigma": sigma, "arrivals": arrivals,
        "cv": cv, "requests": requests, "duration_s": duration, "trace": trace, "gpus": gpus,
        "gpus_per_node": gpus_per_node, "switch_price": switch_price, "bias": bias, "spread": spread, "noise": noise,
        "admission": admission, "verdict_within": verdict_within, "told": told,
        "seeds": seeds, "first_seed": first_seed,
    }  # fmt: skip
    o.check_writable(json_file, html)
    result = _run(given, planners, sweep, with_bound=bound, jobs=jobs)
    o.write_json(result, json_file)
    if html is not None:
        from genserve.simulate.report import render

        o.write_text(html, render(result))
    if str(json_file) != "-":
        o.print_tables(result)


def _run(given: dict[str, Any], planners: str, sweep: str, *, with_bound: bool, jobs: int) -> dict[str, Any]:
    from genserve.simulate import compare as c

    entrants = [c.parse_entrant(p) for p in planners.split(",") if p.strip()]
    if not entrants:
        raise CallerError("invalid_planners", "name at least one planner")
    points = []
    name, values = _parse_sweep(sweep, given)
    settings = [o.make_setting(**({**given, name: value} if name else given)) for value in values]
    for index, (value, setting) in enumerate(zip(values, settings, strict=True)):
        what = f"{name} {value} ({index + 1}/{len(values)})" if name else "comparing"
        with o.progress_bar(what) as progress:
            result = c.compare(setting, entrants, with_bound=with_bound, jobs=jobs, progress=progress)
        points.append({"at": {name: value}, **result} if name else result)
    return {"sweep": name, "points": points} if name else points[0]


def _parse_sweep(sweep: str, given: dict[str, Any]) -> tuple[str, list[Any]]:
    if not sweep:
        return "", [None]
    name, _, values = sweep.partition("=")
    name = name.strip().replace("-", "_")
    if name not in SWEEPABLE or not values:
        raise CallerError("invalid_sweep", f"sweep is one of {', '.join(SWEEPABLE)} = values, got {sweep!r}")
    kind = type(given[name])
    try:
        return name, [kind(v) for v in values.split(",")]
    except ValueError as error:
        raise CallerError("invalid_sweep", f"{name}: {error}") from error
