"""The command line: `python -m commands preview|deploy|remove ...`; run.sh calls it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from .aws import Exit, Stop, WrongValue


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command: the options that all commands have, and its own."""
    command = import_module(f"commands.{name}")
    parser = argparse.ArgumentParser(
        f"deploy/{name}.sh",
        description=command.__doc__,
        epilog="\n".join(["Exit status:", *(f"  {one:2}  {one.text}" for one in Exit)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    stack = None if name == "preview" else "traffic-mirror"
    more = parser.add_argument
    more("--profile", help="profile of the AWS configuration")
    more("--region", help="Region of the instances (default: the profile's)")
    more("--stack", metavar="NAME", default=stack, help="stack (default: %(default)s)")
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; the exit status."""
    name, *rest = sys.argv[1:] if arguments is None else arguments
    parser = parser_of(name)
    # What stood behind -- went to the AWS CLI in earlier versions; these are options now.
    options = parser.parse_intermixed_args([one for one in rest if one != "--"])
    for option in (key for key, value in vars(options).items() if value == ""):
        parser.error(f"--{option.replace('_', '-')} needs a value")
    try:
        return int(options.run(options))
    except WrongValue as wrong:
        parser.error(str(wrong))
    except Stop as stop:
        print(f"{parser.prog}: {stop}", file=sys.stderr)
        return stop.status


if __name__ == "__main__":
    # Neither a reader that closes the pipe, as head does, nor Ctrl-C brings a traceback.
    with suppress(AttributeError, ValueError):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
