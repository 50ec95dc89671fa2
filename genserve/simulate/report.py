"""One self-contained HTML page about a comparison, tables and plots in SVG; not where the numbers come from."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from typing import Any

COLOURS = ("#0b6e4f", "#c8553d", "#2d6cdf", "#b08900", "#7b4bb7", "#3a8fa3", "#8a8a8a", "#d36ba6", "#5b7f2b", "#444")
WIDTH, ROW = 760, 24

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1d2733;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin:2.2rem 0 .4rem}p{margin:.3rem 0;color:#55606e}
table{display:block;overflow-x:auto;border-collapse:collapse;
font-variant-numeric:tabular-nums}td,th{padding:.2rem .7rem;text-align:right}
td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f4f6f8}svg{max-width:100%;height:auto}
svg text{font:12px system-ui,sans-serif;fill:#1d2733}details{margin-top:2rem}pre{font-size:12px;overflow-x:auto}
@media(prefers-color-scheme:dark){body{background:#14181d;color:#e4e8ec}p{color:#9aa7b4}tr:nth-child(even){background:#1c222a}
svg text{fill:#e4e8ec}}
"""


def render(result: dict[str, Any]) -> str:
    """The page of a result of ``compare``, one section per point of a sweep."""
    points = result.get("points", [result])
    about = _subtitle(points[0], but=result.get("sweep", ""))
    body = [f"<h1>{_esc(_title(points[0]))}</h1>", f"<p>{_esc(about)}</p>"]
    if len(points) > 1:
        body.append(_sweep(result["sweep"], points))
    for point in points:
        if len(points) > 1:
            body.append(f"<h1>{_esc(', '.join(f'{k} = {v}' for k, v in point['at'].items()))}</h1>")
        body += _sections(point)
    parameters = _esc(json.dumps([p["parameters"] for p in points], indent=1))
    body.append(f"<details><summary>Every parameter</summary><pre>{parameters}</pre></details>")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    title = _esc(_title(points[0]))
    head += f"<title>{title}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>"


def _title(point: dict[str, Any]) -> str:
    given = point["parameters"]
    return f"Requests on time: {given['calibration']['name']} on {given['gpus']} GPUs"


def _subtitle(point: dict[str, Any], *, but: str) -> str:
    """What all points have in common; ``but`` is the option that was swept."""
    load, seeds = point["parameters"]["workload"], point["parameters"]["seeds"]
    parts = {
        "rate": f"{load['rate']:g} requests/min",
        "mix": f"mix {load['mix']}",
        "sizes": f"{load['sizes']} sizes",
        "sigma": f"sigma {load['sigma']:g}",
        "arrivals": f"{load['arrivals']} arrivals",
    }
    if load["trace"]:
        parts = {"trace": f"trace {load['trace']}", "sigma": parts["sigma"]}
    length = f"{load['duration_s']:g} s" if load["duration_s"] else f"{load['requests']} requests"
    shown = [text for name, text in parts.items() if name != but]
    shown.append(f"{seeds} seeds" if load["trace"] else f"{seeds} seeds of {length}")
    return ", ".join(shown) + ". Bars show 95% intervals. Simulated."


def _sections(point: dict[str, Any]) -> list[str]:
    rows = point["planners"]
    bound = point.get("bound")
    parts = ["<h2>On time</h2>", _attainment(rows, bound)]
    parts += ["<h2>By class</h2><p>Share on time; darker is better.</p>", _classes(rows)]
    parts += [
        "<h2>How long it takes</h2><p>Median to p99 latency, seconds, logarithmic; the dot is p90.</p>",
        _latency(rows),
    ]
    parts += ["<h2>Seed by seed</h2><p>Attainment of every seed: the spread that single runs hide.</p>", _seeds(rows)]
    parts += ["<h2>What it costs</h2>", _costs(rows)]
    return parts


# ── plots ────────────────────────────────────────────────────────────────────────────────────────────────


