"""Settings: frozen, typed, from a TOML file and ``GENSERVE_`` environment variables; unknown keys are errors.

A variable names a key by its path with double underscores: ``GENSERVE_HTTP__PORT=8001``. Variables win over the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from genserve.errors import CallerError

PREFIX = "GENSERVE_"
CLIENT_VARIABLES = ("GENSERVE_URL", "GENSERVE_API_KEY")
"""Variables of the command line's client; a server started in the same shell passes them over."""

Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
RoutePrefix = Annotated[str, Meta(pattern=r"\A(/|(/[A-Za-z0-9][A-Za-z0-9._~-]*)+)\Z")]


class Http(Struct, frozen=True, forbid_unknown_fields=True):
    """The public door. With no ``api_keys`` authentication is off; keys are compared in constant time, never logged."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    route_prefix: RoutePrefix = "/"
    """Below which path every route is found, without a slash at the end: "/images"."""
    api_keys: tuple[str, ...] = ()
    max_body_bytes: Positive = 1_000_000
    public_url: str = ""
    """Prefix of artifact URLs in replies; by default the address the client called."""


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on everything a client can make grow."""

    max_queued: Positive = 1_000
    max_prompt_chars: Positive = 4_000
    max_images_per_call: Positive = 10
    max_steps: Positive = 200
    max_slo_s: Positive = 24 * 3600
    max_event_streams: Positive = 1_000


class Cluster(Struct, frozen=True, forbid_unknown_fields=True):
    """Workers and request actors. ``workers`` 0 means one per GPU, or two where there is none."""

    workers: Natural = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads_per_worker: Positive = 1
    parallel_backend: Literal["ulysses", "ring", "xfuser"] = "ulysses"
    """How workers share a step: diffusers' Ulysses or ring, or xfuser's USP, which is both (GPUs, genserve[gpu])."""
    placement: dict[str, tuple[str, ...]] = {}
    """By worker or pattern, the stages it holds from the start ("tiny-wan/denoise", "tiny-wan"); by default all."""
    memory_bytes: Natural = 0
    """Bound on the weights of one worker; 0 leaves only the device's own."""
    step_timeout_s: Annotated[float, Meta(gt=0)] = 20.0
    """How long workers that share a step wait for one of them that hangs, before they give their group up."""
    worker_timeout_s: Annotated[float, Meta(ge=1)] = 30.0
    """How long a worker may be silent before its requests go on elsewhere; it may come back any time."""
    request_actors: Positive = 4
    address: str = ""
    """A running Ray cluster to join; by default a local one is started."""
    name: Name = "genserve"
    """Of this cell in the cluster, and of its application in Ray Serve; no two that run side by side have the same."""


class Durability(Struct, frozen=True, forbid_unknown_fields=True):
    """How much work a crash may cost."""

    checkpoint_every_steps: Positive = 10
    progress_every_ms: Natural = 500


class Admission(Struct, frozen=True, forbid_unknown_fields=True):
    """Refusing at the door what cannot be promised its deadline; made for the planner save."""

    fill: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Share of the pool that may be promised: 0 admits everything, 0.75 was the best in simulation."""
    verdict_within_s: Annotated[float, Meta(ge=0, le=600)] = 0.0
    """For so long what does not fit is tested again, and its submission waits, before it is refused."""


class Telemetry(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing leaves the process unless the standard OTEL_EXPORTER_OTLP_ENDPOINT variables say where to."""

    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be configured, with working defaults."""

    data_dir: Path = Path("var")
    database_url: str = ""
    models_dir: Path | None = None
    catalog: Path | None = None
    costs: Path | None = None
    planner: str = "save"
    planner_parameters: dict[str, bool | int | float | str] = {}
    http: Http = Http()
    limits: Limits = Limits()
    cluster: Cluster = Cluster()
    durability: Durability = Durability()
    admission: Admission = Admission()
    telemetry: Telemetry = Telemetry()

    @property
    def database(self) -> str:
        """SQLAlchemy URL; SQLite in the data directory by default."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute()}/genserve.db"

    @property
    def models(self) -> Path:
        return self.models_dir or self.data_dir / "models"

    @property
    def artifacts(self) -> Path:
        return self.data_dir / "artifacts"

    @property
    def checkpoints(self) -> Path:
        return self.data_dir / "checkpoints"


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from a file (optional) and the environment.

    Raises CallerError ``invalid_config`` that names the key and the file or variable at fault.
    """
    tree = _read(path) if path else {}
    for name, value in sorted((os.environ if environ is None else environ).items()):
        if name.startswith(PREFIX) and name not in CLIENT_VARIABLES:
            _put(tree, name[len(PREFIX) :].lower().split("__"), value, name)
    try:
        return msgspec.convert(tree, Settings, strict=False, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise CallerError("invalid_config", f"{path or 'environment'}: {error}") from error


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected {kind.__name__}, got {value!r}")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CallerError("invalid_config", f"{path}: {error}") from error


def _put(tree: dict[str, Any], keys: list[str], value: str, name: str) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise CallerError("invalid_config", f"{name}: {key} is not a section")
    tree[keys[-1]] = value.split(",") if keys[-1] == "api_keys" else value
