"""The openai client, unmodified, against a real server on a loopback port."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent

from genserve.config import Http, Settings
from genserve.errors import RefusedByPolicy
from tests.api.conftest import Served

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")


@pytest.fixture
def sdk(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


def test_images_as_base64(sdk: OpenAI) -> None:
    reply = sdk.images.generate(
        prompt="a cat",
        model="tiny-sd3",
        n=2,
        size="256x256",
        quality="high",
        background="auto",
        moderation="low",
        output_compression=90,
        user="u1",
        extra_body={"seed": 3, "slo_ms": 30_000},
    )
    assert reply.data is not None
    assert [base64.b64decode(image.b64_json or "")[:12] for image in reply.data] == [b"image 0 of i"] * 2
    assert (reply.size, reply.output_format) == ("256x256", "png")


def test_images_as_urls(sdk: OpenAI, served: Served) -> None:
    reply = sdk.images.generate(prompt="a cat", response_format="url")
    assert reply.data is not None
    assert (reply.data[0].url or "").startswith(f"{served.url}/v1/images/img_")


def test_images_streamed_with_partials(sdk: OpenAI) -> None:
    events = list(sdk.images.generate(prompt="a cat", stream=True, partial_images=3))
    assert [type(event) for event in events] == [ImageGenPartialImageEvent] * 3 + [ImageGenCompletedEvent]
    assert [event.partial_image_index for event in events if event.type == "image_generation.partial_image"] == [
        0,
        1,
        2,
    ]
    assert all(event.to_dict(warnings=True) for event in events)


def test_videos_created_polled_and_downloaded(sdk: OpenAI, served: Served) -> None:
    served.gateway.step_s = 0.005
    video = sdk.videos.create_and_poll(prompt="waves", model="tiny-wan", seconds="4", size="128x128")  # type: ignore[arg-type]
    assert (video.status, video.progress, video.seconds, video.size) == ("completed", 100, "4", "128x128")
    assert sdk.videos.download_content(video.id).read() == f"video 0 of {video.id}".encode()
    assert sdk.videos.download_content(video.id, variant="thumbnail").read().startswith(b"thumbnail")
    assert sdk.videos.download_content(video.id, variant="spritesheet").read().startswith(b"spritesheet")


def test_videos_listed_over_pages_and_deleted(sdk: OpenAI) -> None:
    created = {sdk.videos.create(prompt="waves").id for _ in range(3)}
    assert {video.id for video in sdk.videos.list(limit=2)} == created
    gone = created.pop()
    assert sdk.videos.delete(gone).deleted
    assert {video.id for video in sdk.videos.list(order="asc")} == created


def test_a_cancelled_video_ends_the_poll_as_failed(sdk: OpenAI, served: Served) -> None:
    served.gateway.step_s = 60.0
    video = sdk.videos.create(prompt="waves")
    sdk.videos.delete(video.id)
    polled = sdk.videos.poll(video.id)
    assert polled.status == "failed"
    assert polled.error is not None
    assert polled.error.code == "cancelled"


def test_models_are_listed(sdk: OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["tiny-sd3", "tiny-wan", "tiny-flux"]
    assert sdk.models.retrieve("tiny-wan").owned_by == "genserve"


def test_errors_are_those_of_the_client(sdk: OpenAI, served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.images.generate(prompt="a cat", size="100x100")
    assert (bad.value.code, bad.value.param, bad.value.type) == ("invalid_size", "size", "invalid_request_error")
    with pytest.raises(openai.NotFoundError):
        sdk.videos.retrieve("vid_unknown")
    served.gateway.outage = RefusedByPolicy("queue_full", "the queue is full", None, 2.0)
    with pytest.raises(openai.RateLimitError) as full:
        sdk.videos.create(prompt="waves")
    assert full.value.response.headers["retry-after"] == "2"


def test_a_reference_image_is_refused_by_name(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.videos.create(prompt="waves", input_reference=("a.png", b"png", "image/png"))
    assert bad.value.code == "unsupported_parameter"


def test_a_retried_create_with_a_key_makes_one_video(sdk: OpenAI, served: Served) -> None:
    headers = {"Idempotency-Key": "once"}
    ids = {sdk.videos.create(prompt="waves", extra_headers=headers).id for _ in range(3)}
    assert len(ids) == len(served.gateway.rows) == 1


def test_a_key_is_asked_for_where_one_is_configured() -> None:
    served = Served(Settings(http=Http(api_keys=("right",))))
    try:
        with OpenAI(base_url=f"{served.url}/v1", api_key="right") as sdk, warnings.catch_warnings():
            assert sdk.models.retrieve("tiny-sd3").id == "tiny-sd3"
        with OpenAI(base_url=f"{served.url}/v1", api_key="wrong") as sdk, pytest.raises(openai.AuthenticationError):
            sdk.models.list()
    finally:
        served.close()
