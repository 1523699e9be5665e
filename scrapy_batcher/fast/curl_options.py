"""`Options`: what libcurl is told of Scrapy's settings, and of a request."""

from __future__ import annotations

import base64
import re
import ssl
from binascii import Error as Base64Error
from functools import lru_cache

import pycurl
from scrapy import Request
from scrapy.settings import BaseSettings
from scrapy.utils.url import add_http_if_no_scheme

_OLDEST = "7.49"
if [int(part) for part in pycurl.version.split("/")[1].split(".")[:2]] < [int(part) for part in _OLDEST.split(".")]:
    raise ImportError(f"pycurl is too old: {pycurl.version.split()[0]}, where {_OLDEST} is needed", name="pycurl")

# libcurl's CURLOPT_SUPPRESS_CONNECT_HEADERS, since 7.54; pycurl 7.49 has no name for it.
_SUPPRESS_CONNECT_HEADERS = 265
_DISALLOW_USERNAME_IN_URL = 278  # as above, since 7.61

_LOWER_HEX = re.compile(r"%[0-9]?[a-f]|%[a-f][0-9]")  # which libcurl would write in capitals

_LENGTHY = ("POST", "PUT")  # servers want to know the length of their bodies, also when it is 0

_TARGET = re.compile(r"[^:]+://[^/?#]*([^#]*)")  # what of a URL is asked for

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # what HTTP takes for a method, or the name of a header

_TLS_VERSIONS = {
    "TLSv1.0": (pycurl.SSLVERSION_TLSv1_0, pycurl.SSLVERSION_MAX_TLSv1_0),
    "TLSv1.1": (pycurl.SSLVERSION_TLSv1_1, pycurl.SSLVERSION_MAX_TLSv1_1),
    "TLSv1.2": (pycurl.SSLVERSION_TLSv1_2, pycurl.SSLVERSION_MAX_TLSv1_2),
    "TLSv1.3": (pycurl.SSLVERSION_TLSv1_3, pycurl.SSLVERSION_MAX_TLSv1_3),
}


class Options:
    """The options of libcurl that *settings* ask for.

    :raises ValueError: when a setting has a value that cannot be used
    """

    def __init__(self, settings: BaseSettings, *, http2: bool) -> None:
        self.maxsize = settings.getint("DOWNLOAD_MAXSIZE")
        self.warnsize = settings.getint("DOWNLOAD_WARNSIZE")
        self.fail_on_dataloss = settings.getbool("DOWNLOAD_FAIL_ON_DATALOSS")
        self.tells_of_tls = settings.getbool("DOWNLOADER_CLIENT_TLS_VERBOSE_LOGGING")
        self._timeout = settings.getfloat("DOWNLOAD_TIMEOUT")
        self._bind_address = settings.get("DOWNLOAD_BIND_ADDRESS")
        self._shared = self._connection(http2) | self._tls(settings)

    def apply(self, curl: pycurl.Curl) -> None:
        """Set what all requests share."""
        for option, value in self._shared.items():
            curl.setopt(option, value)

    def apply_special(self, curl: pycurl.Curl, request: Request) -> bool:
        """Set what *request* has beyond a URL and headers; whether there was any of it.

        :raises ValueError: when its method, its proxy or the address to bind to cannot be used
        """
        meta = request.meta
        bind_address = meta.get("bindaddress") or self._bind_address
        target = _target_of(request) if _LOWER_HEX.search(request.url) else None
        if request.method == "GET" and not (request.body or meta.get("proxy") or bind_address or target):
            return False
        if not _TOKEN.fullmatch(request.method.encode()):
            raise ValueError(f"{request.method!r} cannot be the method of a request: {request.url}")
        if request.method == "HEAD":
            if request.body:
                raise ValueError(f"libcurl cannot send a HEAD request with a body: {request.url}")
            curl.setopt(pycurl.NOBODY, 1)
        elif request.method != "GET" or request.body:
            curl.setopt(pycurl.CUSTOMREQUEST, request.method)
            if request.body or request.method in _LENGTHY:
                curl.setopt(pycurl.POSTFIELDS, request.body)
        if meta.get("proxy"):
            self._apply_proxy(curl, request)
        if bind_address:
            _bind(curl, bind_address)
        if target:
            curl.setopt(pycurl.REQUEST_TARGET, target)
        return True

    def timeout_of(self, request: Request) -> float:
        """How long *request* may take in all, in seconds."""
        return float(request.meta.get("download_timeout") or self._timeout)

    @staticmethod
    def headers_of(request: Request) -> list[bytes]:
        """The header lines of *request*, and orders to leave out those that libcurl would add.

        :raises ValueError: when what should be the name of a header cannot be one
        """
        headers = request.headers
        lines: list[bytes] = []
        for name, values in headers.items():
            if name != b"Proxy-Authorization":
                lines += _lines(name, tuple(values))
        if not headers.getlist(b"Accept"):
            lines.append(b"Accept:")
        if request.body or request.method != "GET":
            lines += [name + b":" for name in (b"Content-Type", b"Expect") if not headers.getlist(name)]
        return lines

    def _apply_proxy(self, curl: pycurl.Curl, request: Request) -> None:
        curl.setopt(pycurl.PROXY, add_http_if_no_scheme(request.meta["proxy"]))
        headers = [b"Proxy-Connection:"]  # which libcurl would add
        authorization = request.headers.get(b"Proxy-Authorization")
        scheme, _, credentials = (authorization or b"").partition(b" ")
        if scheme.lower() == b"basic":
            # As name and password, libcurl keeps connections of different users apart.
            user, password = _decode(credentials)
            curl.setopt(pycurl.PROXYUSERNAME, user)
            curl.setopt(pycurl.PROXYPASSWORD, password)
        elif authorization:
            headers.append(b"Proxy-Authorization: " + authorization)
            curl.setopt(pycurl.FRESH_CONNECT, 1)
            curl.setopt(pycurl.FORBID_REUSE, 1)
        curl.setopt(pycurl.PROXYHEADER, headers)

    @staticmethod
    def _connection(http2: bool) -> dict[int, object]:
        return {
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_2TLS if http2 else pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.NOSIGNAL: 1,
            pycurl.PATH_AS_IS: 1,
            pycurl.USERAGENT: "",
            pycurl.PROXY: "",  # none, and none of the environment's either
            pycurl.NOPROXY: "",  # nor does the environment say where there is none
            _DISALLOW_USERNAME_IN_URL: 1,  # it would become a header
            _SUPPRESS_CONNECT_HEADERS: 1,
        }

    @staticmethod
    def _tls(settings: BaseSettings) -> dict[int, object]:
        verify = settings.getbool("DOWNLOAD_VERIFY_CERTIFICATES")
        least, most = _tls_versions(settings)
        options: dict[int, object] = {
            pycurl.SSL_VERIFYPEER: int(verify),
            pycurl.SSL_VERIFYHOST: 2 if verify else 0,
            pycurl.PROXY_SSL_VERIFYPEER: int(verify),
            pycurl.PROXY_SSL_VERIFYHOST: 2 if verify else 0,
            pycurl.SSLVERSION: least | most,
            pycurl.OPT_CERTINFO: 1,
            pycurl.SSL_SESSIONID_CACHE: 0,  # a session that is taken up again does not tell the certificate
        }
        trusted = ssl.get_default_verify_paths()
        if verify and trusted.cafile:
            options |= {pycurl.CAINFO: trusted.cafile, pycurl.PROXY_CAINFO: trusted.cafile}
        if verify and trusted.capath:
            options |= {pycurl.CAPATH: trusted.capath, pycurl.PROXY_CAPATH: trusted.capath}
        if ciphers := settings.get("DOWNLOADER_CLIENT_TLS_CIPHERS"):
            options[pycurl.SSL_CIPHER_LIST] = ciphers
        return options


