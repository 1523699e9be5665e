"""`Addresses`: libcurl is told where a host is, as Scrapy's own resolver says."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import cast

from scrapy.exceptions import CannotResolveHostError
from scrapy.settings import BaseSettings
from scrapy.utils.reactor import is_reactor_installed
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostResolution, IReactorPluggableNameResolver, IResolutionReceiver
from zope.interface import implementer  # type: ignore[import-untyped]  # it has no types

_KNOWN_SECONDS = 50.0  # a little less than libcurl keeps an address


class Addresses:
    """Asks the reactor's resolver: the one that ``DNS_RESOLVER``, ``DNSCACHE_ENABLED``, ``DNSCACHE_SIZE`` and
    ``DNS_TIMEOUT`` speak of. Without a reactor none of these counts, and libcurl asks the system.
    """

    def __init__(self, settings: BaseSettings) -> None:
        self._size = settings.getint("DNSCACHE_SIZE") if settings.getbool("DNSCACHE_ENABLED") else 0
        self._has_reactor = is_reactor_installed()
        self._told: OrderedDict[tuple[str, int], float] = OrderedDict()  # when libcurl was told of a host and port

    def are_known(self, host: str, port: int) -> bool:
        """Whether libcurl need not be told of *host* and *port* now."""
        if not self._has_reactor:
            return True
        told = self._told.get((host, port))
        return (
            (told is not None and time.monotonic() < told + _KNOWN_SECONDS) or isIPAddress(host) or isIPv6Address(host)
        )

    def were_told(self, host: str, port: int) -> None:
        """Remember that libcurl knows *host* and *port* now."""
        if self._size:
            self._told[host, port] = time.monotonic()
            self._told.move_to_end((host, port))
            if len(self._told) > self._size:
                self._told.popitem(last=False)

    async def of(self, host: str, port: int) -> str:
        """What libcurl shall be told of *host* and *port*, in the form of its option ``RESOLVE``.

        :raises CannotResolveHostError: when *host* has no address
        """
        addresses = await _resolve(host, port)
        if not addresses:
            raise CannotResolveHostError(f"DNS lookup failed: no address found for {host}")
        # With the plus sign it is forgotten after libcurl's usual time.
        return f"+{host}:{port}:{','.join(addresses)}"


async def _resolve(host: str, port: int) -> list[str]:
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

    receiver = _Receiver()
    cast("IReactorPluggableNameResolver", reactor).nameResolver.resolveHostName(receiver, host, port)  # type: ignore[arg-type]  # the interface has no self
    return await receiver.addresses


@implementer(IResolutionReceiver)
class _Receiver:
    """Collects what a resolver finds."""

    def __init__(self) -> None:
        self.addresses: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._found: list[str] = []

    def resolutionBegan(self, resolution: IHostResolution) -> None:  # noqa: N802 - Twisted's name
        pass

    def addressResolved(self, address: IPv4Address | IPv6Address) -> None:  # noqa: N802 - Twisted's name
        is_ipv6 = isinstance(address, IPv6Address)
        self._found.append(f"[{address.host}]" if is_ipv6 else address.host)

    def resolutionComplete(self) -> None:  # noqa: N802 - Twisted's name
        if not self.addresses.done():
            self.addresses.set_result(self._found)
