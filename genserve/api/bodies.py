"""From the bytes of a create call to a checked body; not whether a model can do it (see specs).

The openai client sends videos as multipart even without a file, so both forms are read; form fields are text, hence
read leniently ("12" is 12), JSON is read strictly.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from email.message import Message
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from genserve.api.schemas import UNSUPPORTED, CreateBody
from genserve.errors import CallerError, GenServeError

Body = TypeVar("Body", bound=CreateBody)

JSON = "application/json"
FORM = "multipart/form-data"
MAX_KEY_CHARACTERS = 255


async def read_body(request: Request, kind: type[Body], *, forms: bool = False) -> Body:
    """The checked body; raises CallerError with the field at fault."""
    content_type = _content_type(request)
    if content_type == JSON:
        return _check(kind, _parse_json(await request.body()), is_form=False)
    if content_type == FORM and forms:
        return _check(kind, await _parse_form(request), is_form=True)
    accepted = f"{JSON} or {FORM}" if forms else JSON
    message = f"the content type is {content_type or 'absent'!r}; send {accepted}"
    raise CallerError("unsupported_media_type", message, "Content-Type")


def body_hash(route: str, body: CreateBody) -> str:
    """What a repeated call has to agree on: the route and the fields, not their order or how they were sent."""
    fields = body.model_dump(mode="json", exclude_none=True)
    return hashlib.sha256(json.dumps([route, fields], sort_keys=True).encode()).hexdigest()


def idempotency_key(request: Request) -> str:
    """The Idempotency-Key header, "" where absent."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return ""
    if not (1 <= len(key) <= MAX_KEY_CHARACTERS and key.isascii() and key.isprintable()):
        message = f"an Idempotency-Key has 1 to {MAX_KEY_CHARACTERS} printable ASCII characters, a UUID for example"
        raise CallerError("invalid_idempotency_key", message, "Idempotency-Key")
    return key


def _content_type(request: Request) -> str:
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    return header.get_content_type() if request.headers.get("content-type") else ""


def _parse_json(raw: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(raw.decode(), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise CallerError("malformed_json", f"the body is no JSON: {error.msg} at {place}") from error
    except (ValueError, RecursionError) as error:
        raise CallerError("malformed_json", f"the body is no JSON: {error}") from error
    if not isinstance(tree, dict):
        raise CallerError("malformed_json", f"the body has to be a JSON object, not {type(tree).__name__}")
    return tree


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


async def _parse_form(request: Request) -> dict[str, Any]:
    try:
        async with request.form(max_files=4, max_fields=64) as form:
            items = [(name, "" if isinstance(value, UploadFile) else value) for name, value in form.multi_items()]
            files = {name for name, value in form.multi_items() if isinstance(value, UploadFile)}
    except (GenServeError, ClientDisconnect):
        raise
    except Exception as error:  # whatever the multipart parser trips over is in the body
        detail = getattr(error, "detail", None) or "its boundary or a part's header is broken"
        raise CallerError("malformed_form", f"the body is no {FORM}: {detail}") from error
    fields = dict(items)
    if len(fields) < len(items):
        twice = next(name for name, _ in items if sum(name == other for other, _ in items) > 1)
        raise CallerError("duplicate_field", f"field {twice!r} is given more than once; send it once", twice)
    for name in sorted(files - UNSUPPORTED.keys()):
        raise CallerError("invalid_value", f"field {name!r} is a file; send it as text", name)
    return fields


def _check(kind: type[Body], fields: dict[str, Any], *, is_form: bool) -> Body:
    for name in UNSUPPORTED.keys() & fields.keys():
        if fields.pop(name) is not None:
            message = f"{name} is not supported: {UNSUPPORTED[name]}; remove it"
            raise CallerError("unsupported_parameter", message, name)
    try:
        return kind.model_validate(fields, strict=not is_form)
    except ValidationError as error:
        raise _translate(error.errors(include_url=False, include_context=False)[0], kind) from error


def _translate(first: ErrorDetails, kind: type[CreateBody]) -> CallerError:
    field = str(first["loc"][0])[:100] if first["loc"] else ""
    if first["type"] == "missing":
        return CallerError("missing_field", f"{field} is required; add it", field)
    if first["type"] != "extra_forbidden":
        return CallerError("invalid_value", f"{field}: {first['msg']}", field)
    near = difflib.get_close_matches(field, kind.model_fields, 1)
    hint = f"did you mean {near[0]!r}?" if near else "remove it"
    return CallerError("unknown_field", f"unknown field {field!r}; {hint}", field)
