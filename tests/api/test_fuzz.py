"""Whatever is sent, the answer is a result or a coded refusal: never a 500, never half a record."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genserve.api.schemas import UNSUPPORTED, ImageBody, VideoBody
from genserve.config import Settings
from tests.api.conftest import a_client
from tests.api.fake_gateway import FakeClock, FakeGateway

FIELDS = [*ImageBody.model_fields, *VideoBody.model_fields, *UNSUPPORTED, "nonsense"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["64x64", "tiny-wan", "tiny-sd3", "png", "1", "inf", "1e999", "2027-01-15T08:00:09Z", "\ud800"])
    | st.sampled_from([10**400, 1e308, -1e308, "9" * 5000, 8, 64, 17])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6)
PATIENT = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def post(path: str, **how: Any) -> httpx.Response:
    clock = FakeClock()
    gateway = FakeGateway(clock)
    async with a_client(gateway, clock, Settings()) as client:
        reply = await client.post(path, **how)
    await gateway.stop()
    if reply.status_code != 200:
        assert reply.json()["error"]["code"]
        assert gateway.rows == {}
    return reply


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/videos"])
@given(fields=BODIES, has_prompt=st.booleans())
@PATIENT
async def test_no_json_body_is_answered_with_a_500(path: str, fields: dict[str, Any], has_prompt: bool) -> None:
    body = {"prompt": "a cat", **fields} if has_prompt else fields
    raw = json.dumps(body).encode()  # NaN and Infinity included
    reply = await post(path, content=raw, headers={"content-type": "application/json"})
    assert reply.status_code < 500


@given(fields=st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=20) | st.sampled_from(["1", "nan", "1e999"])))
@PATIENT
async def test_no_form_is_answered_with_a_500(fields: dict[str, str]) -> None:
    clean = {name: (None, value.encode("utf-8", "surrogatepass")) for name, value in fields.items()}
    reply = await post("/v1/videos", files={"prompt": (None, "waves"), **clean})
    assert reply.status_code < 500


@given(
    raw=st.binary(max_size=200), content_type=st.sampled_from(["application/json", "multipart/form-data; boundary=B"])
)
@PATIENT
async def test_no_bytes_are_answered_with_a_500(raw: bytes, content_type: str) -> None:
    reply = await post("/v1/videos", content=raw, headers={"content-type": content_type})
    assert 400 <= reply.status_code < 500


@pytest.mark.parametrize("value", ["", "\x00", "9" * 30, "-1", "é", "%", "٣"])
@pytest.mark.parametrize("name", ["limit", "order", "after", "media", "variant", "expires", "signature"])
async def test_no_query_is_answered_with_a_500(client: httpx.AsyncClient, name: str, value: str) -> None:
    for path in ("/v1/videos", "/v1/requests", "/v1/videos/x/content", "/v1/requests/x/events"):
        assert (await client.get(path, params={name: value})).status_code < 500
