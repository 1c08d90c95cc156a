"""The help of each command fits a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from amqp_rpc.cli import main


def paths(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from paths(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(paths(main)), ids=lambda path: " ".join(path) or "amqp-rpc")
def test_the_help_of_a_command_fits_80_columns(path: tuple[str, ...]) -> None:
    text = CliRunner().invoke(main, [*path, "--help"], terminal_width=80).output
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "Usage:" in text
    assert "\b" not in text
