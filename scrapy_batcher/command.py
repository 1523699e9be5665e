"""``scrapy batcher``: commands that look at jobs."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from scrapy_batcher.jobs.database import LedgerError
from scrapy_batcher.jobs.jobdir import JobDirError, is_part_of
from scrapy_batcher.reports.export import FORMATS, export, failures
from scrapy_batcher.reports.page import page
from scrapy_batcher.reports.report import Report
from scrapy_batcher.reports.status import status

_STDOUT = "-"  # as a name of a file, as scrapy crawl has it

_INTERRUPTED = 130  # the status of a command that was ended by Ctrl-C, as a shell has it


class BatcherCommand(ScrapyCommand):
    """The command, in a project and outside. Each of its own commands is a parser and a function that gives lines."""

    requires_project = False
    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_ENABLED": False}

    def syntax(self) -> str:
        return "COMMAND ..."

    def short_desc(self) -> str:
        return "Show the status and results of batch jobs"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        commands = parser.add_subparsers(title="Commands", prog="scrapy batcher", metavar="COMMAND", required=True)

        def add(name: str, about: str, lines: Callable[[argparse.Namespace], Iterator[str]]) -> argparse.ArgumentParser:
            command = commands.add_parser(name, help=about, description=about)
            command.add_argument("jobdirs", nargs="+", metavar="JOBDIR", help="the job directory of a batch")
            command.set_defaults(lines=lines, file=_STDOUT)
            return command

        def add_file(command: argparse.ArgumentParser) -> None:
            # Not as -o, -O and --output of scrapy crawl, which have another meaning, and a name of their own here.
            command.add_argument("-o", dest="file", metavar="FILE", help="the file to write (default: -, for stdout)")

        add(
            "status",
            "show how far jobs are, each and all together; also while they run",
            lambda opts: status(opts.jobdirs),
        )
        command = add(
            "failures",
            "write the targets that were not fetched, as a failures file, which can be fetched as a list",
            lambda opts: failures(opts.jobdirs, opts.outcome),
        )
        command.add_argument(
            "--outcome",
            type=_outcomes,
            default=("failed", "skipped"),
            metavar="OUTCOMES",
            help="only these outcomes: failed, or single ones such as failed/timeout,failed/dns",
        )
        add_file(command)
        command = add("export", "write every target with its outcome", lambda opts: export(opts.jobdirs, opts.format))
        command.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="default: %(default)s")
        add_file(command)
        command = add("report", "write an HTML page on how jobs went", lambda opts: page(Report.of(opts.jobdirs)))
        add_file(command)

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Write the lines of the command that *opts* has.

        :raises UsageError: when they cannot be had, or written, with a sentence
        """
        if args:
            raise UsageError(f"there is no option {args[0]}: see scrapy batcher -h")
        if opts.file != _STDOUT and any(is_part_of(Path(opts.file), Path(jobdir)) for jobdir in opts.jobdirs):
            raise UsageError(f"{opts.file} is what the job keeps there: name another file")
        try:
            with closing(opts.lines(opts)) as lines:
                _write(lines, opts.file)
        except (LedgerError, JobDirError) as e:
            raise UsageError(str(e)) from e
        except KeyboardInterrupt:
            self.exitcode = _INTERRUPTED  # without a traceback: who has asked for it knows why


def _write(lines: Iterator[str], path: str) -> None:
    """Write *lines* into the file at *path*, which may be `_STDOUT`.

    :raises UsageError: when that cannot be
    """
    first = list(islice(lines, 1))  # before a file is made: when nothing can be had of a job it stays as it is
    is_stdout = path == _STDOUT
    if is_stdout and sys.stdout is None:
        raise UsageError("stdout cannot be written: it is closed")
    try:
        with nullcontext(_stdout()) if is_stdout else Path(path).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in chain(first, lines))
            file.flush()
    except OSError as e:
        if is_stdout:
            # Python flushes it once more when it ends, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(e, BrokenPipeError):  # whoever reads has enough
                return
        raise UsageError(f"{'stdout' if is_stdout else path} cannot be written: {e.strerror}") from e


def _stdout() -> io.TextIOWrapper:
    assert isinstance(sys.stdout, io.TextIOWrapper), "it is a command's own"
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    return sys.stdout


def _outcomes(text: str) -> tuple[str, ...]:
    """The outcomes that *text* names, with commas between."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name.partition("/")[0] not in ("failed", "skipped"):
            raise argparse.ArgumentTypeError(f"{name!r} is no outcome of what was not fetched, as failed/timeout is")
    return names
