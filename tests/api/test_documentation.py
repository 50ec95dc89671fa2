"""docs/http.md names every route and every code that the surface can answer."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from genserve import api
from genserve.diffusion import catalog

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "http.md").read_text()
RAISED = re.compile(r'(?:CallerError|RefusedByPolicy|Unavailable|_refuse)\(\s*"([a-z_]+)"')
AT_START = {"invalid_catalog", "checkpoint_not_found"}


def test_every_code_is_documented() -> None:
    sources = [*Path(str(api.__file__)).parent.glob("*.py"), Path(str(catalog.__file__))]
    codes = {code for source in sources for code in RAISED.findall(source.read_text())}
    assert len(codes) > 20
    assert {code for code in codes - AT_START if f"`{code}`" not in TEXT} == set()


async def test_every_route_is_documented(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    known = {re.sub(r"\{\w+\}", "{}", path) for path in re.findall(r"/[\w/{}]+", TEXT)}
    assert {path for path in paths if re.sub(r"\{\w+\}", "{}", path) not in known} == set()
