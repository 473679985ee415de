"""Addresses of servers are read in every form, or refused with a line that explains the form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

# Private: a helper that several packages share; it has no public name.
from lrclr._addresses import Address, ip_address
from lrclr.bench._targets import is_server
from lrclr.cli import main
from lrclr.errors import UsageError
from lrclr.triton.client import AsyncClient, Client

if TYPE_CHECKING:
    import ipaddress

WRONG = {
    "": "is empty",
    "127.0.0.1": "has no port. Write 127.0.0.1:8001",
    "localhost": "has no port. Write localhost:8001",
    "::": r"has no port: .* brackets. Write \[::\]:8001",
    "::1": r"has no port: .* brackets. Write \[::1\]:8001",
    "[::1]": r"has no port: .* Write \[::1\]:8001",
    "fe80::1%lo": r"has no port: .* Write \[fe80::1%lo\]:8001",
    "::ffff:127.0.0.1": r"has no port. Write 127.0.0.1:8001",
    "0:0:0:0:0:0:0:1:8001": r"is ambiguous: .* Write \[::1\]:8001",
    "http://127.0.0.1:8000": "is a URL: .*8001, and for HTTP on port 8000",
    "HTTPS://clinic.example": "is a URL",
    "grpc://127.0.0.1:8001": "is a URL",
    "dns:///127.0.0.1:8001": "is a URL",
    "127.0.0.1:8001/v2": "has a path",
    "unix:/run/triton.sock": "has a path",
    "127.0.0.1:": "'' is not a number from 1 to 65535",
    "127.0.0.1:0": "'0' is not a number from 1 to 65535",
    "127.0.0.1:65536": "'65536' is not a number",
    "127.0.0.1:-1": "'-1' is not a number",
    "127.0.0.1:grpc": "'grpc' is not a number",
    "127.0.0.1:٨٠٠١": "is not a number",
    "127.0.0.1:8001 ": "is not a number",
    ":8001": "'' is not a name or address",
    "256.0.0.1:8001": "'256.0.0.1' is not a name or address",
    "a b:8001": "'a b' is not a name or address",
    "[::g]:8001": r"'\[::g\]' is not an IPv6 address",
    "[localhost]:8001": r"'\[localhost\]' is not an IPv6 address",
}


@pytest.mark.parametrize("text", WRONG)
def test_the_error_for_a_wrong_address_explains_it(text: str) -> None:
    for make in (Address.parse, Client, AsyncClient):
        with pytest.raises(UsageError, match=WRONG[text]) as raised:
            make(text)
        assert raised.value.exit_code == 2
        assert "\n" not in str(raised.value)


def test_errors_do_not_contain_passwords() -> None:
    with pytest.raises(UsageError, match="holds a user name") as raised:
        Client("http://clinic:geheim@127.0.0.1:8000")
    assert "geheim" not in str(raised.value)


@pytest.mark.parametrize("command", ["probe", "predict", "bench"])
def test_commands_print_the_same_error(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from lrclr.samples import sample_paths

    address = "http://127.0.0.1:8000"
    arguments = {
        "probe": [address],
        "predict": [str(sample_paths()[0]), "--server", address],
        "bench": [address, "--quick"],
    }
    assert main([command, *arguments[command]]) == 2
    assert "is a URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "written", "target"),
    [
        ("127.0.0.1:8001", "127.0.0.1:8001", "127.0.0.1:8001"),
        ("clinic.example:1", "clinic.example:1", "clinic.example:1"),
        ("[::1]:8001", "[::1]:8001", "[::1]:8001"),
        ("[0:0:0:0:0:0:0:1]:65535", "[::1]:65535", "[::1]:65535"),
        ("[::ffff:127.0.0.1]:8001", "127.0.0.1:8001", "127.0.0.1:8001"),
        ("[fe80::1%eth0]:8001", "[fe80::1%eth0]:8001", "ipv6:%5Bfe80::1%25eth0%5D:8001"),
    ],
)
def test_every_form_of_an_address_is_read(text: str, written: str, target: str) -> None:
    address = Address.parse(text)
    assert str(address) == written
    assert address.target == target
    assert is_server(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_ip_address_is_read_in_short_and_in_full(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    for form in {str(ip), ip.exploded, str(ip).upper()}:
        text = f"[{form}]:{port}" if ip.version == 6 else f"{form}:{port}"
        address = Address.parse(text)
        assert address.port == port
        assert address.host == str(getattr(ip, "ipv4_mapped", None) or ip)
        assert address.loopback == (ip_address(address.host).is_loopback or ip_address(address.host).is_unspecified)  # type: ignore[union-attr]
        assert Address.parse(str(address)) == address


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except UsageError as error:
        lines = str(error).splitlines()
    else:
        lines = [text]
        assert Address.parse(str(address)) == address
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("0.0.0.0", True),
        ("[::1]", True),
        ("[::]", True),
        ("[::ffff:127.0.0.1]", True),
        ("localhost", True),
        ("LocalHost.", True),
        ("one.localhost", True),
        ("10.0.0.1", False),
        ("[fe80::1%lo]", False),
        ("localhost.example", False),
        ("notlocalhost", False),
    ],
)
def test_loopback_addresses_are_recognised(host: str, loopback: bool) -> None:
    address = Address.parse(f"{host}:8001")
    assert address.loopback == loopback
    assert bool(address.channel_options) == loopback
