"""Lines that call `attribook`, as texts show them: read as the command line reads them."""

import re
import shlex

import click

from attribook.report.cli import main

SHELL = re.compile(r"\s+(?:#|\||&&|2?>).*")  # what follows a call in a shell


def calls_in(text):
    """What follows `attribook` in the code lines and in the `code` of a text, without repetition."""
    text = text.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", text)
    found = [re.match(r"(?:\.venv/bin/)?attribook (.+)", part) for part in [*lines, *spans]]
    return list(dict.fromkeys(SHELL.sub("", each.group(1)) for each in found if each))


def unknown_in(call):
    """What a call has that the command line does not know; empty when it could be run."""
    name, *arguments = shlex.split(SHELL.sub("", call))
    if name not in main.commands:
        return [] if name.startswith("--") else [f"no command {name!r}"]
    try:
        main.commands[name].make_context(name, arguments)
    except click.exceptions.Exit:  # --help
        return []
    except click.UsageError as error:
        return [f"attribook {call}: {error.format_message()}"]
    return []
