"""The page of a report: HTML that needs nothing but itself, and runs nothing."""

from __future__ import annotations

from collections.abc import Iterator

from scrapy_batcher.jobs.history import bucket_start
from scrapy_batcher.jobs.lanes import HostWork
from scrapy_batcher.jobs.records import Record
from scrapy_batcher.redact import one_line
from scrapy_batcher.reports.axes import latency_axis, number_axis, time_axis
from scrapy_batcher.reports.parts import LENGTH, details, groups, legend, link, section, sentence, shown, unbroken
from scrapy_batcher.reports.plots import Caption, Column, areas, columns, ranking, strip
from scrapy_batcher.reports.report import Report
from scrapy_batcher.reports.style import STYLE
from scrapy_batcher.reports.words import duration, latency, moment, rate, share, size
from scrapy_batcher.throttling.limiters import HOST

_KINDS = ("fetched", "failed", "skipped")

_OUTCOMES = 12  # that have a bar

_NAME_LENGTH = 32  # characters of a text from outside in a plot

# Whatever a text in it should try: nothing is loaded, and nothing is run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(report: Report) -> Iterator[str]:
    """The lines of the page that tells what is in *report*."""
    title = report.jobs[0].name if len(report.jobs) == 1 else f"{len(report.jobs)} jobs"
    yield "<!DOCTYPE html>"
    yield '<html lang="en">'
    yield "<head>"
    yield '<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<link rel="icon" href="data:,">'
    yield f"<title>{shown(title)}: what happened</title>"
    yield f"<style>{STYLE}</style>"
    yield "</head>"
    yield "<body>"
    yield from _head(report, title)
    yield "<main>"
    yield '<div class="sections">'
    if report.spans:
        yield from _progress(report)
        yield from _rate(report)
    if report.totals.read:
        yield from _outcomes(report)
    if report.latencies:
        yield from _latency(report)
    yield from _hosts(report)
    yield from _failures(report)
    if len(report.jobs) > 1:
        yield from _jobs(report)
    yield "</div>"
    yield "</main>"
    yield "</body>"
    yield "</html>"


# -- sections ------------------------------------------------------------------------------------------------


def _head(report: Report, title: str) -> Iterator[str]:
    totals = report.totals
    states = dict.fromkeys(job.state for job in report.jobs)
    yield "<header>"
    yield f"<h1>{shown(title)}</h1>"
    yield f'<p class="soft">{sentence("; ".join(states))} {_time_of(report)}</p>'
    numbers = {
        "read": f"{totals.read:,}",
        "fetched": f"{totals.fetched:,}",
        "failed": f"{totals.failed:,}",
        "skipped": f"{totals.skipped:,}",
        "pending": f"{totals.pending:,}",
        "targets a second": rate(report.rate),
        "of fetched pages": size(totals.bytes),
        "worked on for": duration(report.seconds),
    }
    yield '<dl class="figures">'
    for name, number in numbers.items():
        yield f"<div><dt>{name}</dt><dd>{number}</dd></div>"
    yield "</dl>"
    parts = [(kind, float(getattr(totals, kind))) for kind in (*_KINDS, "pending")]
    text = ", ".join(f"{number:,.0f} {kind}" for kind, number in parts)
    if totals.read:
        yield strip(Caption("sum", "What became of all targets", f"Of {totals.read:,} targets: {text}."), parts)
        yield legend({kind: share(number, totals.read) for kind, number in parts})
    yield "</header>"


def _time_of(report: Report) -> str:
    begun = [job.runs.begun for job in report.jobs if job.runs.number]
    since = f"Begun on {moment(min(begun))}; as" if begun else "As"
    return f"{since} it was on {moment(report.now)}."


