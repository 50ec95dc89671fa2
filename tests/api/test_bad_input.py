"""Every refusal: a stable code, the field at fault, and a message that says what to change; nothing is recorded."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from genserve.config import Http, Limits, Settings
from tests.api.conftest import a_client
from tests.api.fake_gateway import FakeClock, FakeGateway

IMAGES, VIDEOS = "/v1/images/generations", "/v1/videos"
NOW_S = 1_800_000_000

REFUSED: list[tuple[str, dict[str, Any], str, str, str]] = [
    # (route, fields, code, param, what the message says)
    (IMAGES, {"model": "sora-2"}, "model_not_found", "model", "there are: tiny-sd3, tiny-wan, tiny-flux"),
    (IMAGES, {"model": "tiny-wan"}, "wrong_media", "model", "models that make images: tiny-sd3, tiny-flux"),
    (VIDEOS, {"model": "tiny-sd3"}, "wrong_media", "model", "models that make videos: tiny-wan"),
    (IMAGES, {"size": "100x100"}, "invalid_size", "size", "use a multiple of 16 from 32 to 768"),
    (IMAGES, {"size": "4096x4096"}, "invalid_size", "size", "from 32 to 768"),
    (IMAGES, {"size": "big"}, "invalid_size", "size", "for example 256x256"),
    (VIDEOS, {"size": "72x64"}, "invalid_size", "size", "use a multiple of 16"),
    (VIDEOS, {"width": 64}, "missing_field", "height", "add height"),
    (VIDEOS, {"width": 64, "height": 64, "size": "64x64"}, "conflicting_parameters", "size", "not both"),
    (VIDEOS, {"num_frames": 16}, "invalid_frames", "num_frames", "use a multiple of 4 plus 1, up to 49"),
    (VIDEOS, {"num_frames": 53}, "invalid_frames", "num_frames", "up to 49"),
    (VIDEOS, {"num_frames": 0}, "invalid_frames", "num_frames", "for example 1"),
    (VIDEOS, {"num_frames": 5, "seconds": "1"}, "conflicting_parameters", "num_frames", "not both"),
    (VIDEOS, {"seconds": "60"}, "invalid_seconds", "seconds", "at most 49 frames, 6 seconds at 8 frames"),
    (VIDEOS, {"seconds": "-1"}, "invalid_seconds", "seconds", "such as '2'"),
    (VIDEOS, {"seconds": "two"}, "invalid_seconds", "seconds", "such as '2'"),
    (VIDEOS, {"fps": 0}, "invalid_fps", "fps", "1 to 60 frames per second"),
    (IMAGES, {"num_inference_steps": 0}, "invalid_steps", "num_inference_steps", "takes 1 to 100 steps"),
    (IMAGES, {"num_inference_steps": 101}, "invalid_steps", "num_inference_steps", "takes 1 to 100 steps"),
    (IMAGES, {"num_inference_steps": 201}, "invalid_steps", "num_inference_steps", "at most 200 steps"),
    (IMAGES, {"prompt": "x" * 2001}, "prompt_too_long", "prompt", "at most 2000"),
    (IMAGES, {"prompt": "x" * 4001}, "prompt_too_long", "prompt", "at most 4000"),
    (IMAGES, {"negative_prompt": "x" * 2001}, "prompt_too_long", "negative_prompt", "at most 2000"),
    (IMAGES, {"prompt": " "}, "empty_prompt", "prompt", "describe what to generate"),
    (IMAGES, {"prompt": "a\x00b"}, "invalid_value", "prompt", "remove it"),
    (IMAGES, {"n": 0}, "invalid_n", "n", "1 to 10"),
    (IMAGES, {"n": 11}, "invalid_n", "n", "1 to 10"),
    (IMAGES, {"n": "3"}, "invalid_value", "n", "valid integer"),
    (IMAGES, {"guidance_scale": 31}, "invalid_guidance_scale", "guidance_scale", "0 to 30.0"),
    (IMAGES, {"guidance_scale": -1}, "invalid_guidance_scale", "guidance_scale", "0 to 30.0"),
    (IMAGES, {"seed": -1}, "invalid_seed", "seed", "a seed is 0 to"),
    (IMAGES, {"seed": 2**63 - 1, "n": 2}, "invalid_seed", "seed", "a seed is 0 to"),
    (IMAGES, {"priority": 101}, "invalid_priority", "priority", "-100 to 100"),
    (IMAGES, {"slo_ms": -5}, "invalid_slo", "slo_ms", "1 to 86400000 milliseconds"),
    (IMAGES, {"slo_ms": 0}, "invalid_slo", "slo_ms", "1 to 86400000 milliseconds"),
    (IMAGES, {"slo_ms": 86_400_001}, "invalid_slo", "slo_ms", "1 to 86400000 milliseconds"),
    (IMAGES, {"deadline": NOW_S - 1}, "deadline_in_past", "deadline", "1 s in the past"),
    (IMAGES, {"deadline": "2020-01-01T00:00:00Z"}, "deadline_in_past", "deadline", "give a later one"),
    (IMAGES, {"deadline": "2027-01-15T08:00:01"}, "invalid_deadline", "deadline", "append Z"),
    (IMAGES, {"deadline": "tomorrow"}, "invalid_deadline", "deadline", "ISO 8601"),
    (IMAGES, {"deadline": 1e300}, "invalid_deadline", "deadline", "earlier"),
    (IMAGES, {"deadline": NOW_S + 5, "slo_ms": 5}, "conflicting_parameters", "deadline", "not both"),
    (IMAGES, {"promt": "x"}, "unknown_field", "promt", "did you mean 'prompt'?"),
    (IMAGES, {"xyzzy": 1}, "unknown_field", "xyzzy", "remove it"),
    (VIDEOS, {"n": 2}, "unknown_field", "n", "remove it"),
    (IMAGES, {"image": "data:"}, "unsupported_parameter", "image", "from text only"),
    (VIDEOS, {"input_reference": "file-1"}, "unsupported_parameter", "input_reference", "from text only"),
    (IMAGES, {"background": "transparent"}, "invalid_value", "background", "'auto' or 'opaque'"),
    (IMAGES, {"output_format": "gif"}, "invalid_value", "output_format", "'png', 'webp' or 'jpeg'"),
    (IMAGES, {"response_format": "file"}, "invalid_value", "response_format", "'b64_json' or 'url'"),
    (IMAGES, {"stream": True, "response_format": "url"}, "conflicting_parameters", "response_format", "drop"),
    (IMAGES, {"partial_images": 4, "stream": True}, "invalid_partial_images", "partial_images", "0 to 3"),
]


@pytest.fixture
def nothing_recorded(gateway: FakeGateway) -> Any:
    yield
    assert gateway.rows == {}


def error_of(reply: httpx.Response) -> dict[str, Any]:
    """The envelope, whose shape is checked."""
    error = dict(reply.json()["error"])
    assert error.keys() == {"message", "type", "param", "code"}
    return error


@pytest.mark.usefixtures("nothing_recorded")
@pytest.mark.parametrize(("route", "fields", "code", "param", "says"), REFUSED)
async def test_a_wrong_field_is_refused_with_what_to_change(
    client: httpx.AsyncClient, route: str, fields: dict[str, Any], code: str, param: str, says: str
) -> None:
    reply = await client.post(route, json={"prompt": "a cat", **fields})
    error = error_of(reply)
    assert (error["code"], error["param"]) == (code, param)
    assert says in error["message"]
    assert reply.status_code == (404 if code == "model_not_found" else 400)
    assert error["type"] == "invalid_request_error"


@pytest.mark.usefixtures("nothing_recorded")
@pytest.mark.parametrize(
    "raw", ["{", "", "[]", '"x"', "null", '{"prompt": NaN}', "[" * 100_000, "\xff\xfe", "9" * 5000]
)
async def test_malformed_json_is_refused(client: httpx.AsyncClient, raw: str) -> None:
    headers = {"content-type": "application/json"}
    reply = await client.post(IMAGES, content=raw.encode("latin-1"), headers=headers)
    assert (reply.status_code, error_of(reply)["code"]) == (400, "malformed_json")


@pytest.mark.usefixtures("nothing_recorded")
@pytest.mark.parametrize("route", [IMAGES, VIDEOS])
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense", None])
async def test_a_wrong_content_type_is_refused(client: httpx.AsyncClient, route: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    reply = await client.post(route, content=b'{"prompt": "x"}', headers=headers)
    assert (reply.status_code, error_of(reply)["code"]) == (415, "unsupported_media_type")
    assert "send application/json" in error_of(reply)["message"]


@pytest.mark.usefixtures("nothing_recorded")
async def test_images_take_no_forms(client: httpx.AsyncClient) -> None:
    reply = await client.post(IMAGES, files={"prompt": (None, "x")})
    assert error_of(reply)["code"] == "unsupported_media_type"


BOUNDARY = "multipart/form-data; boundary=B"
PROMPT = b'--B\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n'


@pytest.mark.usefixtures("nothing_recorded")
@pytest.mark.parametrize(
    ("content_type", "raw", "code"),
    [
        ("multipart/form-data", b"", "malformed_form"),
        (BOUNDARY, b"garbage", "malformed_form"),
        (BOUNDARY, b"--B\r\nnot a header\r\n\r\n--B--", "malformed_form"),
        (BOUNDARY, PROMPT + PROMPT + b"--B--", "duplicate_field"),
        (BOUNDARY, PROMPT.replace(b'"prompt"', b'"prompt"; filename="f"') + b"--B--", "invalid_value"),
        (
            BOUNDARY,
            PROMPT + PROMPT.replace(b'"prompt"', b'"input_reference"; filename="f"') + b"--B--",
            "unsupported_parameter",
        ),
        (BOUNDARY, PROMPT + PROMPT.replace(b"prompt", b"fps") + b"--B--", "invalid_value"),
        (BOUNDARY, PROMPT.replace(b"prompt", b"model") + b"--B--", "missing_field"),
    ],
)
async def test_a_broken_form_is_refused(client: httpx.AsyncClient, content_type: str, raw: bytes, code: str) -> None:
    reply = await client.post(VIDEOS, content=raw, headers={"content-type": content_type})
    assert (reply.status_code, error_of(reply)["code"]) == (400, code)


@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.parametrize("route", [IMAGES, VIDEOS])
async def test_a_body_over_the_limit_is_refused_announced_or_not(
    gateway: FakeGateway, clock: FakeClock, route: str, is_announced: bool
) -> None:
    raw = json.dumps({"prompt": "x" * 300}).encode()

    async def chunks() -> Any:
        for start in range(0, len(raw), 100):
            yield raw[start : start + 100]

    async with a_client(gateway, clock, Settings(http=Http(max_body_bytes=200))) as client:
        headers = {"content-type": "application/json"}
        reply = await client.post(route, content=raw if is_announced else chunks(), headers=headers)
    assert (reply.status_code, error_of(reply)["code"]) == (413, "body_too_large")
    assert "200 bytes" in error_of(reply)["message"]
    assert gateway.rows == {}


async def test_a_large_form_is_refused_while_it_streams_in(gateway: FakeGateway, clock: FakeClock) -> None:
    async def chunks() -> Any:
        yield PROMPT
        for _ in range(10):
            yield b'--B\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + b"y" * 100 + b"\r\n"

    async with a_client(gateway, clock, Settings(http=Http(max_body_bytes=300))) as client:
        reply = await client.post(VIDEOS, content=chunks(), headers={"content-type": BOUNDARY})
    assert error_of(reply)["code"] == "body_too_large"


async def test_configured_limits_are_obeyed(gateway: FakeGateway, clock: FakeClock) -> None:
    limits = Limits(max_images_per_call=2, max_steps=5, max_prompt_chars=10, max_slo_s=60)
    codes = []
    async with a_client(gateway, clock, Settings(limits=limits)) as client:
        for fields in ({"n": 3}, {"num_inference_steps": 6}, {"prompt": "x" * 11}, {"slo_ms": 60_001}):
            reply = await client.post(IMAGES, json={"prompt": "a cat", **fields})
            codes.append(error_of(reply)["code"])
    assert codes == ["invalid_n", "invalid_steps", "prompt_too_long", "invalid_slo"]


UNKNOWN_ID = [
    ("GET", "/v1/videos/vid_x", "video_not_found"),
    ("DELETE", "/v1/videos/vid_x", "video_not_found"),
    ("GET", "/v1/videos/vid_x/content", "video_not_found"),
    ("GET", "/v1/requests/nope", "request_not_found"),
    ("DELETE", "/v1/requests/nope", "request_not_found"),
    ("GET", "/v1/requests/nope/events", "request_not_found"),
    ("GET", "/v1/images/img_x/content", "request_not_found"),
    ("GET", "/v1/requests/%00%ff", "request_not_found"),
    ("GET", "/v1/videos?after=vid_x", "video_not_found"),
    ("GET", "/v1/models/nope", "model_not_found"),
    ("GET", "/v1/nope", "route_not_found"),
    ("GET", "/v1/videos/", "route_not_found"),
    ("POST", "/", "route_not_found"),
]


@pytest.mark.parametrize(("method", "path", "code"), UNKNOWN_ID)
async def test_what_does_not_exist_is_answered_in_the_envelope(
    client: httpx.AsyncClient, method: str, path: str, code: str
) -> None:
    reply = await client.request(method, path)
    assert (reply.status_code, error_of(reply)["code"]) == (404, code)


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("/v1/videos?limit=0", "invalid_limit", "1 to 100"),
        ("/v1/videos?limit=101", "invalid_limit", "1 to 100"),
        ("/v1/videos?limit=ten", "invalid_limit", "1 to 100"),
        ("/v1/videos?order=up", "invalid_order", "asc or desc"),
        ("/v1/requests?media=audio", "invalid_media", "image or video"),
    ],
)
async def test_a_wrong_query_is_refused(client: httpx.AsyncClient, path: str, code: str, says: str) -> None:
    reply = await client.get(path)
    assert (reply.status_code, error_of(reply)["code"]) == (400, code)
    assert says in error_of(reply)["message"]


async def test_a_wrong_method_is_answered_in_the_envelope(client: httpx.AsyncClient) -> None:
    reply = await client.put(IMAGES, json={})
    assert (reply.status_code, error_of(reply)["code"], reply.headers["allow"]) == (405, "method_not_allowed", "POST")


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/images/variations", "/v1/videos/vid_x/remix"])
async def test_what_openai_can_do_and_we_cannot_is_refused_by_name(client: httpx.AsyncClient, path: str) -> None:
    reply = await client.post(path, json={})
    assert (reply.status_code, error_of(reply)["code"]) == (400, "unsupported_parameter")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_wrong_idempotency_key_is_refused(client: httpx.AsyncClient, gateway: FakeGateway, key: str) -> None:
    reply = await client.post(VIDEOS, json={"prompt": "x"}, headers={"Idempotency-Key": key})
    assert error_of(reply)["code"] == "invalid_idempotency_key"
    assert gateway.rows == {}


async def test_harmless_openai_fields_are_accepted(client: httpx.AsyncClient) -> None:
    fields = {
        "quality": "high",
        "style": "vivid",
        "background": "auto",
        "moderation": "low",
        "output_compression": 80,
        "user": "u",
        "safety_identifier": "s",
        "size": "auto",
        "n": None,
        "image": None,
    }
    assert (await client.post(IMAGES, json={"prompt": "a cat", **fields})).status_code == 200


@pytest.mark.parametrize(
    "deadline", [NOW_S + 9, NOW_S + 9.0, str(NOW_S + 9), "2027-01-15T08:00:09Z", "2027-01-15T10:00:09+02:00"]
)
async def test_a_deadline_is_taken_in_every_documented_form(
    client: httpx.AsyncClient, gateway: FakeGateway, deadline: Any
) -> None:
    await client.post(VIDEOS, json={"prompt": "waves", "deadline": deadline})
    assert gateway.specs[0].deadline_us == (NOW_S + 9) * 1_000_000


@pytest.mark.parametrize(
    ("traceparent", "is_taken"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", True),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", False),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", False),
        ("nonsense", False),
    ],
)
async def test_only_a_valid_traceparent_is_continued(
    client: httpx.AsyncClient, gateway: FakeGateway, traceparent: str, is_taken: bool
) -> None:
    await client.post(VIDEOS, json={"prompt": "waves"}, headers={"traceparent": traceparent})
    assert gateway.specs[0].traceparent == (traceparent.removesuffix("-more") if is_taken else "")
