"""One written form for the many ways to write a URL, so that equal pages have equal URLs (RFC 3986, section 6).

Only differences that cannot change the page are taken away; whoever must be bolder compares texts.
"""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

# Query parameters that say how a visitor came or who he is, never which page he sees.
_TRACKING = re.compile(
    r"(utm|mtm|pk|piwik|matomo|hsa|itm|vero|oly|trk|mkt)_.+|fb_(action_ids|action_types|source|ref)|"
    r"(fb|g|d|tw|tt|y|ys)clid|msclkid|[gw]braid|gclsrc|irclickid|li_fat_id|igshid|igsh|srsltid|epik|spm|s_kwcid|xtor|"
    r"mc_[ce]id|_(ga|gl|hsenc|hsmi|openstat|ke)|phpsessid|jsessionid|aspsessionid\w*"
)
_SESSION_IN_PATH = re.compile(r";(jsessionid|phpsessid)=[^/?]*", re.IGNORECASE)
_HIERARCHICAL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*://")
_OTHER_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*:(?!\d)")  # mailto:, javascript:, but not example.com:80
_HOST = re.compile(r"[\w\-.]+|[0-9a-f:.]+")
_ESCAPE = re.compile(r"%[0-9a-fA-F]{2}")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_LEFT_AS_THEY_ARE = "%!#$&'()*+,/:;=?@[]~"
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """The parts of a URL in canonical form; the fragment is dropped."""

    scheme: str
    host: str  # lower case, IDN as punycode, no trailing dot
    port: str  # with its colon; empty for the scheme's default
    path: str
    query: str  # with its question mark, or empty

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{self.port}{self.path}{self.query}"


def parse_url(url: str) -> Address | None:
    """The canonical parts of a URL, which may lack its scheme; None for a string that names no host."""
    url = url.strip().replace("\\", "/")  # as browsers do
    if not _HIERARCHICAL.match(url):
        if _OTHER_SCHEME.match(url):
            return None
        url = f"http://{url.lstrip('/')}"
    try:
        parts = urlsplit(url)
        host = ascii_host(parts.hostname or "")
    except ValueError:  # brackets that hold no address
        return None
    if not _HOST.fullmatch(host):
        return None
    path = _escaped(_SESSION_IN_PATH.sub("", parts.path)) or "/"
    return Address(parts.scheme, host, _port(parts.netloc, parts.scheme), path, _canonical_query(parts.query))


def ascii_host(host: str) -> str:
    """A host name in lower case, internationalised ones as punycode where that is possible."""
    host = unquote(host).lower()
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError:  # a label that is too long, or lone surrogates
            host = host.encode("utf-8", "replace").decode()
    return host.strip(".")


def _port(netloc: str, scheme: str) -> str:
    _, colon, port = netloc.rpartition("@")[2].rpartition("]")[2].rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5):
        return ""
    number = int(port)
    return f":{number}" if 0 < number < 65536 and number != _DEFAULT_PORTS.get(scheme) else ""


def _canonical_query(query: str) -> str:
    """Without tracking, sorted by name; several values of one name keep their order, which may matter."""
    kept = [part for part in query.split("&") if part and not _TRACKING.fullmatch(_name(part).lower())]
    return f"?{_escaped('&'.join(sorted(kept, key=_name)))}" if kept else ""


def _name(parameter: str) -> str:
    name = parameter.partition("=")[0]
    return unquote(name) if "%" in name else name


def _escaped(text: str) -> str:
    """Percent-encoded where it must be and nowhere else."""
    if "%" in text:
        text = _ESCAPE.sub(_canonical_escape, text)
    return quote(text, safe=_LEFT_AS_THEY_ARE, errors="replace")


def _canonical_escape(escape: re.Match[str]) -> str:
    character = chr(int(escape[0][1:], 16))
    return character if character in _UNRESERVED else escape[0].upper()
