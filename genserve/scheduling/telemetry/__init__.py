"""Committed events as log lines, spans and metrics, for the live driver."""

from genserve.scheduling.telemetry.translator import Translator

__all__ = ["Translator"]
