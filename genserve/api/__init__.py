"""The HTTP surface: OpenAI's images and videos, and our requests and events."""

from genserve.api.app import create_app

__all__ = ["create_app"]
