"""Line charts as PNG: several panels, one above the other, each with its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO


@dataclass(frozen=True)
class Panel:
    """One chart. curves: label -> (x values, y values)."""

    title: str
    x_label: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]


def line_charts(panels: Sequence[Panel], columns: int = 2) -> bytes:
    """PNG of all panels, `columns` side by side."""
    # Without pyplot, which keeps figures alive and picks a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(5.5 * columns, 2.8 * rows), layout="tight")
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel(panel.x_label, fontsize=8)
        axes.tick_params(labelsize=8)
        if all(float(value).is_integer() for x, _ in panel.curves.values() for value in x):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        for label, (x, y) in panel.curves.items():
            axes.plot(x, y, label=label, marker="o" if len(x) < 30 else None, markersize=3, linewidth=1.2)
        if len(panel.curves) > 1 or (panel.curves and next(iter(panel.curves)) != panel.title):
            axes.legend(fontsize=7)
    file = BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
