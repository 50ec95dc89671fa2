"""A mixed load with deadlines, live: this server and a plain Ray Serve app take turns on the same arrivals.

    python -m benchmarks.bench_live [--quick] [--json FILE] [--planners save,fifo] [--loads 0.7,1.0,1.3]
                                    [--repeats 2] [--duration 40] [--sigma 2] [--slack 0.5] [--out var/bench-live]

In one run: measure a cost table for the load's shapes; time each class alone on the baseline (its unloaded latency);
then in turn, on the same workers, threads, models, prompts, sizes, seeds and arrivals: the baseline, and a cell with
each planner. Load 1.0 is as many requests as the baseline's workers could serve if they were never idle and nothing
else ran. A request is due after sigma times its unloaded latency plus the slack. Everything is measured by one
open-loop client, from the moment a request was to be sent until its file is here. Workers, scheduler, HTTP and the
client share the machine. Afterwards every log is simulated with the measured costs and compared with what happened.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.app import Cell
from benchmarks import live_report
from benchmarks.baseline_serve import start_baseline, stop_baseline
from benchmarks.live_idleness import idleness_of_logs, show_idleness
from benchmarks.live_load import (
    KINDS,
    SMALL_KINDS,
    Answer,
    Arrival,
    Kind,
    draw_arrivals,
    drive,
    send_to_baseline,
    send_to_genserve,
)
from benchmarks.live_reality import compare_logs, show_reality
from genserve.config import Cluster, Http, Settings, Telemetry
from genserve.diffusion.build import build_models
from genserve.diffusion.catalog import Catalog, parse_size
from genserve.domain.request import Shape
from genserve.profile.plan import tasks_of
from genserve.profile.run import Meters, profile

BASELINE = "baseline"
PORT = 8440
CALIBRATION_ROUNDS = 3


def measure_costs(options: argparse.Namespace) -> Path:
    """A cost table of the load's shapes, measured by the profiler on as many processes as there will be workers."""
    catalog, tasks = Catalog.load(), []
    for kind in options.kinds:
        shape = Shape(*parse_size(kind.body["size"]), kind.body.get("num_frames", 1))
        entry = catalog.get(kind.body["model"])
        tasks += list(tasks_of([entry], degrees=(1, 2), batches=(), shapes=[shape]))
    with Meters(options.workers, catalog, options.models, device=options.device, threads=options.threads) as meters:
        table = profile(tasks, meters, name="bench_live", repeats=options.profile_repeats)
    path: Path = options.out / "costs.json"
    path.write_bytes(table.to_json())
    return path


async def measure_alone(url: str, kinds: Sequence[Kind], rounds: int) -> dict[str, float]:
    """Unloaded latency of each class in seconds: the median of requests that have the baseline to themselves."""
    alone = {}
    for kind in kinds:
        times = []
        for index in range(rounds + 1):
            (answer,) = await drive(url, [Arrival(0.0, 1e9, kind, f"alone {index}", index)], send_to_baseline)
            if answer.latency_s is None:
                raise RuntimeError(f"the baseline did not answer: {answer.error}")
            times.append(answer.latency_s)
        alone[kind.name] = statistics.median(times[1:])
    return alone


