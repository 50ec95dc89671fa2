"""``genserve bound``: how many requests can be on time at all; not a planner."""

from __future__ import annotations

import typer

from genserve.cli import simulating as o


def add_to(app: typer.Typer) -> None:
    app.command()(bound)


def bound(
    *,
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
    seeds: o.Seeds = 20,
    first_seed: o.FirstSeed = 0,
    json_file: o.JsonFile = None,
    jobs: o.Jobs = 0,
) -> None:
    """A proven upper bound per trace, and the best schedule found below it, both knowing the future.

    The bound relaxes step boundaries, placement and the price of changes: no planner can be above it.
    """
    from genserve.simulate.compare import compare

    setting = o.make_setting(
        calibration=workload, mix=mix, sizes=sizes, rate=rate, sigma=sigma, arrivals=arrivals, cv=cv,
        requests=requests, duration_s=duration, trace=trace, gpus=gpus, gpus_per_node=gpus_per_node,
        switch_price=-1.0, bias=0.0, spread=0.0, noise=0.0, admission=0.0,
        verdict_within=0.0, told=False,
        seeds=seeds, first_seed=first_seed,
    )  # fmt: skip
    o.check_writable(json_file)
    with o.progress_bar("bounding") as progress:
        result = compare(setting, [], with_bound=True, jobs=jobs, progress=progress)
    o.write_json(result, json_file)
    if str(json_file) != "-":
        o.print_bound(result["bound"], first_seed)
