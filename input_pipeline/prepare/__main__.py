"""How are data prepared before training?

    python -m input_pipeline.prepare COMMAND --help

A command is a module of this folder with `add_arguments(parser)` and `run(options)`, which returns what to print.
"""

import argparse
import sys

from input_pipeline.prepare import emoji, filter, index, shards, stamps, stats, tfds, tokenizer, verify
from mmfuse.types import MmfuseError

COMMANDS = {
    "emoji": emoji,
    "filter": filter,
    "index": index,
    "shards": shards,
    "stamps": stamps,
    "stats": stats,
    "tfds": tfds,
    "tokenizer": tokenizer,
    "verify": verify,
}


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; an error that a person can mend is one sentence on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m input_pipeline.prepare", description="Prepare data.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        layout = argparse.RawDescriptionHelpFormatter
        command.add_arguments(commands.add_parser(name, description=command.__doc__, formatter_class=layout))
    options = parser.parse_args(arguments)
    try:
        print(COMMANDS[options.command].run(options))
    except (MmfuseError, OSError) as error:  # of files and folders that are named, full disks
        print(f"prepare {options.command}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
