"""The command line: `python -m commands preview|deploy|remove ...`; run.sh calls it."""

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from .aws import Exit, Stop, read_yaml


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command, with the options of options.yaml."""
    options = read_yaml("options")
    statuses = "\n".join(["Exit status:", *(f"  {one:2}  {one.text}" for one in Exit)])
    parser = argparse.ArgumentParser(
        f"deploy/{name}.sh",
        description=options["descriptions"][name],
        epilog=None if name == "preview" else statuses,  # whose description has its own
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.register("type", "int", int)
    parser.register("type", "file", Path)
    for option, settings in (options["all"] | options[name]).items():
        parser.add_argument(option, **settings)
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
        return int(import_module(f"commands.{name}").run(options))
    except Stop as stop:
        print(f"{parser.prog}: {stop}", file=sys.stderr)
        return stop.status


if __name__ == "__main__":
    # Neither a reader that closes the pipe, as head does, nor Ctrl-C brings a traceback.
    with suppress(AttributeError, ValueError):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
