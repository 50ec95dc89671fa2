"""Full-size models with random weights on this machine's GPU: a cost table to ship, and a report beside it.

    python -m benchmarks.bench_gpu [--model NAME ...] [--out var/gpu] [--budget-s 540] [--device auto]

Writes OUT/costs.json, in the format of ``genserve profile``, and OUT/report.json: our loop against the plain diffusers
loop, checkpoints and copies to the host, where batching stops paying, memory by stage. Every model measured is a file
of its own in OUT/parts; a command that runs out of its budget is simply given again and goes on. Models are those of
the full-size catalog and of the shipped small ones: ``--device cpu --model tiny-sd3`` runs where there is no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from benchmarks.gpu_parts import Part, batching_limit, measure
from genserve.diffusion.accelerator import pick_place
from genserve.diffusion.build import build_models
from genserve.diffusion.catalog import Catalog
from genserve.diffusion.full_size import build_full_size, full_size_catalog
from genserve.diffusion.load import load_model
from genserve.diffusion.model import DiffusionModel
from genserve.domain.costs import Prices
from genserve.profile.run import PACKAGES, device_name
from genserve.profile.table import Profile, spread_of, stages_of
from genserve.scheduling.files import write_durably


def main() -> int:
    options = _options()
    device = pick_place(options.device)
    if device == "cpu" and options.device == "auto":
        print("no GPU here, nothing measured; --device cpu --model tiny-sd3 measures a small model on the CPU")
        return 0
    until = time.monotonic() + options.budget_s
    here = _here(device)
    for name in options.model or full_size_catalog().names:
        if time.monotonic() > until:
            print(f"{name}: no time left, give the command again")
            continue
        print(f"{name}: building on {here.device}", flush=True)
        path = options.out / "parts" / f"{name}.json"
        part = next((p for p in _read([path]) if is_same_place(p, here)), msgspec.structs.replace(here, model=name))
        measure(_build(name, device, options.models), part, until=until, keep=lambda p, path=path: _write(path, p))
        gc.collect()
    parts = [part for part in _read(sorted((options.out / "parts").glob("*.json"))) if is_same_place(part, here)]
    if parts:
        _write(options.out / "costs.json", table_of(parts, name=f"measured on {here.device}"))
        _write(options.out / "report.json", report_of(parts))
    for line in lines_of(parts):
        print(line)
    return 0


def is_same_place(one: Part, other: Part) -> bool:
    """Whether two parts may stand in one table: the same device and the same versions."""
    return (one.device, one.versions) == (other.device, other.versions)


def table_of(parts: Iterable[Part], *, name: str) -> Profile:
    """A cost table of everything measured; prices are those of the dearest model, as a profile's."""
    parts = list(parts)
    timings = [timing for part in parts for timing in part.timings]
    names = {key for part in parts for key in part.prices_us}
    prices = {key: max(part.prices_us.get(key, 0) for part in parts) for key in sorted(names)}
    return Profile(
        name=name,
        stages=stages_of(timings),
        prices=Prices(**prices),
        device=parts[0].device,
        versions=parts[0].versions,
        date=max(part.date for part in parts),
        spread=spread_of(timings),
        memory_bytes={key: size for part in parts for key, size in part.weights_bytes.items()},
    )


def report_of(parts: Iterable[Part]) -> dict[str, object]:
    """By model, what a cost table has no place for."""
    return {
        part.model: {
            "device": part.device,
            "versions": part.versions,
            "date": part.date,
            "loop_us": part.loop_us,
            "checkpoint": part.copies_us,
            "prices_us": part.prices_us,
            "batching_pays_up_to": batching_limit(part),
            "weights_bytes": part.weights_bytes,
            "peak_bytes": part.peak_bytes,
            "not_measured": part.refused,
            "left_out": part.left_out,
        }
        for part in parts
    }


def lines_of(parts: Iterable[Part]) -> Iterable[str]:
    """The ratios that matter, for people."""
    for part in parts:
        yield f"{part.model} on {part.device}, {len(part.timings)} costs, {len(part.left_out)} left out"
        if part.loop_us:
            ours, plain = part.loop_us["ours"], part.loop_us["plain"]
            yield f"  step {ours / 1e3:.1f} ms, plain loop {plain / 1e3:.1f} ms, ratio {ours / plain:.3f}"
        if part.copies_us:
            step, saving = part.copies_us["step"], part.copies_us["step_with_checkpoint"]
            yield f"  checkpoint {part.copies_us['take'] / 1e3:.2f} ms to take, adds {saving / step - 1:.2%} to a step"
        for name, us in sorted(part.prices_us.items()):
            yield f"  {name.removesuffix('_us')} {us / 1e3:.2f} ms"
        for shape, batch in batching_limit(part).items():
            yield f"  {shape}: batching pays up to {batch}"
        for stage, size in part.peak_bytes.items():
            yield f"  peak memory in {stage}: {size / 2**30:.1f} GiB"
        for task, reason in part.refused.items():
            yield f"  not measured: {task}, {reason}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=[*full_size_catalog().names, *Catalog.load().names])
    parser.add_argument("--out", type=Path, default=Path("var/gpu"))
    parser.add_argument("--models", type=Path, default=Path("var/models"), help="where small checkpoints are")
    parser.add_argument("--budget-s", type=float, default=540.0, help="no new measurement begins after that")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def _build(name: str, device: str, folder: Path) -> DiffusionModel:
    if name in full_size_catalog().names:
        return build_full_size(full_size_catalog().get(name), device)
    entry = Catalog.load().get(name)
    build_models(folder, Catalog(models=(entry,)))
    return load_model(entry, folder, device=device)


def _here(device: str) -> Part:
    """A part with nothing in it, of this device and these versions."""
    versions = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    if device != "cpu":
        versions["cuda"] = str(torch.version.cuda)
    return Part("", device_name(device), versions, datetime.datetime.now(datetime.UTC).date().isoformat())


def _read(paths: Iterable[Path]) -> Iterator[Part]:
    """The parts in those files; one that is absent or of another format is passed over."""
    for path in paths:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            yield msgspec.json.decode(path.read_bytes(), type=Part)


def _write(path: Path, value: object) -> None:
    write_durably(path, msgspec.json.format(msgspec.json.encode(value), indent=1))


if __name__ == "__main__":
    sys.exit(main())