def _progress(report: Report) -> Iterator[str]:
    spans, read = report.spans, report.totals.read
    across = time_axis(spans[0].start, spans[-1].end)
    up = number_axis(max(read, *(sum(span.ended.values()) for span in spans)), whole=True)
    places = [spans[0].start, *(span.end for span in spans)]
    layers = [(kind, [0.0, *(float(max(span.ended[kind], 0)) for span in spans)]) for kind in _KINDS]
    done = sum(spans[-1].ended.values())
    text = f"From {moment(places[0])} to {moment(places[-1])}: {done:,} of {read:,} targets have an outcome at the end."
    yield from section("Progress")
    yield '<p class="unit">targets with an outcome; the dashed line is what was read of the list. Times are UTC</p>'
    yield legend(dict.fromkeys(_KINDS, ""))
    yield "<figure>"
    yield areas(Caption("progress", "Progress over time", text), across, up, places, layers, float(read))
    rows = [[moment(span.end, "%d %b %Y %H:%M:%S"), *(f"{span.ended[kind]:,}" for kind in _KINDS)] for span in spans]
    yield from details("Targets with an outcome at a time, UTC", ["until", *_KINDS], rows)
    yield "</figure></section>"


def _rate(report: Report) -> Iterator[str]:
    spans = report.spans
    across = time_axis(spans[0].start, spans[-1].end)
    bars, rows, highest = [], [], 0.0
    for span in spans:
        seconds = max(span.end - span.start, 1.0)
        rates = {kind: span.settled[kind] / seconds for kind in ("fetched", "failed")}
        highest = max(highest, sum(rates.values()))
        told = [f"{rate(number)} {kind} a second" for kind, number in rates.items()]
        at = moment(span.start, "%d %b %Y %H:%M:%S")
        bars.append(Column(span.start, span.end, list(rates.items()), f"{at}: {', '.join(told)}"))
        rows.append([at, *(f"{span.settled[kind]:,}" for kind in rates), rate(sum(rates.values()))])
    yield from section("Rate")
    yield '<p class="unit">targets a second that were fetched, or failed. Times are UTC</p>'
    yield legend({"fetched": "", "failed": ""})
    yield "<figure>"
    text = f"At most {rate(highest)} targets a second, {rate(report.rate)} on average."
    yield columns(Caption("rate", "Rate over time", text), across, number_axis(highest), bars)
    yield from details("Targets settled, by time, UTC", ["from", "fetched", "failed", "a second"], rows)
    yield "</figure></section>"


def _outcomes(report: Report) -> Iterator[str]:
    totals = report.totals
    counts = sorted({**totals.outcomes, "pending": totals.pending}.items(), key=lambda entry: -entry[1])
    counts = [(name, count) for name, count in counts if count]
    text = f"Of {totals.read:,} targets: {', '.join(f'{count:,} {name}' for name, count in counts[:5])}."
    shown = [(name.partition("/")[0], _cut(name), float(count), f"{count:,}") for name, count in counts[:_OUTCOMES]]
    yield from section("Outcomes")
    most = f"; the {_OUTCOMES} most frequent of {len(counts)}" if len(counts) > _OUTCOMES else ""
    yield f'<p class="unit">of the {totals.read:,} targets that were read{most}</p>'
    yield "<figure>"
    yield ranking(Caption("outcomes", "Targets by outcome", text), shown)
    rows = [[name, f"{count:,}", share(count, totals.read)] for name, count in counts]
    yield from details("Targets by outcome", ["outcome", "targets", "of all"], rows)
    yield "</figure></section>"


def _latency(report: Report) -> Iterator[str]:
    buckets = range(min(report.latencies), max(report.latencies) + 1)
    counts = [(bucket, report.latencies.get(bucket, 0)) for bucket in buckets]
    whole = sum(report.latencies.values())
    across = latency_axis(bucket_start(buckets[0]), bucket_start(buckets[-1] + 1))
    bars, rows = [], []
    for bucket, count in counts:
        start, end = bucket_start(bucket), bucket_start(bucket + 1)
        told = f"{latency(start)} to {latency(end)}: {count:,}"
        bars.append(Column(start, end, [("fetched", count)], told))
        rows.append([latency(start), latency(end), f"{count:,}", share(count, whole)])
    marks = {name: latency(report.latency(part)) for name, part in (("half", 0.5), ("90 %", 0.9), ("99 %", 0.99))}
    text = ", ".join(f"{unbroken(name)} came within {unbroken(value)}" for name, value in marks.items())
    yield from section("Latency")
    yield '<p class="unit">responses by the time from request to headers</p>'
    yield f"<p>About {text}.</p>"
    yield "<figure>"
    caption = Caption("latency", "Responses by latency", f"Of {whole:,} responses {text}.")
    yield columns(caption, across, number_axis(max(report.latencies.values()), whole=True), bars)
    yield from details("Responses by latency", ["from", "to", "responses", "of all"], rows)
    yield "</figure></section>"


