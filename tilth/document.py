"""The document: its id, its Arrow columns, and how a family of labels becomes one struct column."""

import hashlib
import typing

import pyarrow as pa

# What a document is before any label. Label families follow, one struct column each.
FIELDS: list[pa.Field] = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("url", pa.string()),
    pa.field("timestamp", pa.timestamp("us", tz="UTC")),
    pa.field("path", pa.string(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("charset", pa.string()),
    pa.field("title", pa.string()),
    pa.field("author", pa.string()),
    pa.field("date", pa.string()),
    pa.field("metadata", pa.map_(pa.string(), pa.string())),
    pa.field("text", pa.large_string(), nullable=False),
]

ARROW: dict[object, pa.DataType] = {
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    str: pa.string(),
    list[int]: pa.list_(pa.int64()),
}


def document_id(source: str, path: str, offset: int, url: str | None) -> str:
    """32 hex digits that depend only on where the document came from: the same in every run, on every machine."""
    origin = "\0".join((source, path, str(offset), url or ""))
    return hashlib.blake2b(origin.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def struct_of(measures: type) -> pa.StructType:
    """The Arrow struct of a NamedTuple of ints, floats, bools, strings and lists of ints; `X | None` may be null."""
    return pa.struct([pa.field(name, _arrow(hint)) for name, hint in typing.get_type_hints(measures).items()])


def _arrow(hint: object) -> pa.DataType:
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)] if hint not in ARROW else []
    return ARROW[kinds[0] if kinds else hint]


def sound_text(text: str) -> str:
    """`text` without what no file may hold: NULs go, lone surrogates become U+FFFD."""
    text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
