"""Addresses of Ray actors, without Ray: finding one needs no cluster."""

from __future__ import annotations

from actors.framework.ray_runtime import RayRuntime


async def test_an_address_is_looked_up_once_for_all_who_ask() -> None:
    runtime = RayRuntime("a")
    assert runtime.find("request-0") is runtime.find("request-0")
    assert runtime.find("request-0") is not runtime.find("request-1")