def _hosts(report: Report) -> Iterator[str]:
    hosts = report.hosts
    resting = f", {hosts.resting:,} of these resting" if hosts.resting else ""
    yield from section("Hosts", "wide")
    yield f'<p class="unit">{hosts.count:,} in all, {hosts.pending:,} with pending targets{resting}</p>'
    yield '<div class="rankings">'
    for id, title, style, chosen in (
        ("slowest", "Slowest to answer", "fetched", [(h, h.seconds / h.answers, _mean(h)) for h in hosts.slowest]),
        (
            "worst",
            "Most failures",
            "failed",
            [(h, float(h.failed), f"{h.failed:,} of {h.fetched + h.failed:,}") for h in hosts.worst],
        ),
        ("largest", "Most to do", "skipped", [(h, float(h.pending), f"{h.pending:,}") for h in hosts.largest]),
    ):
        if chosen:
            names = [host.host.removeprefix(HOST) for host, _, _ in chosen]
            bars = [(style, _cut(name), value, text) for name, (_, value, text) in zip(names, chosen, strict=True)]
            yield f"<div><h3>{title}</h3>"
            yield "<figure>"
            text = f"{one_line(names[0], LENGTH)} comes first: {chosen[0][2]}."
            yield ranking(Caption(id, f"Hosts: {title.lower()}", text), bars)
            header = ["pending", "fetched", "failed", "mean latency"]
            rows = [_host_row(host) for host, _, _ in chosen]
            yield from details(f"Hosts: {title.lower()}", header, rows, above=True)
            yield "</figure></div>"
    yield "</div></section>"


def _failures(report: Report) -> Iterator[str]:
    yield from section("Failures", "wide")
    if not report.reasons:
        why = "everything that was settled was fetched" if report.totals.fetched else "nothing is settled yet"
        yield f'<p class="soft">None: {why}.</p>'
    yield '<div class="reasons">'
    for reason in report.reasons:
        of_all = share(reason.count, report.totals.read)
        yield f'<div><h3>{shown(reason.outcome)} <span class="soft">{reason.count:,}, {of_all}</span></h3>'
        yield '<ol class="examples">'
        yield from (f"<li>{_example(record)}</li>" for record in reason.examples)
        yield "</ol></div>"
    yield "</div></section>"


def _jobs(report: Report) -> Iterator[str]:
    rows = []
    for job in report.jobs:
        part = f", shard {job.shard}" if job.shard.count > 1 else ""
        numbers = [job.totals.read, *(getattr(job.totals, kind) for kind in _KINDS), job.totals.pending]
        rows.append([f"{job.name}{part}: {job.state}", *(f"{number:,}" for number in numbers)])
    yield from section("Jobs", "wide")
    yield from groups("What became of the targets of each", ["read", *_KINDS, "pending"], rows)
    yield "</section>"


# -- parts of them -------------------------------------------------------------------------------------------


def _host_row(host: HostWork) -> list[str]:
    numbers = (f"{number:,}" for number in (host.pending, host.fetched, host.failed))
    return [host.host.removeprefix(HOST), *numbers, _mean(host)]


def _mean(host: HostWork) -> str:
    return latency(host.seconds / host.answers) if host.answers else "no answer"


def _example(record: Record) -> str:
    target, outcome, attempts = record
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    error = f'<span class="error">{shown(outcome.error)}</span>' if outcome.error else ""
    return f'{link(target.url)}{error}<span class="soft">{shown(target.where)}, {tries}</span>'


def _cut(text: str) -> str:
    return one_line(text, _NAME_LENGTH)
