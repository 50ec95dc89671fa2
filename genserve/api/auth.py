"""Who is calling: API keys to tenants, and signed links for image URLs; not what a tenant may do.

Without configured keys everybody is the one tenant "", whatever the Authorization header says. A key itself is never
stored or logged: a tenant is named by the key's hash.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from fastapi import Depends, Request

from genserve.api.context import ApiContext
from genserve.config import Settings
from genserve.errors import CallerError

LINK_LIFETIME_S = 24 * 3600


def tenant_of(key: str) -> str:
    """A tenant's name, from which the key cannot be found."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def authenticate(request: Request, api: ApiContext) -> str:
    """The caller's tenant; raises CallerError ``invalid_api_key``."""
    keys = api.settings.http.api_keys
    if not keys:
        return ""
    key = _match(_bearer(request), keys)
    if key is None:
        message = "missing or wrong API key; send the header 'Authorization: Bearer <key>'"
        raise CallerError("invalid_api_key", message, "Authorization")
    return tenant_of(key)


Tenant = Annotated[str, Depends(authenticate)]
AUTHENTICATED = [Depends(authenticate)]
"""For routes that don't care who it is."""


def authenticate_link(request: Request, api: ApiContext, request_id: str) -> str:
    """As authenticate, but a signed link of that request will do: browsers fetch image URLs without headers."""
    query = request.query_params
    signature, expires = query.get("signature"), query.get("expires", "")
    if not api.settings.http.api_keys or signature is None:
        return authenticate(request, api)
    if not (expires.isascii() and expires.isdigit() and len(expires) < 16):
        raise CallerError("invalid_api_key", "the link's 'expires' is no time; fetch the link again", "expires")
    for key in api.settings.http.api_keys:
        if hmac.compare_digest(_signature(key, request_id, int(expires)).encode(), signature.encode()):
            if int(expires) * 1_000_000 < api.clock():
                raise CallerError("invalid_api_key", "this link has expired; fetch it again", "expires")
            return tenant_of(key)
    raise CallerError("invalid_api_key", "this link's signature is wrong; fetch the link again", "signature")


LinkTenant = Annotated[str, Depends(authenticate_link)]


def link_query(settings: Settings, request_id: str, *, tenant: str, now_us: int) -> str:
    """What to append to a link so that it opens without a header; "" while authentication is off."""
    for key in settings.http.api_keys:
        if tenant_of(key) == tenant:
            expires = now_us // 1_000_000 + LINK_LIFETIME_S
            return f"?expires={expires}&signature={_signature(key, request_id, expires)}"
    return ""


def _bearer(request: Request) -> bytes:
    """The key as it was sent: headers are bytes, which Starlette shows as Latin-1."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip().encode("latin-1") if scheme.lower() == "bearer" else b""


def _match(key: bytes, known: tuple[str, ...]) -> str | None:
    """Compares with every known key in constant time, so that the time taken says nothing about which one is near."""
    found = None
    for candidate in known:
        if hmac.compare_digest(candidate.encode(), key):
            found = candidate
    return found


def _signature(key: str, request_id: str, expires: int) -> str:
    return hmac.new(key.encode(), f"{request_id}:{expires}".encode(), hashlib.sha256).hexdigest()
