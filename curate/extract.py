"""A page's HTML becomes its text, with the title, author and date that it states.

`extract_page` is the extraction itself, a pure function of one page. `Extractor` runs it in a process of its own
(`extract_child`), so that a page that never ends, eats all memory or crashes the parser costs that page and no other.
"""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
import unicodedata
from contextlib import suppress
from copy import copy
from datetime import date
from html import unescape
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field

from tilth.errors import TilthError

if TYPE_CHECKING:
    from lxml.html import HtmlElement
    from trafilatura.settings import Document

MIB = 1 << 20


class ExtractOptions(BaseModel):
    """How pages become text, and what one page may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extractor: Literal["trafilatura", "resiliparse", "plain"] = Field(
        default="trafilatura", description="the library that finds the text; plain: the input is text already"
    )
    focus: Literal["precision", "balanced", "recall"] = Field(
        default="precision",
        description="when unsure, take less or more text "
        "(resiliparse: recall takes the whole page, the others its main content)",
    )
    metadata: Literal["none", "head", "full"] = Field(
        default="head",
        description="head: what the page states itself (meta tags, OpenGraph, JSON-LD, headings); "
        "full: also hunt through the page's text, which costs more than half of the extraction again",
    )
    timeout: float = Field(default=10.0, gt=0, description="wall-clock seconds a page may take")
    memory: int = Field(
        default=2048 * MIB, ge=256 * MIB, description="bytes of address space that the extracting process may use"
    )
    max_bytes: int = Field(default=10 * MIB, gt=0, description="larger pages (bytes of HTML in UTF-8) are not tried")


class Extracted(NamedTuple):
    """The text of a page and what it says of itself; valid Unicode without NUL or lone surrogates, in NFC."""

    text: str
    title: str | None = None
    author: str | None = None
    date: str | None = None  # ISO day
    metadata: dict[str, str] = {}  # noqa: RUF012  # sitename, description, categories, tags, license, language, pagetype, url


class ExtractFailure(NamedTuple):
    """Why a page gave no text."""

    reason: Literal["timeout", "memory", "crash", "too_large", "empty", "not_parsed", "error"]
    detail: str = ""


# ---------------------------------------------------------------------- the extraction, a pure function

# trafilatura needs 25 to 45 microseconds an element: more than these end in a time-out on some machines and not on
# others. The largest of 859 real pages has 9,888.
MAX_ELEMENTS = 250_000
# HTML's own limit on colspan; what lies above it, or adds up to more than any table has, is an attack or a slip.
MAX_SPAN = 1000
MAX_SPANS = 20_000
MAX_FIELD = 1000  # characters of one metadata field
# Dates later than this are no dates. Not today: the same page must give the same result tomorrow.
LATEST = date(2039, 12, 31)

_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
_JSON_LD = '@type="application/ld+json" or @type="application/settings+json"'
_STATED_DATES = (
    ".//head/meta | .//head/link[@rel='canonical'] | .//body//meta[@itemprop] | "
    f".//script[{_JSON_LD}] | .//time | .//abbr[@title]"
)


def extract_page(
    html: str, url: str | None, options: ExtractOptions, crawled: date | None = None
) -> Extracted | ExtractFailure:
    """The text of one page: what runs in the child process, without its limits on time, memory and size.

    Total on any string and a pure function of its arguments; `crawled` bounds the dates that are believed.
    """
    try:
        html = _sound(html)
        if options.extractor == "plain":
            return _result(html.replace("\r\n", "\n").replace("\r", "\n").strip(), {})
        if options.extractor == "resiliparse" and options.metadata == "none":
            return _result(_resiliparse(html, options), {})
        return _extract_html(html, url, options, crawled or LATEST)
    except MemoryError:
        return ExtractFailure("memory", f"more than {options.memory // MIB} MiB")
    except Exception as error:
        return ExtractFailure("error", f"{type(error).__name__}: {error}"[:200])


def _extract_html(html: str, url: str | None, options: ExtractOptions, latest: date) -> Extracted | ExtractFailure:
    import trafilatura
    from trafilatura.utils import load_html

    tree = load_html(html)
    if tree is None:
        return ExtractFailure("not_parsed", "no HTML in it")
    elements = int(tree.xpath("count(//*)"))
    if elements > MAX_ELEMENTS:
        return ExtractFailure("too_large", f"{elements} elements, limit {MAX_ELEMENTS}")
    _disarm_tables(tree)
    fields: dict[str, str] = {}
    if options.metadata == "head":
        fields = _stated_metadata(tree, url, latest)
    elif options.metadata == "full":
        when = {"original_date": True, "extensive_search": True, "max_date": latest.isoformat()}
        fields = _fields(trafilatura.extract_metadata(tree, default_url=url, date_config=when), tree)
    if options.extractor == "resiliparse":
        return _result(_resiliparse(html, options), fields)
    text = trafilatura.extract(
        tree,
        favor_precision=options.focus == "precision",
        favor_recall=options.focus == "recall",
        include_comments=False,
        deduplicate=False,  # it compares with pages seen before
    )
    return _result(text or "", fields)


def _resiliparse(html: str, options: ExtractOptions) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, main_content=options.focus != "recall", alt_texts=False, comments=False)


def _result(text: str, fields: dict[str, str]) -> Extracted | ExtractFailure:
    text = unicodedata.normalize("NFC", _sound(text))
    if not text:
        return ExtractFailure("empty", "no text was found")
    title, author, day = (fields.pop(name, None) for name in ("title", "author", "date"))
    return Extracted(text, title, author, day, fields)


def _disarm_tables(tree: "HtmlElement") -> None:
    """Takes away spans that would make a table of nothing but empty cells: each is a cell of the text."""
    total = 0
    for cell in tree.iter("td", "th"):
        for name in ("colspan", "rowspan"):
            span = cell.get(name)
            if span and len(span) > 1:
                value = int(span) if span.isascii() and span.isdigit() and len(span) < 5 else MAX_SPAN + 1
                total += value
                if value > MAX_SPAN or total > MAX_SPANS:
                    del cell.attrib[name]


def _stated_metadata(tree: "HtmlElement", url: str | None, latest: date) -> dict[str, str]:
    """What the page states of itself; trafilatura's search through the body of pages that state nothing is left out."""
    from trafilatura import metadata as trafilatura_metadata

    document = trafilatura_metadata.examine_meta(tree)
    with suppress(Exception):  # JSON-LD of any shape: trafilatura guards itself the same way
        trafilatura_metadata.extract_meta_json(tree, document)
    document.title = document.title or trafilatura_metadata.extract_title(tree)
    document.date = _stated_date(tree, url, latest)
    for link in tree.xpath('.//*[(self::a or self::link) and @rel="license" and @href]'):
        document.license = trafilatura_metadata.parse_license_element(link) or link.get("href")
        break
    return _fields(document, tree)


