"""One format for both kinds of logger, and no secret or prompt in any line."""

from __future__ import annotations

import json
import logging

import pytest
from msgspec import Struct

from observability.logging import MASK, get_logger, setup_logging
from tests.capture import captured_log

KEY = "gs-0123456789"


class Spec(Struct):
    prompt: str
    steps: int


def one_line(log_format: str = "json", secrets: tuple[str, ...] = (), **fields: object) -> str:
    with captured_log(log_format=log_format, secrets=secrets) as out:
        get_logger("test").info("said", **fields)
    return out.getvalue()


def test_a_json_line_has_event_level_logger_time_and_fields() -> None:
    line = json.loads(one_line(position=7, request_id="r1"))
    assert {"timestamp"} == set(line) - {"event", "level", "logger", "position", "request_id"}
    assert (line["event"], line["level"], line["logger"]) == ("said", "info", "test")
    assert (line["position"], line["request_id"]) == (7, "r1")


def test_a_console_line_is_one_line_without_colours_when_nobody_is_there_to_see_them() -> None:
    line = one_line("console", position=7)
    assert line.count("\n") == 1
    assert "position=7" in line
    assert "\x1b" not in line


def test_the_standard_library_speaks_the_same_format() -> None:
    with captured_log() as out:
        logging.getLogger("some.library").warning("replica %s died", "a")
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"], line["logger"]) == ("replica a died", "warning", "some.library")


def test_lines_below_the_level_are_not_written() -> None:
    with captured_log(level="warning") as out:
        get_logger("test").info("quiet")
        logging.getLogger("test").info("quiet")
        get_logger("test").warning("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


def test_setting_up_twice_does_not_write_twice() -> None:
    with captured_log() as out:
        setup_logging(log_format="json", stream=out)
        logging.getLogger("test").warning("once")
    assert out.getvalue().count("once") == 1


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "fields",
    [
        {"authorization": f"Bearer {KEY}"},
        {"headers": {"Authorization": KEY, "X-Api-Key": KEY}},
        {"api_keys": [KEY]},
        {"message": f"got authorization: bearer {KEY} from 127.0.0.1"},
        {"url": f"postgresql+psycopg://genserve:{KEY}@db/genserve"},
        {"nested": [{"deep": {"session_token": KEY}}]},
        {"text": f"api_key={KEY}, next"},
    ],
)
def test_secrets_are_masked_wherever_they_hide(log_format: str, fields: dict[str, object]) -> None:
    line = one_line(log_format, **fields)
    assert KEY not in line
    assert MASK in line


def test_configured_keys_are_masked_even_where_nothing_gives_them_away() -> None:
    assert KEY not in one_line(secrets=(KEY,), odd=f"<{KEY}>")


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a secret garden"},
        {"negative_prompt": "a secret garden"},
        {"spec": Spec("a secret garden", 4)},
        {"body": {"prompt": "a secret garden"}},
        {"error": "invalid body {'prompt': 'a secret garden'}"},
    ],
)
def test_prompts_are_never_written(fields: dict[str, object]) -> None:
    assert "garden" not in one_line(**fields)


def test_a_prompt_is_shown_as_its_length_and_counts_of_tokens_are_kept() -> None:
    line = json.loads(one_line(prompt="1234", prompt_tokens=77))
    assert (line["prompt"], line["prompt_tokens"]) == ("[4 chars]", 77)


def test_secrets_in_a_traceback_are_masked_in_both_kinds_of_logger() -> None:
    with captured_log() as out:
        try:
            raise ValueError(f"Bearer {KEY} is not known")
        except ValueError:
            logging.getLogger("test").exception("failed")
            get_logger("test").exception("failed")
    assert out.getvalue().count("ValueError") >= 2
    assert KEY not in out.getvalue()


@pytest.mark.parametrize("wrong", [{"log_format": "xml"}, {"level": "loud"}])
def test_a_wrong_setting_says_what_is_allowed(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must be"):
        setup_logging(**wrong)  # type: ignore[arg-type]
