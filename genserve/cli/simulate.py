"""``genserve simulate``: one planner on one workload, in full detail; not a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genserve.cli import simulating as o
from genserve.cli.simulate_log import simulate_log
from genserve.errors import CallerError


def add_to(app: typer.Typer) -> None:
    app.command()(simulate)


def simulate(
    *,
    planner: Annotated[
        str,
        typer.Option(help="Name, with parameters as name:parameter=value; by default save, or that of the log."),
    ] = "",
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
    seed: Annotated[int, typer.Option(help="The seed.")] = 0,
    cells: Annotated[
        int, typer.Option(help="Independent cells of so many --gpus each behind a two-choices router.", min=1)
    ] = 1,
    from_log: Annotated[
        str,
        typer.Option(
            "--from-log",
            help="Simulate what arrived in a recorded log (SQLAlchemy URL or SQLite file), and compare with it. Only "
            "--planner, --costs and --json apply.",
        ),
    ] = "",
    costs: Annotated[Path | None, typer.Option(help="With --from-log: a cost table in place of the log's own.")] = None,
    log_file: Annotated[Path | None, typer.Option("--log", help="Write the event log, one JSON object a line.")] = None,
    json_file: o.JsonFile = None,
    jobs: o.Jobs = 0,
) -> None:
    """Simulate one planner and print what became of the requests, class by class.

    The run is the production scheduler on a simulated clock; its log obeys the laws of a live one.
    With --cells the rate is that of the whole system.
    """
    o.check_writable(json_file, log_file)
    if costs is not None and not from_log:
        raise CallerError("invalid_option", "--costs goes with --from-log; a file for --workload has costs of its own")
    if log_file is not None and (cells > 1 or from_log):
        raise CallerError("invalid_option", "--log goes with one simulated cell, without --from-log")
    if from_log:
        simulate_log(from_log, planner, costs, json_file)
        return
    from genserve.simulate.compare import parse_entrant

    setting = o.make_setting(
        calibration=workload, mix=mix, sizes=sizes, rate=rate, sigma=sigma, arrivals=arrivals, cv=cv,
        requests=requests, duration_s=duration, trace=trace, gpus=gpus, gpus_per_node=gpus_per_node,
        switch_price=switch_price, bias=bias, spread=spread, noise=noise, admission=admission,
        verdict_within=verdict_within, told=told,
        seeds=1, first_seed=seed,
    )  # fmt: skip
    entrant = parse_entrant(planner or "save")
    result = _one(setting, entrant, log_file) if cells == 1 else _many(setting, entrant, cells, jobs)
    o.write_json(result, json_file)
    if str(json_file) != "-":
        o.print_tables(result)
        o.print_classes(next(iter(result["planners"].values())))


def _one(setting: Any, entrant: Any, log_file: Path | None) -> dict[str, Any]:
    from genserve.planners.registry import build_planner
    from genserve.simulate import compare as c
    from genserve.simulate.score import Scorer, score
    from genserve.simulate.simulation import simulate as run

    scorer = Scorer()
    scenario = c.build_scenario(setting, setting.first_seed)
    planner = build_planner(entrant.name, entrant.parameters)
    ran = run(planner, scenario, observers=(scorer.watch,), keep_log=log_file is not None)
    if log_file is not None:
        o.write_text(log_file, "\n".join(map(_line, ran.log)))
    scored = score(scorer, gpus=setting.gpus, decision_us=ran.decision_us)
    return {
        "parameters": c.describe(setting, [entrant]),
        "planners": {entrant.label: c.summarise([scored], against=[scored])},
        "facts": ran.facts,
        "steps": ran.steps,
    }


def _line(recorded: Any) -> str:
    """The event behind its type, which is not among its fields."""
    import msgspec

    return msgspec.json.encode({"type": type(recorded.event).__name__, **msgspec.structs.asdict(recorded)}).decode()


def _many(setting: Any, entrant: Any, cells: int, jobs: int) -> dict[str, Any]:
    from genserve.simulate.cells import simulate_cells

    with o.progress_bar("cells") as progress:
        return simulate_cells(setting, entrant, cells=cells, jobs=jobs, progress=progress)
