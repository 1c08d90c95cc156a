"""``python -m benchmarks.plots results.json``: draws what was measured, beside the file. It needs matplotlib.

It runs in an environment of its own, so that amqp_rpc needs none of it: it reads the file, and imports nothing of ours
that isn't the standard library's.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.cases import TITLES
from benchmarks.contenders import FLOOR, OURS

_COLORS = {OURS: "#c44e52", "amqp_rpc-defaults": "#dd8f92", FLOOR: "#55555f"}
_PEER = "#9fb4cc"
_LINES = ["#4c72b0", "#55a868", "#8172b3", "#ccb974", "#64b5cd", "#937860", "#da8bc3"]
#: The bars: case and variant.
_BARS = [("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", "1 MB"), ("e", "8 MB")]
_PERCENTILES = {"p50": "50", "p99": "99", "p999": "99.9"}

Json = dict[str, Any]


def main() -> None:
    file = Path(sys.argv[1])
    results: Json = json.loads(file.read_text())
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10})
    bars(results, file.with_name("ratios.png"))
    latencies(results, file.with_name("latency.png"))
    tasks(results, file.with_name("tasks.png"))


def bars(results: Json, to: Path) -> None:
    """Draw each contender's rate as a multiple of the floor's."""
    panels = [(case, variant, found) for case, variant in _BARS if (found := _relative(results, case, variant))]
    if not panels:
        return
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(10, 2.6 * rows + 0.4), layout="constrained")
    for place, (case, variant, found) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, 2, place)
        names = list(found)[::-1]
        drawn = axes.barh(names, [found[name] for name in names], color=[_COLORS.get(n, _PEER) for n in names])
        axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
        axes.set_title(f"({case}) {TITLES[case]}{', ' + variant if variant else ''}", loc="left")
        axes.margins(x=0.12)
    figure.suptitle(
        f"Calls per second, as multiples of {FLOOR}; medians of {results['facts']['rounds']} rounds' ratios"
    )
    figure.savefig(to, dpi=110)


def tasks(results: Json, to: Path) -> None:
    """Draw the tasks per second of those cases that are compared with others."""
    panels = [
        (case, [each for each in results["entries"] if each["case"] == case and each["median"]]) for case in "jkl"
    ]
    panels = [(case, found) for case, found in panels if found]
    if not panels:
        return
    heights = [len(found) + 1.5 for _, found in panels]
    figure = Figure(figsize=(9, 0.28 * sum(heights) + 0.6), layout="constrained")
    for axes, (case, found) in zip(
        figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0], panels, strict=True
    ):
        labels = [f"{each['contender']}{', ' + each['variant'] if each['variant'] else ''}" for each in found][::-1]
        drawn = axes.barh(
            labels, [each["median"] for each in found][::-1],
            color=[_COLORS.get(each["contender"], _PEER) for each in found][::-1],
        )  # fmt: skip
        axes.bar_label(drawn, fmt="%.0f", padding=3, fontsize=8)
        axes.set_title(f"({case}) {TITLES[case]}", loc="left")
        axes.margins(x=0.12)
    figure.suptitle("Tasks per second, medians")
    figure.savefig(to, dpi=110)


def latencies(results: Json, to: Path) -> None:
    """Draw the percentiles of each open loop, of those who kept up."""
    entries = [entry for entry in results["entries"] if entry["case"] == "f"]
    variants = list(dict.fromkeys(entry["variant"] for entry in entries))
    if not variants:
        return
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    first: Axes | None = None
    for place, variant in enumerate(variants, start=1):
        axes = figure.add_subplot(1, len(variants), place, sharey=first)
        first = first or axes
        same = [entry for entry in entries if entry["variant"] == variant]
        colors = iter(_LINES)
        for entry in same:
            name = entry["contender"]
            color = _COLORS.get(name) or next(colors)
            if entry["keeps_up"]:
                values = [entry["percentiles"][name] for name in _PERCENTILES]
                axes.plot(list(_PERCENTILES.values()), values, marker="o", label=name, color=color)
        axes.set_yscale("log")
        load = "" if variant.endswith("/s") else f"{variant} load, "
        axes.set_title(f"{load}{same[0]['request']['rate']:.0f} calls/s", loc="left")
        axes.set_xlabel("percentile")
        if place == 1:
            axes.set_ylabel("latency, ms")
    drawn = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(drawn.values(), list(drawn), loc="outside right upper", frameon=False)
    figure.suptitle("Latency in an open loop, of those who keep up with the rate")
    figure.savefig(to, dpi=110)


def _relative(results: Json, case: str, variant: str) -> dict[str, float]:
    """Return the median of the ratios to the floor in each round, as the tables have it."""
    rates = _rates(results, case, variant)
    # In C there are no tasks: the floor with as many calls in flight stands for it.
    floor = _rates(results, "b" if case == "d" else case, variant).get(FLOOR, [])
    found = {}
    for name, own in rates.items():
        ratios = [a / b for a, b in zip(own, floor, strict=False) if a and b]
        if ratios:
            found[name] = statistics.median(ratios)
    return found


def _rates(results: Json, case: str, variant: str) -> dict[str, list[float | None]]:
    return {
        entry["contender"]: entry["rates"]
        for entry in results["entries"]
        if (entry["case"], entry["variant"]) == (case, variant)
    }


if __name__ == "__main__":
    main()
