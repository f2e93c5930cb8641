"""Who may write: the hosts of an allow-list, and nobody while the IOC is switched offline.

What counts is the address of the connection, never the host name that a client says it has.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from beamline.core.errors import ConfigurationError
from ioc.channel import PutRefusedError

__all__ = ["LOCAL", "AccessControl", "WriteDeniedError"]

#: Stands for this machine, by whichever of its addresses it is reached.
LOCAL = "localhost"


class WriteDeniedError(PutRefusedError):
    """A client put a value to a PV that it may only read."""


class AccessControl:
    """Decides which clients may write.

    Parameters
    ----------
    hosts
        IPv4 addresses, networks such as ``192.168.7.0/24`` and host names (looked up once, here);
        ``localhost`` means this machine.

    Attributes
    ----------
    online : bool
        False denies all writes.

    Raises
    ------
    ConfigurationError
        If a host name has no address.
    """

    def __init__(self, hosts: Iterable[str] = (LOCAL,)) -> None:
        self.online = True
        self._local = False
        self._networks: list[ipaddress.IPv4Network] = []
        for host in hosts:
            if host == LOCAL:
                self._local = True
            else:
                self._networks.extend(_networks(host))

    def allows_host(self, peer: str, own: str) -> bool:
        """Whether a client may write as far as its host is concerned.

        Parameters
        ----------
        peer
            IPv4 address of the client.
        own
            The address at which it reached this machine.
        """
        address = ipaddress.IPv4Address(peer)
        if self._local and (address.is_loopback or peer == own):
            return True
        return any(address in network for network in self._networks)


def _networks(host: str) -> list[ipaddress.IPv4Network]:
    try:
        return [ipaddress.IPv4Network(host)]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ConfigurationError(
            f"the allowed host {host!r} is not known: expected an IPv4 address, a network such as "
            "192.168.7.0/24, or a host name that has an address."
        ) from None
    return [ipaddress.IPv4Network(entry[4][0]) for entry in found]