def _stated_date(tree: "HtmlElement", url: str | None, latest: date) -> str | None:
    """The day of publication by URL, meta tags, JSON-LD, `time` and `abbr` (htmldate, given only these elements)."""
    from htmldate import find_date
    from lxml.html import Element

    page, head, body = Element("html"), Element("head"), Element("body")
    page.extend((head, body))
    for element in tree.xpath(_STATED_DATES):
        stated = copy(element)
        stated.tail = None
        (head if element.tag in ("meta", "link") else body).append(stated)
    return find_date(page, extensive_search=False, original_date=True, url=url, max_date=latest.isoformat())


def _fields(document: "Document", tree: "HtmlElement") -> dict[str, str]:
    """The metadata that has a value, as tidy strings; JSON-LD may have put anything into the document's fields."""
    found: dict[str, object] = {
        name: getattr(document, name)
        for name in (
            "title",
            "author",
            "date",
            "sitename",
            "description",
            "categories",
            "tags",
            "license",
            "pagetype",
            "url",
        )
    }
    found["language"] = tree.get("lang") or tree.get("{http://www.w3.org/XML/1998/namespace}lang")
    fields = {}
    for name, value in found.items():
        if isinstance(value, list):
            value = "; ".join(dict.fromkeys(item for item in value if isinstance(item, str)))
        if isinstance(value, str) and (tidy := _tidy(value)):
            fields[name] = tidy
    return fields


def _sound(text: str) -> str:
    """The text as valid UTF-8 can hold it: U+FFFD in place of NUL and of lone surrogates."""
    # tilth.document has the like, but the child does not need Arrow with it.
    try:
        text.encode()
    except UnicodeEncodeError:
        text = _SURROGATES.sub("\ufffd", text)
    return text.replace("\0", "\ufffd")


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _sound(text).encode()


def _tidy(value: str) -> str:
    value = _CONTROLS.sub("", " ".join(unescape(_sound(value)).split()))
    return unicodedata.normalize("NFC", value[:MAX_FIELD])


# ------------------------------------------------------------------------------- the guard around it

# Requests: bytes of URL, bytes of HTML, day of the crawl (ordinal, 0 for none); then URL and HTML.
REQUEST = struct.Struct("!III")
# Replies: whether the process ends after this one, bytes of JSON; then the JSON: kind of result, and its fields.
REPLY = struct.Struct("!?I")
READY = b"R"
START_SECONDS = 120.0  # the imports take 0.7 s; a machine that thrashes may need longer


class _ChildEnded(Exception):
    """The process is gone."""


class _Overdue(Exception):
    """The process has not answered in time. Not TimeoutError, which whoever limits the caller's time may raise."""