@lru_cache(maxsize=1000)
def _lines(name: bytes, values: tuple[bytes, ...]) -> list[bytes]:
    """The lines of the header *name*, one for each of *values*, as libcurl takes them.

    :raises ValueError: when *name* cannot be the name of a header
    """
    if not _TOKEN.fullmatch(name):  # libcurl would send it, line breaks and all
        raise ValueError(f"{name!r} cannot be the name of a header")
    # A value with a line break in it would be further headers.
    texts = [b" ".join(value.split(b"\n")).replace(b"\r", b"") for value in values]
    return [name + b": " + text if text.strip() else name + b";" for text in texts]


def _tls_versions(settings: BaseSettings) -> tuple[int, int]:
    limits = [pycurl.SSLVERSION_DEFAULT, pycurl.SSLVERSION_MAX_DEFAULT]
    names = ("DOWNLOAD_TLS_MIN_VERSION", "DOWNLOAD_TLS_MAX_VERSION")
    for i, name in enumerate(names):
        version = settings.get(name)
        if version is None:
            continue
        if version not in _TLS_VERSIONS:
            raise ValueError(f"Unknown {name} value: {version}: it must be one of {', '.join(_TLS_VERSIONS)}")
        limits[i] = _TLS_VERSIONS[version][i]
    least, most = (settings.get(name) or default for name, default in zip(names, ("TLSv1.0", "TLSv1.3"), strict=True))
    if least > most:
        raise ValueError(f"DOWNLOAD_TLS_MIN_VERSION {least} is above DOWNLOAD_TLS_MAX_VERSION {most}")
    if settings.get(names[0]) is None and most < "TLSv1.2":  # which is where libcurl begins
        limits[0] = _TLS_VERSIONS["TLSv1.0"][0]
    return limits[0], limits[1]


def _target_of(request: Request) -> str | None:
    """The path and query of *request* as they are in its URL; ``None`` where a proxy is asked, for the whole URL."""
    match = _TARGET.match(request.url)
    if match is None or (request.meta.get("proxy") and request.url.lower().startswith("http:")):
        return None
    return match[1] if match[1].startswith("/") else f"/{match[1]}"


def _bind(curl: pycurl.Curl, address: str | tuple[str, int]) -> None:
    host, port = (address, 0) if isinstance(address, str) else address
    curl.setopt(pycurl.INTERFACE, f"host!{host}")
    if port:
        curl.setopt(pycurl.LOCALPORT, port)


def _decode(credentials: bytes) -> tuple[bytes, bytes]:
    try:
        text = base64.b64decode(credentials, validate=True)
    except Base64Error as e:
        raise ValueError(f"Proxy-Authorization has no Base64 after Basic: {e}") from e
    user, _, password = text.partition(b":")
    return user, password
