"""``scrapy batcher``: what there is to do with jobs besides running them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, ClassVar

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from scrapy_batcher.database import LedgerError
from scrapy_batcher.status import status


class BatcherCommand(ScrapyCommand):
    """The command, in a project and outside. Each of its own commands is a parser and a function that gives lines."""

    requires_project = False
    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_ENABLED": False}

    def syntax(self) -> str:
        return "COMMAND ..."

    def short_desc(self) -> str:
        return "Look at the jobs of batches"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        commands = parser.add_subparsers(title="Commands", prog="scrapy batcher", metavar="COMMAND", required=True)
        about = "what became of the targets of each job so far, and of all together; also while they run"
        command = commands.add_parser("status", help=about, description=about)
        command.add_argument("jobdirs", nargs="+", metavar="JOBDIR", help="the job directory of a batch")
        command.set_defaults(lines=lambda opts: status(opts.jobdirs))

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Write the lines of the command that *opts* has.

        :raises UsageError: when they cannot be had, with a sentence
        """
        if args:
            raise UsageError(f"there is no option {args[0]}: see scrapy batcher -h")
        lines: Iterable[str] = opts.lines(opts)
        try:
            answer = "\n".join(lines)
        except LedgerError as e:
            raise UsageError(str(e)) from e
        print(answer)  # noqa: T201 - it is what was asked for
