"""A board for Grafana: what is asked, how long it takes, what goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lrclr.deploy._monitoring import waiting, where

if TYPE_CHECKING:
    from lrclr.deploy._options import DeployOptions

__all__ = ["board"]

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 8, 8
_RATE: Final = "$__rate_interval"


def board(options: DeployOptions) -> dict[str, Any]:
    """The board's JSON model, to be imported; it asks which Prometheus to read."""
    return {
        "title": f"lrclr: {options.name}",
        "uid": f"lrclr-{options.name}"[:40],
        "tags": ["lrclr"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_panel(number, *one) for number, one in enumerate(_questions(options))],
    }


def _questions(options: DeployOptions) -> list[tuple[str, str, dict[str, str]]]:
    """Title, unit, and queries by legend."""
    here, model = where(options), where(options, 'model="lrclr"')

    def rate(metric: str, labels: str = here) -> str:
        return f"rate({metric}{{{labels}}}[{_RATE}])"

    def each(metric: str, amount: str, labels: str, by: str) -> str:
        return f"sum{by} ({rate(metric, labels)}) / sum{by} ({rate(amount, labels)})"

    success = "nv_inference_request_success"
    return [
        ("Images a second", "ops", {"{{pod}}": f"sum by (pod) ({rate('lrclr_images_total')})"}),
        ("Requests waiting", "short", {"{{pod}}": waiting(here).replace("[2m]", f"[{_RATE}]")}),
        (
            "Failures a second, by reason",
            "ops",
            {"{{reason}}": f"sum by (reason) ({rate('lrclr_failures_total')})"},
        ),
        (
            "Seconds a request, of which waiting",
            "s",
            {
                "all": f"{each('nv_inference_request_duration_us', success, model, '')} / 1e6",
                "waiting": f"{each('nv_inference_queue_duration_us', success, model, '')} / 1e6",
            },
        ),
        (
            "Seconds of computing a request, by model",
            "s",
            {"{{model}}": f"{each('nv_inference_compute_infer_duration_us', success, here, ' by (model)')} / 1e6"},
        ),
        (
            "Seconds an image",
            "s",
            {
                "reading": each("lrclr_decode_seconds_total", "lrclr_images_total", here, ""),
                "waiting for the encoder": each("lrclr_encode_seconds_total", "lrclr_images_total", here, ""),
            },
        ),
        (
            "Images of a batch, by graph",
            "short",
            {"{{model}}": each("nv_inference_count", "nv_inference_exec_count", here, " by (model)")},
        ),
        (
            "Prompts that were known",
            "percentunit",
            {
                "share": f"sum({rate('lrclr_prompt_cache_hits_total')}) / (sum({rate('lrclr_prompt_cache_hits_total')})"
                f" + sum({rate('lrclr_prompt_cache_misses_total')}))"
            },
        ),
        (
            "Requests taken and not answered",
            "short",
            {"{{pod}}": f"sum by (pod) (nv_inference_pending_request_count{{{model}}})"},
        ),
    ]


def _panel(number: int, title: str, unit: str, queries: dict[str, str]) -> dict[str, Any]:
    row, column = divmod(number, 3)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for place, (legend, expression) in enumerate(queries.items())
        ],
    }