def _attainment(rows: dict[str, Any], bound: dict[str, Any] | None) -> str:
    left, right = 190, 60
    scale = (WIDTH - left - right) / 100
    parts, y = [], 10
    for index, (label, row) in enumerate(rows.items()):
        parts.append(f"<text x='{left - 8}' y='{y + 24}' text-anchor='end'>{_short(label)}</text>")
        for j, group in enumerate(("attainment", "image", "video")):
            value = row[group]
            if value is None:
                continue
            top, height = (y, 14) if j == 0 else (y + 6 + 10 * j, 8)
            mean, ci = 100 * value["mean"], 100 * value["ci95"]
            opacity = (1, 0.55, 0.35)[j]
            parts.append(_rect(left, top, mean * scale, height, colour=COLOURS[index % len(COLOURS)], opacity=opacity))
            low, high, middle = left + max(0, mean - ci) * scale, left + min(100, mean + ci) * scale, top + height / 2
            parts.append(f"<path d='M{low:.1f} {middle}H{high:.1f}' stroke='currentColor' stroke-width='1.2'/>")
            text = f"{mean:.1f}" if j == 0 else f"{group} {mean:.0f}"
            size = "" if j == 0 else " style='font-size:9px'"
            parts.append(f"<text x='{high + 6:.1f}' y='{top + height - 1}'{size}>{text}</text>")
        y += 44
    if bound:
        x = left + 100 * bound["mean"] * scale
        parts.append(f"<path d='M{x:.1f} 4V{y}' stroke='#d33' stroke-dasharray='4 3'/>")
        parts.append(_text(x, y + 12, f"no schedule can exceed {100 * bound['mean']:.1f}", anchor="middle"))
    return _svg(parts, y + 20)


def _classes(rows: dict[str, Any]) -> str:
    labels = sorted({c for row in rows.values() for c in row["classes"]})
    cells = "".join(f"<th>{_esc(c)}</th>" for c in labels)
    lines = []
    for label, row in rows.items():
        tds = []
        for name in labels:
            share = row["classes"].get(name, {}).get("mean", 0.0)
            tds.append(f"<td style='background:rgba(11,110,79,{0.08 + 0.7 * share**2:.2f})'>{100 * share:.0f}</td>")
        lines.append(f"<tr><td>{_esc(label)}</td>{''.join(tds)}</tr>")
    return f"<table><tr><th></th>{cells}</tr>{''.join(lines)}</table>"


def _latency(rows: dict[str, Any]) -> str:
    rows = {label: row for label, row in rows.items() if row["latency_s"]["all"]}
    if not rows:
        return "<p>Nothing was finished.</p>"
    found = [row["latency_s"]["all"] for row in rows.values()]
    low = min(f["p50"] for f in found) * 0.7
    high = max(f["p99"] for f in found) * 1.3
    left = 190

    def x(seconds: float) -> float:
        return left + (WIDTH - left - 40) * math.log(max(seconds, low) / low) / math.log(high / low)

    parts, y = [], 10
    for index, (label, row) in enumerate(rows.items()):
        of, colour = row["latency_s"]["all"], COLOURS[index % len(COLOURS)]
        parts.append(f"<text x='{left - 8}' y='{y + 12}' text-anchor='end'>{_short(label)}</text>")
        parts.append(_rect(x(of["p50"]), y + 4, x(of["p99"]) - x(of["p50"]), 8, colour=colour, opacity=0.45))
        parts.append(f"<circle cx='{x(of['p90']):.1f}' cy='{y + 8}' r='5' fill='{colour}'/>")
        parts.append(f"<text x='{x(of['p99']) + 5:.1f}' y='{y + 12}'>{of['p99']:.0f}</text>")
        parts.append(f"<text x='{x(of['p50']) - 5:.1f}' y='{y + 12}' text-anchor='end'>{of['p50']:.1f}</text>")
        y += ROW
    return _svg(parts, y + 6)