class _Child:
    """One extracting process and the pipes to it."""

    def __init__(self, options: ExtractOptions) -> None:
        # The parent's module path, so that the child finds the same tilth in a Ray worker too; fixed hashing and time
        # zone, so that a result depends on the page alone. A session of its own keeps Ctrl-C from it.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONHASHSEED": "0",
            "TZ": "UTC",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tilth.curate.extract_child", options.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=environment,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._replies = self.process.stdin.fileno(), self.process.stdout.fileno()
        for pipe in (self._requests, self._replies):
            os.set_blocking(pipe, False)
            _widen(pipe)
        self.pages = 0  # given to this process so far
        self._ready = False

    def ask(self, request: bytes, seconds: float) -> tuple[bool, bytes]:
        """One request and its reply. Raises _Overdue, or _ChildEnded when the process is gone."""
        if not self._ready:
            self._wait_until_ready()
        self.pages += 1
        deadline = time.monotonic() + seconds
        unsent, reply, needed = memoryview(request), bytearray(), REPLY.size
        while len(reply) < needed:
            received, sent = self._transfer(unsent, deadline)
            unsent = unsent[sent:]
            reply += received
            if needed == REPLY.size and len(reply) >= needed:
                needed += REPLY.unpack_from(reply)[1]
        return REPLY.unpack_from(reply)[0], bytes(reply[REPLY.size :])

    def _wait_until_ready(self) -> None:
        try:
            self._transfer(memoryview(b""), time.monotonic() + START_SECONDS)
        except (_Overdue, _ChildEnded) as error:
            raise TilthError(
                f"the extraction process did not start ({_ending(self.end(patience=1.0))}): "
                "see its message above, or give it more memory (extract.memory)"
            ) from error
        self._ready = True

    def _transfer(self, unsent: memoryview, deadline: float) -> tuple[bytes, int]:
        """Waits until something can be read or written, and does it; what was read, and how much was written."""
        poll = select.poll()
        poll.register(self._replies, select.POLLIN)
        if unsent:
            poll.register(self._requests, select.POLLOUT)
        events = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
        if not events:
            raise _Overdue
        received, sent = b"", 0
        try:
            if self._replies in events and not (received := os.read(self._replies, MIB)):
                raise _ChildEnded
            if self._requests in events:
                sent = os.write(self._requests, unsent)
        except BrokenPipeError:
            raise _ChildEnded from None
        return received, sent

    def end(self, patience: float = 0.0) -> int:
        """Kills the process if it has not ended by itself after `patience` seconds, and reaps it; its exit code."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Extractor:
    """Extracts pages one at a time in a reused child process; a context manager.

    Whatever a page does, the call returns within the time limit, and the next page meets a healthy process: after a
    time-out, a crash or an exhausted memory the child is replaced. A page that crashed a child which had seen others
    before is tried once more in a fresh one, so that its result is its own. Not for use by several threads at a time.
    """

    def __init__(self, options: ExtractOptions) -> None:
        self.options = options
        self._child: _Child | None = None
        if options.extractor != "plain":
            self._child = _Child(options)  # imports while the caller loads its models

    def __call__(self, html: str, url: str | None = None, crawled: date | None = None) -> Extracted | ExtractFailure:
        """The page's text, or why there is none. Raises TilthError if the process cannot be started at all."""
        page = _encoded(html)
        if len(page) > self.options.max_bytes:
            return ExtractFailure("too_large", f"{len(page)} bytes, limit {self.options.max_bytes}")
        if self.options.extractor == "plain":
            return extract_page(html, url, self.options, crawled)
        address = _encoded(url or "")
        request = REQUEST.pack(len(address), len(page), crawled.toordinal() if crawled else 0) + address + page
        result, first = self._attempt(request)
        if isinstance(result, ExtractFailure) and result.reason in ("crash", "memory") and not first:
            result, _ = self._attempt(request)
        return result

    def _attempt(self, request: bytes) -> tuple[Extracted | ExtractFailure, bool]:
        """The result, and whether the page was the first that its process saw."""
        child = self._child = self._child or _Child(self.options)
        first = child.pages == 0
        try:
            last, reply = child.ask(request, self.options.timeout)
        except _Overdue:
            self.close()
            return ExtractFailure("timeout", f"more than {self.options.timeout:g} s"), first
        except _ChildEnded:
            self._child = None
            return ExtractFailure("crash", _ending(child.end(patience=1.0))), first
        except BaseException:  # Ctrl-C or a unit's time limit in the middle of a page: the pipes hold half of it
            self.close()
            raise
        if last:
            self.close()
        reason, fields = orjson.loads(reply)
        return ExtractFailure(*fields) if reason else Extracted(*fields), first

    def close(self) -> None:
        """Ends the child process; the next call starts another."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _widen(pipe: int) -> None:
    """Makes room in a pipe for a whole page, so that the two processes take turns less often."""
    if sys.platform == "linux":
        with suppress(OSError):  # beyond this user's share of pipe buffers
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, MIB)
