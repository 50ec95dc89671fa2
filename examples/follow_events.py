"""Follow a request by its event stream, and resume where a lost connection broke off.

Run `genserve serve` first, then: python examples/follow_events.py
"""

from __future__ import annotations

import json
import os

import httpx

client = httpx.Client(base_url=os.environ.get("GENSERVE_URL", "http://127.0.0.1:8000"), timeout=60)

video = client.post("/v1/videos", json={"prompt": "waves at dusk", "slo_ms": 120_000}).raise_for_status().json()
path = f"/v1/requests/{video['id']}/events"


def follow(last_event_id: str = "0", limit: int = 10_000) -> str:
    """Print up to ``limit`` events and answer with the id of the last one: a position in the server's log."""
    with client.stream("GET", path, headers={"Last-Event-ID": last_event_id}) as reply:
        for line in reply.iter_lines():
            if line.startswith("id: "):
                last_event_id = line[4:]
            if line.startswith("data: "):
                event = json.loads(line[6:])
                print(event["position"], event["type"])
                limit -= 1
            if limit == 0:
                break
    return last_event_id


seen = follow(limit=2)
print("connection lost after", seen)
follow(seen)

found = client.get(f"/v1/requests/{video['id']}").json()
print(found["status"], "deadline met" if found["deadline_met"] else "deadline missed")