def _seeds(rows: dict[str, Any]) -> str:
    left = 190
    scale = WIDTH - left - 40
    lowest = min(v for row in rows.values() for v in row["per_seed"])
    low = max(0.0, lowest - 0.03)
    parts, y = [], 10
    for index, (label, row) in enumerate(rows.items()):
        parts.append(f"<text x='{left - 8}' y='{y + 12}' text-anchor='end'>{_short(label)}</text>")
        for value in row["per_seed"]:
            x = left + scale * (value - low) / max(1e-9, 1 - low)
            parts.append(
                f"<circle cx='{x:.1f}' cy='{y + 8}' r='4' fill='{COLOURS[index % len(COLOURS)]}' opacity='.5'/>"
            )
        y += ROW
    parts += [_text(left, y + 10, f"{100 * low:.0f}%"), _text(left + scale, y + 10, "100%", anchor="end")]
    return _svg(parts, y + 16)


def _sweep(name: str, points: Sequence[dict[str, Any]]) -> str:
    """Attainment over the swept option, one line per planner."""
    left, top, height = 60, 10, 300
    step = (WIDTH - left - 215) / max(1, len(points) - 1)
    labels = list(points[0]["planners"])
    values = {p: [100 * q["planners"][p]["attainment"]["mean"] for q in points] for p in labels}
    if "bound" in points[0]:
        values["bound"] = [100 * q["bound"]["mean"] for q in points]
    low: float = min(min(v) for v in values.values()) - 2

    def y(value: float) -> float:
        return float(top + height * (100 - value) / max(1e-9, 100 - low))

    parts = []
    taken: list[float] = []
    colours = {label: "#d33" if label == "bound" else COLOURS[i % len(COLOURS)] for i, label in enumerate(values)}
    for label, series in sorted(values.items(), key=lambda v: -v[1][-1]):
        colour = colours[label]
        path = " ".join(f"{'M' if i == 0 else 'L'}{left + i * step:.1f} {y(v):.1f}" for i, v in enumerate(series))
        parts.append(f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        at = y(series[-1])
        while any(abs(at - t) < 13 for t in taken):
            at += 13
        taken.append(at)
        x = left + (len(points) - 1) * step + 8
        parts.append(
            f"<text x='{x:.1f}' y='{at + 4:.1f}' style='fill:{colour}'>{_short(label)} {series[-1]:.0f}</text>"
        )
    for i, point in enumerate(points):
        parts.append(_text(left + i * step, top + height + 18, point["at"][name], anchor="middle"))
    for value in (low, (low + 100) / 2, 100):
        parts.append(f"<text x='{left - 8}' y='{y(value) + 4:.1f}' text-anchor='end'>{value:.0f}%</text>")
    return f"<h2>On time by {_esc(name)}</h2>" + _svg(parts, max([top + height + 24, *[t + 10 for t in taken]]))


def _costs(rows: dict[str, Any]) -> str:
    head = (
        "planner",
        "worst lateness",
        "pauses",
        "switches",
        "GPU use",
        "decisions per request",
        "decision p50",
        "p99",
    )
    lines = []
    for label, row in rows.items():
        cells = (
            _esc(label),
            f"{row['worst_lateness']:.1f} x",
            f"{row['pauses_per_request']:.2f}",
            f"{row['switches_per_request']:.2f}",
            f"{100 * row['utilization']:.0f}%",
            f"{row['decisions_per_request']:.1f}",
            f"{row['decision_us']['p50']:.0f} us",
            f"{row['decision_us']['p99']:.0f} us",
        )
        lines.append("<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    return f"<table><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr>{''.join(lines)}</table>"


def _rect(x: float, y: float, width: float, height: float, *, colour: str, opacity: float) -> str:
    size = f"width='{max(0.0, width):.1f}' height='{height}'"
    return f"<rect x='{x:.1f}' y='{y}' {size} fill='{colour}' opacity='{opacity}' rx='2'/>"


def _text(x: float, y: float, text: object, *, anchor: str = "start") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{_esc(text)}</text>"


def _svg(parts: Sequence[str], height: float) -> str:
    return f"<svg viewBox='0 0 {WIDTH} {height:.0f}' width='{WIDTH}' role='img'>{''.join(parts)}</svg>"


def _short(label: str) -> str:
    """As much of a planner's name as fits beside a plot; the tables have all of it."""
    return _esc(label if len(label) <= 26 else label[:25] + "\N{HORIZONTAL ELLIPSIS}")


def _esc(text: object) -> str:
    return html.escape(str(text))
