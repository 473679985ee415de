"""The files that GitHub reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

EVENTS = {"pull_request", "workflow_dispatch"}  # without settings
FILES = sorted(Path(__file__).parents[1].joinpath(".github").rglob("*.yml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_comma_splits_a_text_into_two_keys(file: Path) -> None:
    """In ``{ label: one, two }``, YAML reads a second key, "two", without a value, and GitHub refuses the form."""
    without_value = list(_keys_without_value(yaml.load(file.read_text(), yaml.BaseLoader)))

    assert [key for key in without_value if key not in EVENTS] == []


def _keys_without_value(node: object) -> list[str]:
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, value in pairs for found in ([str(key)] if value == "" else _keys_without_value(value))]
