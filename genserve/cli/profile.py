"""``genserve profile``: measure what stages and steps cost here, into a table that planners read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from genserve.domain.request import Shape
from genserve.errors import CallerError


def add_to(app: typer.Typer) -> None:
    app.command()(profile)


def profile(
    out: Annotated[Path, typer.Option(help="Where the table goes (JSON).")] = Path("costs.json"),
    *,
    model: Annotated[list[str] | None, typer.Option(help="Only these models.")] = None,
    size: Annotated[list[str] | None, typer.Option(help="Only these shapes, as WIDTHxHEIGHT or WxHxFRAMES.")] = None,
    degree: Annotated[
        list[int] | None, typer.Option(help="Sequence-parallel degrees; by default 1 and 2, if GPUs allow.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch sizes of images.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each thing is timed.")] = 7,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="On what.")] = "auto",
    name: Annotated[str, typer.Option(help="The table's name.")] = "",
    models_dir: Annotated[Path | None, typer.Option(help="Checkpoints; by default as in the settings.")] = None,
    from_log: Annotated[
        str,
        typer.Option(
            "--from-log",
            help="Measure nothing: take what a recorded log says (SQLAlchemy URL or SQLite file). Only --out and "
            "--name apply.",
        ),
    ] = "",
) -> None:
    """Measure stages and steps by model, shape, degree and batch, with one process per device.

    Use the table with the setting ``costs``. Example: genserve profile --out costs.json --degree 1 --degree 2
    """
    if from_log:
        _take_from_log(from_log, out, name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from genserve.config import load_settings
    from genserve.diffusion.accelerator import count_gpus, pick_place
    from genserve.diffusion.catalog import Catalog
    from genserve.profile.plan import degrees_of, tasks_of
    from genserve.profile.run import Meters
    from genserve.profile.run import profile as measure

    settings = load_settings()
    catalog, folder = Catalog.load(settings.catalog), models_dir or settings.models
    entries = [e for e in catalog.models if e.folder(folder).is_dir() and (not model or e.name in model)]
    if not entries:
        raise CallerError("checkpoint_not_found", f"no checkpoint of the catalog is in {folder}", "models_dir")
    kind = pick_place(device).split(":")[0]
    degrees = degrees_of(degree or (), gpus=count_gpus() if kind == "cuda" else None)
    tasks = list(
        tasks_of(entries, degrees=degrees, batches=tuple(batch or (2, 4)), shapes=[_shape(s) for s in size or ()])
    )
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    threads = settings.cluster.threads_per_worker
    with (
        Progress(*columns, console=Console(stderr=True)) as bar,
        Meters(max(degrees), catalog, folder, device=kind, threads=threads) as meters,
    ):
        line = bar.add_task("loading models", total=len(tasks))
        table = measure(
            tasks,
            meters,
            name=name or f"measured on {kind}",
            repeats=repeats,
            progress=lambda task: bar.update(line, advance=1, description=str(task)),
        )
    out.write_bytes(table.to_json())
    typer.echo(f"{len(table.stages)} costs on {table.device} in {out}")


def _take_from_log(database: str, out: Path, name: str) -> None:
    import msgspec

    from genserve.cli.logs import read_history
    from genserve.profile.from_log import costs_of_log

    table = costs_of_log(read_history(database), name=name or f"log {database}")
    if not table.stages:
        raise CallerError("nothing_recorded", f"nothing was run or priced in {database}")
    out.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1))
    typer.echo(f"{len(table.stages)} costs out of the log in {out}")


def _shape(text: str) -> Shape:
    sides = text.split("x")
    if len(sides) not in (2, 3) or not all(side.isdigit() for side in sides):
        raise CallerError("invalid_size", f"a shape is WIDTHxHEIGHT or WIDTHxHEIGHTxFRAMES, not {text!r}", "size")
    return Shape(*(int(side) for side in sides))
