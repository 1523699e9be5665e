"""What became of each target, as lines: of those that were not fetched, or of all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from scrapy_batcher.batch.failures import failure_line, redacted
from scrapy_batcher.jobs.ledger import Ledger
from scrapy_batcher.jobs.records import Record
from scrapy_batcher.redact import redact_url
from scrapy_batcher.reports.job import opened

FORMATS = ("jsonl", "csv")

_SLICE = 1000  # targets that are read at a time

_HEADER = ("url", "file", "line", "outcome", "status", "error", "attempts")


def failures(jobdirs: Sequence[str], outcomes: Sequence[str]) -> Iterator[str]:
    """The lines of a failures file with the targets of the jobs in *jobdirs* that were not fetched.

    :param outcomes: those that ended in one of these; ``failed`` and ``skipped`` stand for all that begin with it
    :raises LedgerError: when in one of the directories there is no job that can be read
    """
    with opened(jobdirs) as ledgers:
        for ledger in ledgers.values():
            for records in ledger.records.failures(_SLICE, outcomes):
                yield from (failure_line(*record) for record in records)


def export(jobdirs: Sequence[str], format: str) -> Iterator[str]:
    """A line for each target of the jobs in *jobdirs*, in the order of the list, with what became of it.

    :param format: ``jsonl``: lines as a failures file has them; ``csv``: a header, and the row's columns behind the
        others, with ``row_`` before a name that is taken
    :raises LedgerError: when in one of the directories there is no job that can be read
    """
    with opened(jobdirs) as ledgers:
        if format == "csv":
            yield from _table(ledgers.values())
        else:
            yield from (failure_line(*record) for ledger in ledgers.values() for record in _records(ledger))


def _table(ledgers: Iterable[Ledger]) -> Iterator[str]:
    # Read twice, for the header: rows of JSON lines may each have columns of their own.
    names = list(
        dict.fromkeys(name for ledger in ledgers for record in _records(ledger) for name in record.target.columns)
    )
    yield _csv_line([*_HEADER, *_titles(names)])
    for ledger in ledgers:
        for target, outcome, attempts in _records(ledger):
            cells = [
                redact_url(target.url),
                target.file,
                target.line,
                outcome.name,
                outcome.status,
                outcome.error,
                attempts,
            ]
            yield _csv_line([*cells, *(_cell(redacted(target.columns.get(name))) for name in names)])


def _records(ledger: Ledger) -> Iterator[Record]:
    for records in ledger.records.all(_SLICE):
        yield from records


def _titles(names: Sequence[str]) -> Iterator[str]:
    """*names* as no column of ours, and no other of them, is called."""
    for name in names:
        title = name
        while title in _HEADER or (title != name and title in names):
            title = f"row_{title}"
        yield title


def _cell(value: Any) -> Any:
    """*value*, of a JSON type, as one cell of a table."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
