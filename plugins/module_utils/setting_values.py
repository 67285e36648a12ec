"""Checks of single settings, for Ansible's variables and for jhub.env alike. Pure.

Every function takes a value and returns it as the roles want it, or raises ValueError with a text that goes on from
the value: "must be an absolute path".
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from . import image_reference, registry_mirrors, usernames

_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_QUANTITY = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[KMGTP]i|[kMGTP])")
_CORES = re.compile(r"[0-9]+(?:\.[0-9]+)?|[0-9]+m")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# A shell and a URL both take these characters of user and password as they are.
_PROXY = re.compile(
    r"https?://(?:(?:[A-Za-z0-9._+=,:-]|%[0-9A-Fa-f]{2})+@)?(\[[0-9A-Fa-f:.]+\]|[^\[\]@:/%]+):([0-9]{1,5})/?"
)
_RESOURCE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def boolean(value: Any) -> bool:
    """A switch, as a text."""
    if str(value).lower() not in _BOOLEANS:
        raise ValueError("must be true or false")
    return _BOOLEANS[str(value).lower()]


def whole_number(value: Any) -> int:
    """A whole number from 1."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", str(value)):
        raise ValueError("must be a whole number from 1")
    return int(value)


def port(value: Any) -> int:
    """A TCP port."""
    if not re.fullmatch(r"[0-9]{1,5}", str(value)) or not 0 < int(value) < 65536:
        raise ValueError("must be a port, a number from 1 to 65535")
    return int(value)


def one_line(value: Any) -> str:
    """A text without line ends and without blanks at its ends."""
    if not value or str(value) != str(value).strip() or not str(value).isprintable():
        raise ValueError("must be one line of text without blanks at its ends")
    return str(value)


def quantity(value: Any) -> str:
    """An amount of storage or memory as Kubernetes writes it."""
    if not _QUANTITY.fullmatch(str(value)) or not re.search(r"[1-9]", str(value)):
        raise ValueError("must be an amount with its unit, such as 128Gi")
    return str(value)


def cores(value: Any) -> str:
    """A number of CPU cores."""
    if not _CORES.fullmatch(str(value)) or not re.search(r"[1-9]", str(value)):
        raise ValueError("must be a number of cores, such as 2, 0.5 or 500m")
    return str(value)


def absolute_path(value: Any) -> str:
    """A path that means the same wherever it is used, and no other place than it seems to."""
    text = str(value)
    if not text.startswith("/") or not text.isprintable() or re.search(r"[{}]", text):
        raise ValueError("must be an absolute path, without braces and control characters")
    if {".", ".."} & set(text.split("/")):
        raise ValueError("must be a path without . and ..")
    return text


def url(value: Any) -> str:
    """The address of a web page or service."""
    wrong = ValueError("must be an address such as https://name.example.com/path")
    if not one_line(value).isascii() or " " in str(value):
        raise wrong
    try:
        parts = urlsplit(str(value))
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise wrong from None
    if not valid:
        raise wrong
    return str(value)


def registry(value: Any) -> str:
    """The address of an image registry, as nodes are given it."""
    try:
        registry_mirrors.hosts_toml("docker.io", str(value), "")
    except registry_mirrors.RegistryMirrorsError as error:
        raise ValueError("must be https://host[:port][/project], such as https://harbor.example.com/gpuhub") from error
    return str(value)


def proxy(value: Any) -> str:
    """The address of an HTTP proxy, without a slash at its end. The text of the error has no password in it."""
    text = str(value)
    shown = repr(re.sub(r"(?s).*@", "(hidden)@", text))
    match = _PROXY.fullmatch(text)
    try:
        if not match:
            raise ValueError
        host = host_name(match[1].strip("[]"))
        port(match[2])
    except ValueError:
        raise ValueError(
            "must be http://host:port or http://user:password@host:port, where each special character of user and "
            f"password is written as %XX, but is {shown}"
        ) from None
    if re.fullmatch(r"localhost|127\..*|::1", host.lower()):
        raise ValueError(f"must be a proxy that pods reach too, where {host} is the pod itself, but is {shown}")
    return text.rstrip("/")


def direct(value: Any) -> str:
    """What is reached without a proxy: an address, a network, a name, or with a dot before it all names of a domain."""
    text = str(value).lower()
    for kind in (address, network):
        try:
            return kind(text)
        except ValueError:
            continue
    try:
        host_name(text[text.startswith(".") :])
    except ValueError:
        raise ValueError("must be an address, a network, a name, or all names of a domain by .example.com") from None
    return text


def image(value: Any) -> str:
    """The name of a container image, with what says which version."""
    try:
        image_reference.parse(value)
    except image_reference.ImageReferenceError as error:
        raise ValueError(f"must be the name of an image ({error})") from error
    if not re.search(r":[^/]+\Z", value):
        raise ValueError("must be an image with a tag or a digest, such as quay.io/me/notebook:1.2")
    return str(value)


def host_name(value: Any) -> str:
    """A DNS name or an address, as in a web page's address."""
    text = str(value).lower()
    labels = text.split(".")
    if len(text) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit():
        return str(value)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("must be a host name such as hub.example.com") from None


def label(value: Any) -> str:
    """A name of Kubernetes that is also a DNS label, such as a namespace's."""
    if not _LABEL.fullmatch(str(value)):
        raise ValueError("must be made of at most 63 lower-case letters, digits and -, with no - at its ends")
    return str(value)


def resource(value: Any) -> str:
    """A resource of a node that a device plugin offers, such as `rdma/hca`."""
    domain, slash, name = str(value).partition("/")
    if not slash or not all(map(_LABEL.fullmatch, domain.split("."))) or not _RESOURCE.fullmatch(name):
        raise ValueError("must be a resource's name such as rdma/rdma_shared_device")
    return str(value)


def network(value: Any) -> str:
    """A network of addresses."""
    try:
        return str(ipaddress.ip_network(str(value)))
    except ValueError as error:
        raise ValueError(f"must be a network such as 10.1.0.0/16 ({error})") from None


def address(value: Any) -> str:
    """An IP address."""
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise ValueError("must be an IP address") from None


def users(value: Any) -> list[str]:
    """Names of users, as a list or with commas between them; each once."""
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    names = [name for name in names if name != ""] if isinstance(value, str) else names
    wrong = usernames.faults(names)
    if wrong:
        raise ValueError(f"must name users; not {'; not '.join(wrong)}")
    if not names:
        raise ValueError("must name at least one user; nobody could approve anybody")
    return list(dict.fromkeys(names))
