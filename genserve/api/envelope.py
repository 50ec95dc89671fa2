"""Every error as {"error": {"message", "type", "param", "code"}}, whoever raised it; not the table of codes (errors).

Statuses and ``type`` strings are OpenAI's. ``x-should-retry`` is what the openai client obeys: without it, it would
repeat a create whose request was accepted and failed.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genserve.errors import CallerError, GenServeError, InvariantBroken, RefusedByPolicy

_log = logging.getLogger("genserve.api")

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_body(error: GenServeError) -> dict[str, Any]:
    """The envelope. A bug's details are for our log, not for the client."""
    status = error.http_status
    default = "server_error" if status >= 500 else "invalid_request_error"
    message = error.message
    if isinstance(error, InvariantBroken):
        message = "something went wrong on our side; the server's log has the details"
    return {
        "error": {"message": message, "type": _TYPES.get(status, default), "param": error.param, "code": error.code}
    }


def error_response(error: GenServeError, *, headers: dict[str, str] | None = None) -> JSONResponse:
    """The reply to an error, with Retry-After where waiting helps."""
    extra = dict(headers or {})
    if isinstance(error, RefusedByPolicy):
        extra.setdefault("retry-after", str(max(1, math.ceil(error.retry_after_s))))
    if error.http_status == 401:
        extra.setdefault("www-authenticate", "Bearer")
    if error.http_status == 409:
        extra.setdefault("x-should-retry", "false")
    return JSONResponse(error_body(error), status_code=error.http_status, headers=extra)


def internal_error() -> InvariantBroken:
    return InvariantBroken("internal_error", "unexpected exception")


def install_error_handlers(app: FastAPI) -> None:
    """Translate our errors and the framework's."""
    app.add_exception_handler(GenServeError, _ours)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(RequestValidationError, _validation)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GenServeError)
    if isinstance(error, InvariantBroken):
        _log.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
    return error_response(error)


async def _framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    asked = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        docs = f"{request.scope.get('root_path', '')}/docs"
        known = CallerError("route_not_found", f"there is no {asked}; {docs} lists the routes")
    elif error.status_code == 405:
        allowed = headers.get("Allow", "another method")
        known = CallerError("method_not_allowed", f"{asked} is not served; use {allowed}")
    else:
        known = CallerError("malformed_request", str(error.detail))
    return error_response(known, headers=headers)


async def _validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = str(first["loc"][-1])
    return error_response(CallerError("invalid_value", f"{field}: {first['msg']}", field))


class CatchAll:
    """Outermost ASGI middleware: an exception nobody expected is logged and answered in the envelope too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            has_started = has_started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            _log.debug("client left during %s", scope.get("path"))
        except Exception:
            if scope["type"] != "http" or has_started:
                raise
            _log.exception("%s %s failed", scope["method"], scope["path"])
            await error_response(internal_error())(scope, receive, send)