class Turns:
    """The systems one after the other, each under every load; keeps all answers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.costs = Path()
        self.alone: dict[str, float] = {}
        self.answers: dict[str, dict[float, list[Answer]]] = {}
        self.logs: list[dict[str, str]] = []

    def run(self) -> None:
        options = self.options
        _say("measuring costs")
        self.costs = measure_costs(options)
        for repeat in range(options.repeats):
            self.take_baseline_turn(repeat)
            for planner in options.planners:
                self.take_our_turn(planner, repeat)

    def take_baseline_turn(self, repeat: int) -> None:
        options = self.options
        url = start_baseline(
            options.models, port=PORT, replicas=options.workers, device=options.device, threads=options.threads
        )
        try:
            if not self.alone:
                _say("timing each class alone on the baseline")
                self.alone = asyncio.run(measure_alone(url, options.kinds, CALIBRATION_ROUNDS))
            asyncio.run(self.take_loads(BASELINE, repeat, url))
        finally:
            stop_baseline()

    def take_our_turn(self, planner: str, repeat: int) -> None:
        folder = self.options.out / f"{planner}-{repeat}"
        shutil.rmtree(folder, ignore_errors=True)
        settings = Settings(
            data_dir=folder,
            models_dir=self.options.models,
            costs=self.costs,
            planner=planner,
            http=Http(port=PORT + 1),
            cluster=Cluster(
                workers=self.options.workers,
                device=self.options.device,
                threads_per_worker=self.options.threads,
            ),
            telemetry=Telemetry(log_level="warning"),
        )
        self.logs.append({"planner": planner, "repeat": str(repeat), "database": settings.database})
        asyncio.run(self.run_cell(planner, repeat, Cell(settings)))

    async def run_cell(self, planner: str, repeat: int, cell: Cell) -> None:
        await cell.start()
        try:
            await self.take_loads(planner, repeat, cell.url)
        finally:
            await cell.stop()

    async def take_loads(self, system: str, repeat: int, url: str) -> None:
        """Warm every worker up with every class, then each load until its last file is here."""
        send = send_to_baseline if system == BASELINE else send_to_genserve
        warm = [
            Arrival(0.0, 1e4, kind, f"warm {i}", i) for kind in self.options.kinds for i in range(self.options.workers)
        ]
        await drive(url, warm, send)
        for load in self.options.loads:
            _say(f"{system}, load {load}, repeat {repeat}")
            answers = await drive(url, self.draw(load, repeat), send)
            self.answers.setdefault(system, {}).setdefault(load, []).extend(answers)

    @property
    def latencies_s(self) -> dict[str, float]:
        """The client's, of our requests that were answered, by their ids."""
        every = [a for by_load in self.answers.values() for answers in by_load.values() for a in answers]
        return {a.request_id: a.latency_s for a in every if a.request_id and a.latency_s is not None}

    def draw(self, load: float, repeat: int) -> list[Arrival]:
        options = self.options
        mean_s = sum(kind.share * self.alone[kind.name] for kind in options.kinds)
        allowance_s = {name: options.sigma * s + options.slack for name, s in self.alone.items()}
        rate_per_s = load * options.workers / mean_s
        seed = 1000 * repeat + round(100 * load)
        return draw_arrivals(options.kinds, rate_per_s, options.duration, allowance_s, seed=seed)


def result_of(turns: Turns) -> dict[str, Any]:
    """Everything that was measured, as it goes to the JSON file."""
    options = turns.options
    names = ("workers", "threads", "device", "loads", "repeats", "duration", "sigma", "slack", "planners")
    return {
        "parameters": {name: getattr(options, name) for name in names},
        "kinds": {kind.name: {"share": kind.share, **kind.body} for kind in options.kinds},
        "alone_s": turns.alone,
        "costs": str(turns.costs),
        "logs": turns.logs,
        "systems": live_report.summarise(turns.answers, against=BASELINE),
        "reality": compare_logs(turns.logs, turns.costs, turns.latencies_s),
        "idleness": idleness_of_logs(turns.logs),
    }


def _say(line: str) -> None:
    print(f"bench_live: {line}", flush=True)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="A smoke run: small requests, one load, one planner.")
    parser.add_argument("--json", type=Path, help="Write everything to this file.")
    parser.add_argument("--out", type=Path, default=Path("var/bench-live"), help="Where logs and artifacts go.")
    parser.add_argument("--models", type=Path, default=Path("var/models"))
    parser.add_argument("--planners", type=lambda text: text.split(","), default=["save", "fifo"])
    parser.add_argument("--loads", type=_numbers, default=[0.7, 1.0, 1.3])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--duration", type=float, default=40.0, help="Seconds of arrivals for each load.")
    parser.add_argument("--sigma", type=float, default=2.0, help="Due after so many unloaded latencies ...")
    parser.add_argument("--slack", type=float, default=0.5, help="... and so many seconds more.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="Threads of each worker or replica.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda.")
    parser.add_argument("--profile-repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    options.kinds = KINDS
    if options.quick:
        options.kinds, options.planners, options.loads = SMALL_KINDS, options.planners[:1], [1.0]
        options.repeats, options.duration, options.profile_repeats = 1, 5.0, 1
    return options


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    build_models(options.models, Catalog.load())
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")  # a line per request is the client's time
    turns = Turns(options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        turns.run()
    result = result_of(turns)
    live_report.show(result, against=BASELINE)
    show_reality(result["reality"])
    show_idleness(result["idleness"])
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
