# SPDX-License-Identifier: Apache-2.0
"""What all commands share: ``--json``, ``--debug``, one clear line for every error, examples, progress."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tlc.errors import TlcError

if TYPE_CHECKING:
    from tlc.pipeline import Progress


Command = Callable[..., Any]


def examples(*lines: str) -> str:
    """An epilog that click does not wrap."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def common(command: Command) -> Command:
    """``--json`` and ``--debug``, and one clear line for every error."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout instead of a table.")
    @click.option("--debug", is_flag=True, help="Show a traceback with an error.")
    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            fail("stopped", 130)
        except BrokenPipeError:  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if debug:
                traceback.print_exception(error)
            fail(*explain(error))

    return wrapped


def explain(error: BaseException) -> tuple[str, int]:
    """One line about an error, and the exit code."""
    while isinstance(error, BaseExceptionGroup):  # of tasks that ran side by side
        error = error.exceptions[0]
    if isinstance(error, TlcError):
        return str(error), error.exit_code
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"internal error: {type(error).__name__}: {error}{place}; run again with --debug, and report it", 1


def fail(text: str, code: int) -> NoReturn:
    """Ends with one line on stderr."""
    click.echo(f"tlc: {' '.join(text.split())}", err=True)
    sys.exit(code)


class progress:
    """A line on stderr that says what is going on; silent with ``--json`` or where stderr is no terminal."""

    def __init__(self, silent: bool) -> None:
        self.silent = silent or not sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self.say

    def __exit__(self, *_: object) -> None:
        if not self.silent:
            click.echo("\r\033[K", nl=False, err=True)

    def say(self, what: str, done: int, total: int) -> None:
        """Shows a step and how far it got."""
        if not self.silent:
            part = f" {100 * done // total}%" if total > 1 else ""
            click.echo(f"\r\033[K{what}{part} ...", nl=False, err=True)
