"""Traces that users bring: read whatever their spelling, refused with the row and the column at fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genserve.domain.request import Media, RequestSpec
from genserve.errors import CallerError
from genserve.simulate.calibration import load_calibration
from genserve.simulate.workloads import Workload, draw_requests

GENSERVE = load_calibration("genserve")
WHOLE = "arrival_s,model,width,height,frames,steps,deadline_s\n"


def read(path: Path, content: str | bytes) -> tuple[RequestSpec, ...]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return draw_requests(Workload(trace=str(path)), GENSERVE, seed=0)


def test_a_csv_trace_names_classes_or_whole_requests(tmp_path: Path) -> None:
    first, second = read(
        tmp_path / "trace.csv",
        "arrival_s,class,model,width,height,frames,steps,deadline_s\n"
        "2.5,image-S,,,,,,\n"
        "1.0,,wan2.2-5b,480,480,81,50,30\n",
    )
    assert (first.arrival_us, first.media, first.deadline_us) == (1_000_000, Media.VIDEO, 31_000_000)
    assert (second.arrival_us, second.slo_class) == (2_500_000, "image-S")


@pytest.mark.parametrize("name", ["trace.json", "TRACE.JSON"])
def test_a_json_trace_is_read_too(tmp_path: Path, name: str) -> None:
    specs = read(tmp_path / name, json.dumps([{"arrival_s": 1, "class": "video-L"}]))
    assert [s.slo_class for s in specs] == ["video-L"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfarrival_s,class\n1,image-S\n",
        b"arrival_s,class\r\n1,image-S\r\n",
        b"class, arrival_s, note\nimage-S, 1, x\n\n",
        'arrival_s,class,prompt\n1,image-S,"a fox,\nin two lines \u2028"\n',
    ],
    ids=["byte order mark", "CRLF", "columns in another order", "lines in quotes"],
)
def test_the_spelling_of_a_csv_file_does_not_matter(tmp_path: Path, content: str | bytes) -> None:
    (spec,) = read(tmp_path / "trace.csv", content)
    assert (spec.arrival_us, spec.slo_class) == (1_000_000, "image-S")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no request arrives"),
        ("arrival_s,class\n", "no request arrives"),
        ("when;what\n0;image-S\n", "request 1: arrival_s is missing; there are when;what"),
        ("arrival_s,class\n0,image-S\n1,image\n", "request 2: class is one of video-S.* not 'image'"),
        ("arrival_s,class\n-1,image-S\n", "arrival_s is from 0 to .* not -1.0"),
        ("arrival_s,class\ninf,image-S\n", "arrival_s is from 0 to .* not inf"),
        ("arrival_s,class\n1700000000000,image-S\n", "arrival_s is from 0 to 1e.10 seconds"),
        ("arrival_s,class\nsoon,image-S\n", "arrival_s is a number, not 'soon'"),
        (WHOLE + "0,other,64,64,1,50,9\n", "genserve has costs of sd3.5-medium, wan2.2-5b, not of 'other'"),
        (WHOLE + "0,wan2.2-5b,64,64,1,0,9\n", "steps is a whole number from 1"),
        (WHOLE + "0,wan2.2-5b,64,64,-1,50,9\n", "frames is a whole number from 1"),
        (WHOLE + "0,wan2.2-5b,64,64.5,1,50,9\n", "height is a whole number from 1"),
        (WHOLE + "0,wan2.2-5b,64,64,1,50,\n", "deadline_s is missing"),
        (b"arrival_s,class\n0,\xe9\n", "not text in UTF-8"),
    ],
)
def test_a_wrong_csv_trace_is_refused_with_its_place(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(CallerError, match=says) as caught:
        read(tmp_path / "trace.csv", content)
    assert caught.value.code == "invalid_workload"


@pytest.mark.parametrize("content", ["null", "3", "[[0]]", '{"requests": []}', "[{", "[" * 100_000, "[]"])
def test_a_json_trace_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(CallerError) as caught:
        read(tmp_path / "trace.json", content)
    assert caught.value.code == "invalid_workload"
