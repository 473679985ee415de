"""The reference of the commands, in Markdown, from the command line itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import typer

from lrclr.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator


def command_reference() -> str:
    """The exit codes, and each command with its usage, its arguments and its options."""
    root = typer.main.get_command(app)
    text = [f"\n{_prose(root.epilog or '')}\n\n"]
    text += [_section(name, command, context) for name, command, context in commands(root, "lrclr", None)]
    return "".join(text)


def commands(command: Any, name: str, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every command that is shown in the help: its full name, the command, and the context to print it with."""
    context = type(command).context_class(command, info_name=name.rpartition(" ")[2], parent=parent)
    if not hasattr(command, "list_commands"):
        yield name, command, context
        return
    if parent is not None:
        yield name, command, context
    for each in command.list_commands(context):
        inner = command.get_command(context, each)
        if not inner.hidden:
            yield from commands(inner, f"{name} {each}", context)


def _section(name: str, command: Any, context: Any) -> str:
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    parts = [f"## {name}\n\n```text\n{usage}\n```\n\n{_prose(command.help or '')}\n\n"]
    records = [(each.param_type_name, each.get_help_record(context)) for each in command.get_params(context)]
    for kind, title in (("argument", "argument"), ("option", "option")):
        rows = [record for found, record in records if found == kind and record and record[0] != "--help"]
        if rows:
            parts.append(f"| {title} | |\n|---|---|\n")
            parts += [f"| {_cell(f'`{left}`')} | {_cell(_prose(right))} |\n" for left, right in rows]
            parts.append("\n")
    if command.epilog:
        parts.append(f"{_prose(command.epilog)}\n\n")
    return "".join(parts)


def _prose(text: str) -> str:
    """Help text as Markdown: what Markdown would read as markup outside of code is escaped."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([\\<>*_\[\]])", r"\\\1", piece) for piece in pieces)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
