"""Options and output that simulate, compare and bound share; not simulation itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from genserve.errors import CallerError

WorkloadName = Annotated[
    str,
    typer.Option("--workload", help="A shipped calibration (genserve, tetriserve, tridentserve-flux, ...) or a file."),
]
Mix = Annotated[str, typer.Option(help="light, balanced, heavy, or a share of videos such as 0.3.")]
Sizes = Annotated[str, typer.Option(help="uniform or skewed (towards large sizes).")]
Rate = Annotated[float, typer.Option(help="Requests per minute.")]
Sigma = Annotated[float, typer.Option(help="Deadlines are multiplied by this.")]
ArrivalsName = Annotated[str, typer.Option("--arrivals", help="poisson, bursty, wave or constant.")]
Cv = Annotated[float, typer.Option(help="Coefficient of variation of bursty gaps.")]
Requests = Annotated[int, typer.Option(help="Requests per seed.")]
Duration = Annotated[float, typer.Option("--duration", help="Seconds of arrivals instead of a number of requests.")]
Trace = Annotated[
    str,
    typer.Option(
        help="CSV file with a header, or JSON list of objects, of arrivals instead of drawn ones: arrival_s and "
        "class, or arrival_s, model, width, height, frames, steps and deadline_s."
    ),
]
Gpus = Annotated[int, typer.Option(help="GPUs in the pool.", min=1)]
PerNode = Annotated[int, typer.Option("--gpus-per-node", help="Groups never cross a node.", min=1)]
SwitchPrice = Annotated[
    float, typer.Option("--switch-price", help="Seconds for a change of degree and a resume; negative: as calibrated.")
]
Bias = Annotated[float, typer.Option(help="Steps are slower than the planner believes, by this fraction.")]
Spread = Annotated[float, typer.Option(help="Each class is off by up to this fraction, either way.")]
Noise = Annotated[float, typer.Option(help="Standard deviation of a segment's speed.")]
AdmissionFill = Annotated[
    float,
    typer.Option("--admission", help="Refuse what does not fit into this share of the pool, e.g. 0.75; 0: admit all."),
]
VerdictWithin = Annotated[
    float,
    typer.Option("--verdict-within", help="Seconds for which what does not fit is tested again before it is refused."),
]
Told = Annotated[bool, typer.Option("--told", help="Planners know the errors; for comparison.")]
Seeds = Annotated[int, typer.Option(help="How many seeds.", min=1)]
FirstSeed = Annotated[int, typer.Option(help="The first seed.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this file; - for stdout.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write one self-contained page with plots.")]
Jobs = Annotated[int, typer.Option(help="Processes; 0 means one per core.", min=0)]


def make_setting(**given: Any) -> Any:
    """The Setting that options describe; raises CallerError ``invalid_workload`` for a value outside its limits."""
    from genserve.planners.admission import Admission
    from genserve.simulate.compare import Setting
    from genserve.simulate.limits import check_limits
    from genserve.simulate.truth import Errors
    from genserve.simulate.workloads import Workload

    check_limits(given)
    if given["verdict_within"] and not given["admission"] > 0:
        raise CallerError("invalid_workload", "--verdict-within says how long admission may take: give --admission too")
    workload = Workload(**{k: given[k] for k in Workload.__struct_fields__})
    errors = Errors(**{k: given[k] for k in Errors.__struct_fields__})
    price = given["switch_price"]
    return Setting(
        workload,
        given["gpus"],
        given["gpus_per_node"],
        given["seeds"],
        given["first_seed"],
        None if price < 0 else price,
        errors,
        Admission(given["admission"], round(given["verdict_within"] * 1e6)) if given["admission"] > 0 else None,
        given["told"],
    )


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; yields a function that takes done and total."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield advance


def write_json(result: Any, path: Path | None) -> None:
    if path is None:
        return
    text = json.dumps(result, indent=1)
    if str(path) == "-":
        typer.echo(text)
    else:
        write_text(path, text)


def check_writable(*paths: Path | None) -> None:
    """Raise CallerError ``cannot_write`` before a long run whose result has no folder to go to."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise CallerError("cannot_write", f"{path}: {path.parent} is no folder")


