"""Four times the load that a server can process, for a short time. `benchmarks/results/overload` has the long run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.serving import overload

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def test_an_overloaded_server_answers_right_or_refuses_and_stays_up(folder: Path) -> None:
    result = overload.run(folder, seconds=15, images=8)
    accepted, refused, server = result["accepted"], result["refused"], result["server"]
    assert accepted["answered_wrong"] == accepted["failed"] == 0, result["errors"]
    assert accepted["answered_right"] > 0
    assert refused["at_once"] > accepted["answered_right"]
    assert accepted["answered_right"] + refused["at_once"] + refused["after_waiting"] == result["offered"]["requests"]
    assert server["processes_started_later"] == 0, server["warnings"]
    assert server["exit_code"] is None
    assert server["memory_mib"]["largest"] < int(server["memory_mib"]["limit"].removesuffix("Mi"))
    assert result["afterwards"]["answered_right"] == result["afterwards"]["requests"] > 0
    text = overload.page(result, {"cores": 2, "processor": "p", "system": "s", "python": "3"}, "command")
    assert f"{refused['at_once']:,}" in text
