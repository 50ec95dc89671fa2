"""Arrivals from a file that a user brings; not drawn ones (see workloads).

A trace is a CSV file with a header or, in a file named .json, a list of objects. Each row has ``arrival_s`` and either
``class``, a label of the calibration, or ``model``, ``width``, ``height``, ``frames`` (1 if left out), ``steps`` and
``deadline_s``, seconds after arrival. Rows may come in any order; other columns are ignored.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genserve.domain.request import Media, Shape
from genserve.errors import CallerError
from genserve.simulate.calibration import SECOND_US, Calibration, RequestClass

MAX_SECONDS = 1e10
"""Beyond any Unix time in seconds: what is larger is in another unit."""

MAX_COUNT = 1_000_000
"""Of pixels along a side, frames and steps."""

Arrival = tuple[int, RequestClass]


def read_trace(path: Path, calibration: Calibration) -> list[Arrival]:
    """When which kind of request arrives, in the order of the file.

    Raises CallerError ``invalid_workload`` that names the row and the column at fault.
    """
    try:
        text = path.read_text("utf-8-sig")
        rows = json.loads(text) if path.suffix.lower() == ".json" else _csv_rows(text)
    except OSError as error:
        raise CallerError("invalid_workload", f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CallerError("invalid_workload", f"{path}: not text in UTF-8") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise CallerError("invalid_workload", f"{path}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise CallerError("invalid_workload", f"{path}: a trace in JSON is a list of objects")
    return [_Row(row, f"{path}, request {i}", calibration).arrival() for i, row in enumerate(rows, start=1)]


def _csv_rows(text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    return list(reader)


class _Row:
    """One row, read column by column; every complaint says where."""

    def __init__(self, row: Mapping[str, Any], where: str, calibration: Calibration) -> None:
        self._row = row
        self._where = where
        self._calibration = calibration

    def arrival(self) -> Arrival:
        at_us = round(self._seconds("arrival_s") * SECOND_US)
        return at_us, self._labelled() if self._find("class") is not None else self._described()

    def _labelled(self) -> RequestClass:
        label, classes = self._find("class"), {c.label: c for c in self._calibration.classes}
        if label not in list(classes):
            raise self._fault(f"class is one of {', '.join(classes)}, not {label!r}")
        return classes[str(label)]

    def _described(self) -> RequestClass:
        if self._find("model") is None:
            raise self._fault(f"neither class nor model is given; there are {', '.join(map(str, self._row))}")
        model = self._find("model")
        known = sorted({c.model for c in self._calibration.costs.stages})
        if model not in known:
            raise self._fault(f"{self._calibration.name} has costs of {', '.join(known)}, not of {model!r}")
        frames = self._count("frames") if self._find("frames") is not None else 1
        shape = Shape(self._count("width"), self._count("height"), frames)
        media = Media.IMAGE if frames == 1 else Media.VIDEO
        allowance_us = round(self._seconds("deadline_s") * SECOND_US)
        return RequestClass(f"{media}-{shape}", str(model), media, shape, self._count("steps"), allowance_us)

    def _seconds(self, column: str) -> float:
        value = self._number(column)
        if not 0 <= value <= MAX_SECONDS:
            raise self._fault(f"{column} is from 0 to {MAX_SECONDS:g} seconds, not {value}")
        return value

    def _count(self, column: str) -> int:
        value = self._number(column)
        if not 1 <= value <= MAX_COUNT or value != int(value):
            raise self._fault(f"{column} is a whole number from 1 to {MAX_COUNT}, not {value}")
        return int(value)

    def _number(self, column: str) -> float:
        given = self._find(column)
        if given is None:
            raise self._fault(f"{column} is missing; there are {', '.join(map(str, self._row))}")
        try:
            return float(given)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._fault(f"{column} is a number, not {given!r}") from error

    def _find(self, column: str) -> Any:
        value = self._row.get(column)
        return None if value is None or value == "" else value

    def _fault(self, what: str) -> CallerError:
        return CallerError("invalid_workload", f"{self._where}: {what}")