def write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n")
    except OSError as error:
        raise CallerError("cannot_write", f"{path}: {error.strerror}") from error


def print_tables(result: dict[str, Any]) -> None:
    """What people want to see first, one table per point of a sweep."""
    console = Console(width=None if Console().is_terminal else 240)
    for point in result.get("points", [result]):
        title = ", ".join(f"{k} {v}" for k, v in point.get("at", {}).items())
        console.print(_table(point, title))
        if "bound" in point:
            bound = point["bound"]
            console.print(
                f"bound {_percent(bound)} (proven), schedule found by search {_percent(bound['found'])}",
                highlight=False,
            )


def print_classes(row: dict[str, Any]) -> None:
    """One line per class of requests."""
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(("class", "on time %", "mean s", "p50 s", "p90 s", "p99 s", "max s")):
        table.add_column(name, justify="left" if index == 0 else "right")
    for label, share in row["classes"].items():
        latency = row["latency_s"].get(label, {})
        times = [f"{latency.get(k, 0):.1f}" for k in ("mean", "p50", "p90", "p99", "max")]
        table.add_row(label, f"{100 * share['mean']:.1f}", *times)
    Console().print(table)


def print_bound(bound: dict[str, Any], first_seed: int) -> None:
    """The mean, and each seed."""
    console = Console()
    console.print(f"bound {_percent(bound)}, schedule found {_percent(bound['found'])}", highlight=False)
    seeds = ", ".join(f"{first_seed + i}: {100 * v:.0f}" for i, v in enumerate(bound["per_seed"]))
    console.print(f"by seed  {seeds}", highlight=False)


def _table(point: dict[str, Any], title: str) -> Table:
    table = Table(title=title or None, box=None, pad_edge=False)
    refuses = any(row["refused"] for row in point["planners"].values())
    reached = point.get("bound", {}).get("reached", {})
    largest = point["parameters"].get("largest_class", "")
    shows_largest = all(largest in row["classes"] for row in point["planners"].values())
    columns = ["planner", "on time %", "image", "video"] + ([largest, "served %"] if shows_largest else [])
    columns += ["p50 s", "p99 s", "worst late", "pauses", "switches", "GPU %"]
    columns += ["decision p99 us"] + (["of bound %"] if reached else [])
    columns += ["refused %", "admitted on time %"] if refuses else []
    has_door = any("admission" in row for row in point["planners"].values())
    columns += ["goodput %", "avoidable %"] if has_door else []
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index == 0, overflow="fold")
    for label, row in point["planners"].items():
        latency = row["latency_s"]["all"]
        cells = [label, *(_percent(row[g]) for g in ("attainment", "image", "video"))]
        if shows_largest:
            cells += [f"{100 * row['classes'][largest]['mean']:.1f}", f"{100 * row['served'][largest]:.0f}"]
        cells += [f"{latency.get('p50', 0):.1f}", f"{latency.get('p99', 0):.0f}", f"{row['worst_lateness']:.1f}x"]
        cells += [f"{row['pauses_per_request']:.2f}", f"{row['switches_per_request']:.2f}"]
        cells += [f"{100 * row['utilization']:.0f}", f"{row['decision_us']['p99']:.0f}"]
        cells += [f"{100 * reached[label]:.1f}"] if reached else []
        cells += [f"{100 * row['refused']:.1f}", f"{100 * row['admitted_on_time']:.1f}"] if refuses else []
        cells += _door_cells(row["admission"]) if has_door else []
        table.add_row(*cells)
    return table


def _door_cells(door: dict[str, float]) -> list[str]:
    """Goodput against an open door; avoidable refusals as found and as proven at most."""
    found, at_most = door["avoidable_refusals"], door["avoidable_refusals_at_most"]
    return [f"{100 * door['goodput']:.1f}", f"{100 * found:.1f} to {100 * at_most:.1f}"]


def _percent(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{100 * value['mean']:.1f} ±{100 * value['ci95']:.1f}"
