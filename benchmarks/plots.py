"""Plots of a benchmark run, as PNG files beside its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import Record

__all__ = ["RATIOS", "draw"]

RATIOS = {
    "http_over_raw": "HTTP / bare SPU, unmodified network",
    "sf_spu_over_http": "SecretFlow's spu() / HTTP",
    "throughput_64_over_1": "throughput, 64 clients / 1",
    "p99_64_over_p50_1": "p99 of 64 clients / p50 of 1",
    "lanes_throughput": "throughput, 2 lanes / 1",
}
"""Ratios that exist for each protocol, and what they say in a few words."""

_GROWTH = {
    "growth_batch": "rows of a batch",
    "growth_width": "width of both hidden layers",
    "growth_depth": "hidden layers of 64",
    "growth_rtt": "round trip between parties, ms",
}

_PANELS = {
    "value": ("estimated_scaled_ms", "p50 of a run, ms"),
    "sent_bytes": ("estimated_bytes", "sent by one party, bytes"),
    "rounds": ("estimated_rounds", "rounds"),
}
"""What growth records hold, where the estimate of it is, and what it is."""


def draw(directory: Path, records: Sequence[Record]) -> list[tuple[str, str]]:
    """Draw what there are records for; returns (file name, caption) of each plot."""
    import matplotlib

    matplotlib.use("Agg")
    plots = [_ratios(directory, records)]
    plots += [_growth(directory, records, name, label) for name, label in _GROWTH.items()]
    plots += [_startup(directory, records), _network(directory, records)]
    return [plot for plot in plots if plot is not None]


def _ratios(directory: Path, records: Sequence[Record]) -> tuple[str, str] | None:
    from matplotlib import pyplot as plt

    found = [r for r in records if r.name in RATIOS and r.ratio is not None]
    if not found:
        return None
    names = [name for name in RATIOS if any(r.name == name for r in found)]
    protocols = sorted({r.protocol for r in found})
    figure, axes = plt.subplots(figsize=(9, 1 + 0.8 * len(names)), layout="constrained")
    height = 0.8 / len(protocols)
    for index, protocol in enumerate(protocols):
        by_name = {r.name: r.ratio for r in found if r.protocol == protocol}
        places = np.arange(len(names)) + index * height
        bars = axes.barh(places, [by_name.get(name) or 0 for name in names], height, label=protocol)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(np.arange(len(names)) + 0.4 - height / 2, [RATIOS[name] for name in names])
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=1)
    axes.legend()
    return _save(figure, directory, "ratios.png", "Ratios within one run")


def _growth(directory: Path, records: Sequence[Record], name: str, label: str) -> tuple[str, str] | None:
    from matplotlib import pyplot as plt

    found = [r for r in records if r.name == name and r.value is not None]
    if not found:
        return None
    panels = [key for key in _PANELS if all(key in {"value": r.value, **r.detail} for r in found)]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5 * len(panels), 4), layout="constrained", squeeze=False
    )
    for place, key in zip(axes[0], panels, strict=True):
        estimated, unit = _PANELS[key]
        for protocol in sorted({r.protocol for r in found}):
            mine = sorted((r for r in found if r.protocol == protocol), key=lambda r: r.detail["x"])
            xs = [r.detail["x"] for r in mine]
            line = place.plot(xs, [{"value": r.value, **r.detail}[key] for r in mine], "o-", label=protocol)[
                0
            ]
            place.plot(xs, [r.detail[estimated] for r in mine], "--", color=line.get_color(), linewidth=0.8)
        place.set(xlabel=label, ylabel=unit, xscale="log", yscale="log")
        if key == "rounds":
            place.set_yscale("linear")
            place.set_ylim(bottom=0)
        place.grid(alpha=0.3)
        place.legend()
    return _save(figure, directory, f"{name}.png", f"Cost against {label}; dashed: what is estimated")


def _startup(directory: Path, records: Sequence[Record]) -> tuple[str, str] | None:
    from matplotlib import pyplot as plt

    found = [r for r in records if r.name == "startup_ready_s" and r.detail.get("stages_s")]
    if not found:
        return None
    figure, axes = plt.subplots(figsize=(9, 1 + 0.5 * len(found)), layout="constrained")
    left = np.zeros(len(found))
    for stage in dict.fromkeys(stage for r in found for stage in r.detail["stages_s"]):
        widths = [r.detail["stages_s"].get(stage, 0.0) for r in found]
        axes.barh([r.protocol for r in found], widths, left=left, label=stage)
        left += widths
    axes.set_xlabel("seconds from bentoml serve to ready")
    axes.legend(fontsize=8)
    return _save(figure, directory, "startup.png", "Time to ready, by stage")


def _network(directory: Path, records: Sequence[Record]) -> tuple[str, str] | None:
    from matplotlib import pyplot as plt

    found = [r for r in records if r.suite == "network" and r.value is not None]
    if not found:
        return None
    figure, (latency, gain) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for protocol in sorted({r.protocol for r in found}):
        points = [r for r in found if r.name == "network_http" and r.protocol == protocol]
        trips = [r.detail["round_trip_ms"] for r in points]
        line = latency.plot(trips, [r.value for r in points], "o-", label=protocol)[0]
        latency.plot(trips, [r.baseline for r in points], "--", color=line.get_color(), linewidth=0.8)
        lanes = [r for r in found if r.name == "network_lanes" and r.protocol == protocol]
        for ms in sorted({r.detail["nominal_ms"] for r in lanes}):
            at = [r for r in lanes if r.detail["nominal_ms"] == ms]
            gain.plot(
                [r.detail["lanes"] for r in at], [r.ratio for r in at], "o-", label=f"{protocol}, {ms} ms"
            )
    latency.set(xlabel="round trip, ms", ylabel="p50 of one row over HTTP, ms")
    gain.plot([1, 8], [1, 8], ":", color="grey", label="proportional")
    gain.set(xlabel="lanes", ylabel="rows a second, over one lane")
    for axes in (latency, gain):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return _save(figure, directory, "network.png", "Distance; dashed: messages times round trip. And lanes")


def _save(figure: Any, directory: Path, name: str, caption: str) -> tuple[str, str]:
    from matplotlib import pyplot as plt

    figure.savefig(directory / name, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return name, caption
