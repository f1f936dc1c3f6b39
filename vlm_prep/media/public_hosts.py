"""Which addresses are of the public network: what a row may have fetched without the user's word.

Python's `is_global` follows the registries of IANA, by a table that differs between its versions, and does not look
into addresses that carry another one: a gateway (NAT64, 6to4) leads from them to it.
"""

from __future__ import annotations

import ipaddress
from typing import Final

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")
_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(each)
    for each in (
        "192.0.0.0/24",  # of protocols, RFC 6890
        "64:ff9b:1::/48",  # NAT64 of a network's own, RFC 8215
        "3fff::/20",  # of documentation, RFC 9637
    )
)


def is_public(text: str) -> bool:
    """Whether an address, as the resolver gives it, is one that all of the internet reaches."""
    address = _carried(ipaddress.ip_address(text.partition("%")[0]))
    inside = address.is_multicast or address.is_reserved or getattr(address, "is_site_local", False)
    return address.is_global and not inside and not any(address in network for network in _NOT_PUBLIC)


def _carried(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 one stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
