"""What /docs shows of bodies that routes read themselves; not the validation (see bodies)."""

from __future__ import annotations

from typing import Any

from genserve.api.schemas import CreateBody

_TEMPLATE = "#/components/schemas/{model}"


def create_docs(kind: type[CreateBody], *, forms: bool = False) -> dict[str, Any]:
    """The requestBody of a create route in OpenAPI terms."""
    schema = kind.model_json_schema(ref_template=_TEMPLATE)
    types = ["application/json", "multipart/form-data"] if forms else ["application/json"]
    return {
        "requestBody": {"required": True, "content": {name: {"schema": schema} for name in types}},
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": 255},
                "description": "A repeated call with the same key and body gets the first one's requests.",
            }
        ],
    }
