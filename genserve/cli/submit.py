"""``genserve submit``: make one image or video and save the file; not how requests run."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genserve.cli.exits import ExitCode
from genserve.cli.options import DEFAULT_URL, ApiKey, AsJson, Url, parse_duration_ms, print_json
from genserve.errors import CallerError, GenServeError, RefusedByPolicy

if TYPE_CHECKING:
    from genserve.cli.client import Client

Prompt = Annotated[str, typer.Argument(help="What to generate.")]
Model = Annotated[str | None, typer.Option(help="Model name; the server's first of that kind by default.")]
Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels.")]
Seed = Annotated[int | None, typer.Option(help="For the same result again; random by default.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale.")]
Negative = Annotated[str | None, typer.Option(help="What not to generate.")]
Slo = Annotated[str | None, typer.Option(metavar="DURATION", help="Due this long from now: 500ms, 30s, 2m.")]
Deadline = Annotated[str | None, typer.Option(help="Due at this time: ISO 8601 with a zone, or Unix seconds.")]
Priority = Annotated[int | None, typer.Option(help="-100 to 100.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="File to write; named by the id by default.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait and save the file, or print the id and leave.")]

group = typer.Typer(no_args_is_help=True, help="Make an image or a video and save the file.")


def add_to(app: typer.Typer) -> None:
    app.add_typer(group, name="submit")


@group.command("image")
def submit_image(
    prompt: Prompt,
    *,
    model: Model = None,
    size: Size = None,
    seed: Seed = None,
    steps: Steps = None,
    guidance: Guidance = None,
    negative: Negative = None,
    slo: Slo = None,
    deadline: Deadline = None,
    priority: Priority = None,
    output_format: Annotated[str | None, typer.Option("--format", help="png, webp or jpeg.")] = None,
    out: Out = None,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
) -> None:
    """Make one image.

    Example: genserve submit image "a lighthouse in a storm" --size 512x512 --slo 10s --out lighthouse.png
    """
    body = _body(
        prompt,
        model=model,
        size=size,
        seed=seed,
        steps=steps,
        guidance=guidance,
        negative=negative,
        slo=slo,
        deadline=deadline,
        priority=priority,
    )
    if output_format is not None:
        body["output_format"] = output_format
    _submit("image", body, out=out, wait=wait, as_json=as_json, url=url, api_key=api_key)


@group.command("video")
def submit_video(
    prompt: Prompt,
    *,
    model: Model = None,
    size: Size = None,
    seconds: Annotated[str | None, typer.Option(help="Length; rounded to what the model can do.")] = None,
    frames: Annotated[int | None, typer.Option(help="Exact number of frames, in place of --seconds.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames per second.")] = None,
    seed: Seed = None,
    steps: Steps = None,
    guidance: Guidance = None,
    negative: Negative = None,
    slo: Slo = None,
    deadline: Deadline = None,
    priority: Priority = None,
    out: Out = None,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
) -> None:
    """Make one video.

    Example: genserve submit video "waves at dusk" --seconds 4 --slo 2m --out waves.mp4
    """
    body = _body(
        prompt,
        model=model,
        size=size,
        seed=seed,
        steps=steps,
        guidance=guidance,
        negative=negative,
        slo=slo,
        deadline=deadline,
        priority=priority,
    )
    extra = {"seconds": seconds, "num_frames": frames, "fps": fps}
    body |= {name: value for name, value in extra.items() if value is not None}
    _submit("video", body, out=out, wait=wait, as_json=as_json, url=url, api_key=api_key)


def _body(
    prompt: str,
    *,
    model: str | None,
    size: str | None,
    seed: int | None,
    steps: int | None,
    guidance: float | None,
    negative: str | None,
    slo: str | None,
    deadline: str | None,
    priority: int | None,
) -> dict[str, Any]:
    fields = {
        "prompt": prompt,
        "model": model,
        "size": size,
        "seed": seed,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative,
        "slo_ms": None if slo is None else parse_duration_ms(slo),
        "deadline": deadline,
        "priority": priority,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _submit(
    media: str, body: dict[str, Any], *, out: Path | None, wait: bool, as_json: bool, url: str, api_key: str
) -> None:
    from genserve.cli.client import Client

    if out is not None and not out.absolute().parent.is_dir():
        raise CallerError("cannot_write", f"there is no folder {out.absolute().parent}; create it, or change --out")
    key = uuid.uuid4().hex
    with Client(url, api_key) as client:
        if media == "image":
            request_id = client.submit_image(body, key=key)
        else:
            request_id = str(client.post("/v1/videos", body, key=key)["id"])
        if not wait:
            print_json({"id": request_id}) if as_json else typer.echo(request_id)
            return
        try:
            found = _watch(client, request_id, quiet=as_json)
        except KeyboardInterrupt:
            typer.echo(f"\n{request_id} goes on; 'genserve cancel {request_id}' stops it", err=True)
            sys.exit(ExitCode.INTERRUPTED)
        _finish(client, found, out=out, as_json=as_json)


def _watch(client: Client, request_id: str, *, quiet: bool) -> dict[str, Any]:
    """The request once it has ended; where no event stream is to be had, it is polled."""
    from genserve.cli.progress import show_progress

    try:
        show_progress(client.follow(request_id), request_id, quiet=quiet)
    except RefusedByPolicy as error:
        if error.code != "too_many_streams":
            raise
    return client.wait(request_id)


def _finish(client: Client, found: dict[str, Any], *, out: Path | None, as_json: bool) -> None:
    request_id, media = str(found["id"]), str(found["media"])
    if found["status"] != "completed":
        if as_json:
            print_json(found)
        error = found["error"] or {"code": found["status"], "message": f"{request_id} is {found['status']}"}
        raise GenServeError(error["code"], error["message"])
    content = client.download(f"/v1/{media}s/{request_id}/content")
    path = out or Path(f"{request_id}.{found['file_extension']}")
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CallerError("cannot_write", f"{path}: {error.strerror}; {request_id} is kept by the server") from error
    if as_json:
        print_json({**found, "file": str(path)})
        return
    took_s, slack_s = found["latency_ms"] / 1000, found["deadline"] - found["finished_at"]
    verdict = f"{slack_s:.1f} s before its deadline" if found["deadline_met"] else f"{-slack_s:.1f} s late"
    typer.echo(f"{path}: {len(content):,} bytes in {took_s:.1f} s, {verdict}, paused {found['pauses']} times")
