"""What is not shown of a text, in a log, an error or a file: the password of a URL, and what would break a line."""

from __future__ import annotations

import re

# A user name, a colon, then everything up to the last @ before the path: a password may itself hold an @. One that
# holds a raw space or slash makes no URL, but is not to be shown either: up to the last @ there is. No user name is a
# bracket with an IPv6 address in it, no password digits before a path: those are a host and its port.
_PASSWORD = re.compile(
    r"(:\\?/\\?/(?!\[[^\]@/?#]*\])[^/?#\s:@]*):(?!\d*(?:[/?#\s]|$))(?:[^/?#\s]*|[^/?#]*|.*)@", re.DOTALL
)


# A scheme or none, slashes or none, and what follows an address that is not a web page's is no password.
_BARE = re.compile(r"^(?!mailto:|sips?:|xmpp:|acct:)((?:[A-Za-z][\w+.-]*:)?[/\\]*[^/\\?#\s:@]+):(?!\*{3}@)[^/\\?#\s]*@")


def redact(text: str) -> str:
    """*text* with the password of every URL in it replaced by ``***``."""
    # Without the part behind the last @, each attempt to match soon finds an end: no text takes quadratic time.
    before, at, behind = text.rpartition("@")
    return _PASSWORD.sub(r"\1:***@", before + at) + behind


def redact_url(url: str) -> str:
    """*url* without its password, also when it is no URL because its scheme, or a slash behind that, was forgotten."""
    shown = redact(url)
    return _BARE.sub(r"\1:***@", url) if shown == url else shown


def one_line(text: str, length: int) -> str:
    """*text* without passwords, as one line of at most *length* characters, none of which a terminal obeys."""
    line = " ".join(redact(text).split())[: length + 1]
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= length else line[: length - 1] + "…"
