"""A target's endpoint is an address that this service will call: not every address is fine."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

# Where clouds answer about the machine itself, beside the link-local ranges.
_METADATA_HOSTS = frozenset({"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"})
_METADATA_ADDRESSES = frozenset({"169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"})


def check_endpoint(url: str, *, allow_link_local: bool) -> str:
    """The endpoint, when it is an http(s) URL of an address that may be called. Raises ValueError."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("config.endpoint: is not a URL such as https://s3.example.com") from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("config.endpoint: must be an http or https URL without user, query and fragment")
    if allow_link_local:
        return url
    if host.rstrip(".").lower() in _METADATA_HOSTS or any(_is_forbidden(one) for one in _addresses(host, port)):
        raise ValueError(
            "config.endpoint: is a link-local or metadata address; TIMESTORE_STORAGE_ALLOW_LINK_LOCAL=on allows it"
        )
    return url


def _addresses(host: str, port: int | None) -> set[str]:
    """Every address that the name stands for now; none where it cannot be resolved, and then nothing is called."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _is_forbidden(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    return address.is_link_local or address.is_unspecified or str(address) in _METADATA_ADDRESSES
