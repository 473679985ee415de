"""Schemas of Kubernetes from packages. A field that the cluster does not know is an error."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

VERSIONS = ("1.31", "1.37")


def check_core(manifest: dict[str, Any]) -> None:
    """Check Kubernetes' own kinds against the oldest and the newest supported version."""
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


@cache
def _kserve_types() -> dict[str, dict[str, Any]]:
    """Fields and their types for each class of KServe's SDK. Parsed, not imported: the import needs a web server."""
    found = importlib.util.find_spec("kserve")
    if found is None or found.origin is None:
        pytest.skip("KServe's SDK is not here, whose models are the schema: pip install --no-deps kserve==0.21.0")
    types: dict[str, dict[str, Any]] = {}
    for file in (Path(found.origin).parent / "models").glob("v1*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                tables = {
                    statement.targets[0].id: ast.literal_eval(statement.value)
                    for statement in node.body
                    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
                }
                if "openapi_types" in tables:
                    names = tables["attribute_map"]
                    types[node.name] = {names[field]: kind for field, kind in tables["openapi_types"].items()}
    assert len(types) > 100
    return types


def check_kserve(manifest: dict[str, Any]) -> None:
    """Check KServe's kinds. `check_core` checks the parts that are Kubernetes' own."""
    version = manifest["apiVersion"].rpartition("/")[2]
    _check(manifest, version.capitalize() + manifest["kind"], manifest["kind"])


def _check(value: Any, kind: str, where: str) -> None:
    types = _kserve_types()
    primitives = {"str": str, "int": int, "bool": bool, "object": object}
    if kind in primitives:
        assert isinstance(value, primitives[kind]), f"{where} is not a {kind}"
    elif kind.startswith("list["):
        assert isinstance(value, list), f"{where} is not a list"
        for number, one in enumerate(value):
            _check(one, kind[5:-1], f"{where}[{number}]")
    elif kind.startswith("dict("):
        assert isinstance(value, dict), f"{where} is not a table"
        for name, one in value.items():
            _check(one, kind[5:-1].partition(", ")[2], f"{where}.{name}")
    elif kind in types:
        for name, one in value.items():
            assert name in types[kind], f"{where} has no field {name}"
            _check(one, types[kind][name], f"{where}.{name}")
    else:
        assert kind.startswith(("V1", "K8sIo", "ResourceQuantity")), kind
