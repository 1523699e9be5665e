"""The host in a URL: one name for it, whoever asks."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.utils.httpobj import urlparse_cached

# What most URLs begin with: for them this one look is enough.
_ORDINARY = re.compile(r"https?://([A-Za-z0-9.-]+)(?::\d+)?(?:[/?#]|$)")


def host_in(url: str) -> str:
    """The host in *url* as a request to it will have it; empty when there is none."""
    if host := _ordinary_host(url):
        return host
    try:
        host = urlsplit(url).hostname or ""
        return host if host.isascii() else host.encode("idna").decode()
    except ValueError:
        return ""


def host_of(request: Request) -> str:
    """The host in the URL of *request*; empty when there is none.

    :raises ValueError: when it cannot be told
    """
    return _ordinary_host(request.url) or urlparse_cached(request).hostname or ""


@lru_cache(maxsize=1000)  # a request's is asked for by all who count, or limit, something by host
def _ordinary_host(url: str) -> str | None:
    match = _ORDINARY.match(url)
    return match[1].lower() if match else None
