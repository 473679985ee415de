"""Charts, rendered by Helm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from helm_python import Chart
from helm_python.chart import lint

if TYPE_CHECKING:
    from pathlib import Path

NAMESPACE = "default"
# Kinds of other software in a cluster, and the dashboard of one of them.
MONITORING = {"PodMonitor", "PrometheusRule", "ConfigMap"}


def templates(folder: Path, *, monitoring: bool = False, **values: Any) -> dict[str, str]:
    """The text of each template of a chart, as ``helm install`` sends it. Fails if ``helm lint`` complains."""
    found = lint(folder)
    complaints = [one["error"] for one in found["messages"] if one["error"] != "icon is recommended"]
    assert complaints == []
    assert not found["errors"]
    with Chart.load(folder) as chart:
        given = {**values, "monitoring": {"enabled": monitoring}}
        chart.validate_schema(chart.merge_values(given))
        rendered = chart.render(given, name="release", namespace=NAMESPACE)
    return {name.rpartition("/")[2]: text for name, text in rendered.items()}


def objects(folder: Path, *, monitoring: bool = False) -> list[dict[str, Any]]:
    """All objects of a chart."""
    texts = templates(folder, monitoring=monitoring)
    texts.pop("NOTES.txt")
    return [one for text in texts.values() for one in yaml.safe_load_all(text) if one]


def of_kind(folder: Path, kind: str, *, monitoring: bool = False) -> dict[str, Any]:
    """The only object of a kind."""
    (one,) = [one for one in objects(folder, monitoring=monitoring) if one["kind"] == kind]
    return one
