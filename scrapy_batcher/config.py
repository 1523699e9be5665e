"""Every setting of scrapy-batcher, and those of Scrapy's that it goes by: its default, its meaning, its complaint."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scrapy import Request
from scrapy.settings import BaseSettings

from scrapy_batcher.lists.overrides import overrides_from
from scrapy_batcher.lists.shard import BY, WHOLE
from scrapy_batcher.outputs.names import Template
from scrapy_batcher.throttling.limit_settings import limits_from
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.values import (
    Address,
    ConfigError,
    address_or_textfile,
    boolean,
    function_or_none,
    name_or_none,
    names,
    one_of,
    path_or_none,
    seconds,
    statuses,
    whole,
)

FIELDS = (
    *("url", "length", "content", "base64"),
    *("status", "headers", "final_url", "content_type", "encoding", "fetched_at", "elapsed", "sha256", "path"),
)
"""What an item can have of a page."""

_BODY_FIELDS = ("url", "length", "path", "sha256")  # where bodies are files: those are not in the item too

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

_NAMES = (
    "BATCHER_ENABLED",
    "BATCHER_FIELDS",
    "BATCHER_COLUMNS",
    "BATCHER_OVERRIDES",
    "BATCHER_SCHEMES",
    "BATCHER_SKIP_DUPLICATES",
    "BATCHER_FAILURES",
    "BATCHER_BODIES",
    "BATCHER_BODIES_NAMES",
    "BATCHER_WARC",
    "BATCHER_CHECKPOINT_TARGETS",
    "BATCHER_CHECKPOINT_SECONDS",
    "BATCHER_SHARD_BY",
    "BATCHER_LIMITS",
    "BATCHER_LIMITS_COLUMN",
    "BATCHER_LIMITS_FUNCTION",
    "BATCHER_LIMITS_SHARED",
    "BATCHER_ADAPTIVE",
    "BATCHER_REST",
    "BATCHER_REST_STATUSES",
    "BATCHER_REST_SECONDS",
    "BATCHER_REST_MAX",
    "BATCHER_RETRY_AFTER_MAX",
    "BATCHER_FAILING_REST_MAX",
    "BATCHER_FAILING_GIVE_UP",
    "BATCHER_RETRY_SECONDS",
    "BATCHER_RETRY_MAX",
    "BATCHER_DEADLINE",
    "BATCHER_CURL",
    "BATCHER_HTTP2",
    "BATCHER_PROGRESS",
    "BATCHER_METRICS",
    "BATCHER_METRICS_SECONDS",
)

_PROGRESS = ("auto", "bar", "lines", "none")


@dataclass(frozen=True)
class Config:
    """The settings, read once.

    :param enabled: ``BATCHER_ENABLED``: whether any part of scrapy-batcher is on
    :param fields: ``BATCHER_FIELDS``: what an item has of its page, of `FIELDS`
    :param columns: ``BATCHER_COLUMNS``: whether the row's own columns go into the item
    :param overrides: ``BATCHER_OVERRIDES``: columns that say something of a row's request, and are no data
    :param schemes: ``BATCHER_SCHEMES``: URL schemes that are fetched, in lower case
    :param skip_duplicates: ``BATCHER_SKIP_DUPLICATES``: whether a request seen before is ``skipped/duplicate``
    :param failures: ``BATCHER_FAILURES``: path of the failures file, ``None`` for none
    :param bodies: ``BATCHER_BODIES``: the folder for the pages' bodies, ``None`` for none
    :param bodies_names: ``BATCHER_BODIES_NAMES``: how they are named there: one of `names.NAMES`, or a template
    :param warc: ``BATCHER_WARC``: path of the WARC file, ``None`` for none
    :param checkpoint_targets: ``BATCHER_CHECKPOINT_TARGETS``: outcomes that a crash can undo, beside what is in flight
    :param checkpoint_seconds: ``BATCHER_CHECKPOINT_SECONDS``: seconds after which outcomes are entered into the ledger
    :param shard_by: ``BATCHER_SHARD_BY``: what keeps rows together when a list is divided among processes
    :param limits: ``BATCHER_LIMITS`` on top of ``CONCURRENT_REQUESTS``, ``CONCURRENT_REQUESTS_PER_DOMAIN``,
        ``DOWNLOAD_DELAY`` with its jitter (not with AutoThrottle, which sets delays itself) and ``DOWNLOAD_SLOTS``: by
        key, ``*`` for everything, ``host:*`` for each host, ``host:name`` for one host or download slot
    :param limits_column: ``BATCHER_LIMITS_COLUMN``: the column of the list that names further keys of a row
    :param limits_function: ``BATCHER_LIMITS_FUNCTION``: names further keys of a request
    :param limits_shared: ``BATCHER_LIMITS_SHARED``: whether all spiders of the process that say so have them together
    :param adaptive: ``BATCHER_ADAPTIVE``: whether it is found out how many requests at once each host bears
    :param rest: ``BATCHER_REST``: whether a host that asks for rest, or fails, is left alone for a while
    :param rest_statuses: ``BATCHER_REST_STATUSES``: the statuses with which a host asks for rest
    :param rest_seconds: ``BATCHER_REST_SECONDS``: the first rest of a host that does not say how long; it doubles
    :param rest_max: ``BATCHER_REST_MAX``: the longest such rest, in seconds
    :param retry_after_max: ``BATCHER_RETRY_AFTER_MAX``: the longest rest of a host that says how long, in seconds
    :param failing_rest_max: ``BATCHER_FAILING_REST_MAX``: the longest rest of a host without a connection, in seconds
    :param failing_give_up: ``BATCHER_FAILING_GIVE_UP``: failures to connect in a row after which a host is given up, 0
        for never
    :param retry_seconds: ``BATCHER_RETRY_SECONDS``: the wait before a target's first retry; it doubles
    :param retry_max: ``BATCHER_RETRY_MAX``: the longest wait before a retry, in seconds
    :param deadline: ``BATCHER_DEADLINE``: seconds that a target may take from its first attempt, 0 for no end
    :param curl: ``BATCHER_CURL``: whether libcurl downloads when the extra ``fast`` is installed
    :param http2: ``BATCHER_HTTP2``: whether libcurl speaks HTTP/2 with servers that do, over TLS
    :param progress: ``BATCHER_PROGRESS``: how it is shown how far the batch is: ``auto``, ``bar``, ``lines``, ``none``
    :param metrics: ``BATCHER_METRICS``: where Prometheus finds metrics: an endpoint or a textfile, ``None`` for nowhere
    :param metrics_seconds: ``BATCHER_METRICS_SECONDS``: seconds between two writings of that textfile
    :param jobdir: ``JOBDIR``: the directory of a job that can be resumed, ``None`` for none
    :param concurrency: ``CONCURRENT_REQUESTS``: downloads in flight in all, 0 for no limit
    :param timeout: ``DOWNLOAD_TIMEOUT``: seconds that one download may take
    :param obeys_robots: ``ROBOTSTXT_OBEY``
    :param robots_user_agent: whom robots.txt is asked for: ``ROBOTSTXT_USER_AGENT``, or ``USER_AGENT``
    :param autothrottle: ``AUTOTHROTTLE_ENABLED``: whether Scrapy sets the delays of its download slots as it goes
    :param log_seconds: ``LOGSTATS_INTERVAL``: seconds between two lines that say how far it is, 0 for no such lines
    :param logs_to_file: whether there is a ``LOG_FILE``
    :param url_length: ``URLLENGTH_LIMIT``: characters in the longest URL that is fetched, 0 for no limit
    """

    enabled: bool = True
    fields: tuple[str, ...] = ("url", "length", "content", "base64")
    columns: bool = True
    overrides: tuple[str, ...] = ()
    schemes: frozenset[str] = frozenset({"http", "https"})
    skip_duplicates: bool = False
    failures: str | None = None
    bodies: str | None = None
    bodies_names: str = "hash"
    warc: str | None = None
    checkpoint_targets: int = 1000
    checkpoint_seconds: float = 1.0
    shard_by: str = WHOLE.by
    limits: Mapping[str, Limit] = field(default_factory=dict)
    limits_column: str | None = None
    limits_function: Callable[[Request], Iterable[str]] | None = None
    limits_shared: bool = False
    adaptive: bool = False
    rest: bool = True
    rest_statuses: frozenset[int] = frozenset({429, 503})
    rest_seconds: float = 1.0
    rest_max: float = 300.0
    retry_after_max: float = 3600.0
    failing_rest_max: float = 10.0
    failing_give_up: int = 0
    retry_seconds: float = 1.0
    retry_max: float = 60.0
    deadline: float = 0.0
    curl: bool = True
    http2: bool = False
    progress: str = _PROGRESS[0]
    metrics: Address | Path | None = None
    metrics_seconds: float = 15.0
    jobdir: str | None = None
    concurrency: int = 16
    timeout: float = 180.0
    obeys_robots: bool = False
    robots_user_agent: str = "*"
    autothrottle: bool = False
    log_seconds: float = 60.0
    logs_to_file: bool = False
    url_length: int = 2083

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> Config:
        """Read *settings*.

        :raises ConfigError: with the name and the value of the first setting that cannot be used
        """
        _refuse_unknown_names(settings)
        concurrency = whole(settings, "CONCURRENT_REQUESTS", cls.concurrency, 0)
        bodies = path_or_none(settings, "BATCHER_BODIES")
        return cls(
            enabled=boolean(settings, "BATCHER_ENABLED", cls.enabled),
            fields=_fields(settings, _BODY_FIELDS if bodies else cls.fields, bodies),
            columns=boolean(settings, "BATCHER_COLUMNS", cls.columns),
            overrides=overrides_from(settings),
            schemes=_schemes(settings, cls.schemes),
            skip_duplicates=boolean(settings, "BATCHER_SKIP_DUPLICATES", cls.skip_duplicates),
            failures=path_or_none(settings, "BATCHER_FAILURES"),
            bodies=bodies,
            bodies_names=_bodies_names(settings, cls.bodies_names),
            warc=path_or_none(settings, "BATCHER_WARC"),
            checkpoint_targets=whole(settings, "BATCHER_CHECKPOINT_TARGETS", cls.checkpoint_targets, 1),
            checkpoint_seconds=seconds(settings, "BATCHER_CHECKPOINT_SECONDS", cls.checkpoint_seconds),
            shard_by=one_of(settings, "BATCHER_SHARD_BY", BY, cls.shard_by),
            limits=limits_from(settings, concurrency),
            limits_column=name_or_none(settings, "BATCHER_LIMITS_COLUMN"),
            limits_function=function_or_none(settings, "BATCHER_LIMITS_FUNCTION"),
            limits_shared=boolean(settings, "BATCHER_LIMITS_SHARED", cls.limits_shared),
            adaptive=boolean(settings, "BATCHER_ADAPTIVE", cls.adaptive),
            rest=boolean(settings, "BATCHER_REST", cls.rest),
            rest_statuses=statuses(settings, "BATCHER_REST_STATUSES", cls.rest_statuses),
            rest_seconds=seconds(settings, "BATCHER_REST_SECONDS", cls.rest_seconds),
            rest_max=seconds(settings, "BATCHER_REST_MAX", cls.rest_max),
            retry_after_max=seconds(settings, "BATCHER_RETRY_AFTER_MAX", cls.retry_after_max),
            failing_rest_max=seconds(settings, "BATCHER_FAILING_REST_MAX", cls.failing_rest_max),
            failing_give_up=whole(settings, "BATCHER_FAILING_GIVE_UP", cls.failing_give_up, 0),
            retry_seconds=seconds(settings, "BATCHER_RETRY_SECONDS", cls.retry_seconds, or_none=True),
            retry_max=seconds(settings, "BATCHER_RETRY_MAX", cls.retry_max),
            deadline=seconds(settings, "BATCHER_DEADLINE", cls.deadline, or_none=True),
            curl=boolean(settings, "BATCHER_CURL", cls.curl),
            http2=boolean(settings, "BATCHER_HTTP2", cls.http2),
            progress=one_of(settings, "BATCHER_PROGRESS", _PROGRESS, cls.progress),
            metrics=address_or_textfile(settings, "BATCHER_METRICS"),
            metrics_seconds=seconds(settings, "BATCHER_METRICS_SECONDS", cls.metrics_seconds),
            jobdir=path_or_none(settings, "JOBDIR"),
            concurrency=concurrency,
            timeout=seconds(settings, "DOWNLOAD_TIMEOUT", cls.timeout, or_none=True),
            obeys_robots=boolean(settings, "ROBOTSTXT_OBEY", cls.obeys_robots),
            robots_user_agent=str(settings.get("ROBOTSTXT_USER_AGENT") or settings.get("USER_AGENT") or "*"),
            autothrottle=boolean(settings, "AUTOTHROTTLE_ENABLED", cls.autothrottle),
            log_seconds=seconds(settings, "LOGSTATS_INTERVAL", cls.log_seconds, or_none=True),
            logs_to_file=path_or_none(settings, "LOG_FILE") is not None,
            url_length=whole(settings, "URLLENGTH_LIMIT", cls.url_length, 0),
        )


def _refuse_unknown_names(settings: BaseSettings) -> None:
    for name in settings:
        if str(name).startswith("BATCHER_") and name not in _NAMES:
            near = difflib.get_close_matches(str(name), _NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(_NAMES)}"
            raise ConfigError(f"there is no setting {name}; {hint}")


def _schemes(settings: BaseSettings, default: frozenset[str]) -> frozenset[str]:
    schemes = frozenset(scheme.lower() for scheme in names(settings, "BATCHER_SCHEMES", default))
    if not schemes:
        raise ConfigError(f"BATCHER_SCHEMES must name a scheme, not {settings.get('BATCHER_SCHEMES')!r}")
    for scheme in schemes:
        if not _SCHEME.fullmatch(scheme):
            raise ConfigError(f"BATCHER_SCHEMES has {scheme!r}, which is not a URL scheme such as https")
    return schemes


def _fields(settings: BaseSettings, default: tuple[str, ...], bodies: str | None) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(names(settings, "BATCHER_FIELDS", default)))
    if not chosen:
        raise ConfigError(f"BATCHER_FIELDS must name a field, not {settings.get('BATCHER_FIELDS')!r}")
    for name in chosen:
        if name not in FIELDS:
            raise ConfigError(f"BATCHER_FIELDS has {name!r}; choose from {', '.join(FIELDS)}")
    if "path" in chosen and not bodies:
        raise ConfigError("BATCHER_FIELDS has 'path', which is that of a file in the folder BATCHER_BODIES: name one")
    return chosen


def _bodies_names(settings: BaseSettings, default: str) -> str:
    given = settings.get("BATCHER_BODIES_NAMES", default)
    try:
        Template(given)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"BATCHER_BODIES_NAMES {given!r}: {e}") from e
    return str(given)
