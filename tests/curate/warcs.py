"""Writes WARC files for the tests: records, and the ways in which they are stored."""

import gzip
from collections.abc import Sequence

import zstandard

STORAGES = ("plain", "gzip", "gzip-whole", "zstd", "zstd-dictionary", "zstd-whole")


def record(kind: str, url: str | None, body: bytes, content_type: str = "application/http; msgtype=response", **fields):
    """One record as WARC 1.1 writes it; `fields` override or add header fields (underscores stand for hyphens)."""
    header = {
        "WARC-Type": kind,
        "WARC-Target-URI": url,
        "WARC-Date": "2024-02-03T04:05:06Z",
        "WARC-Record-ID": "<urn:uuid:00000000-0000-4000-8000-000000000000>",
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
    } | {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{name}: {value}" for name, value in header.items() if value is not None]
    return ("\r\n".join(["WARC/1.1", *lines]) + "\r\n\r\n").encode() + body + b"\r\n\r\n"


def response(url: str, body: bytes, status: str = "200 OK", **fields: str) -> bytes:
    """A response record; `fields` are HTTP header fields."""
    header = {"Content-Type": "text/html; charset=utf-8"} | {k.replace("_", "-"): v for k, v in fields.items()}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in header.items())]
    return record("response", url, ("\r\n".join(lines) + "\r\n\r\n").encode() + body)


def page(number: int, size: int = 300) -> bytes:
    """The HTML of a page that no other number has."""
    words = " ".join(f"word{number * 7919 % 1000 + at * 31 % 997}" for at in range(size // 8))
    return f"<!DOCTYPE html><html><body><h1>Page {number}</h1><p>{words}</p></body></html>".encode()


def chunked(body: bytes, size: int = 100) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def store(records: Sequence[bytes], storage: str) -> tuple[bytes, list[int]]:
    """The file, and for storages that keep records apart where each one begins in it; the last one's end comes last."""
    head = b""
    if storage == "plain":
        parts = list(records)
    elif storage == "gzip":
        parts = [gzip.compress(item, mtime=0) for item in records]
    elif storage == "zstd":
        parts = [zstandard.ZstdCompressor(write_checksum=True).compress(item) for item in records]
    elif storage == "zstd-dictionary":
        dictionary = zstandard.train_dictionary(4096, [page(number, 2000) for number in range(200)])
        head = b"\x5d\x2a\x4d\x18" + len(dictionary.as_bytes()).to_bytes(4, "little") + dictionary.as_bytes()
        compressor = zstandard.ZstdCompressor(dict_data=dictionary, write_checksum=True)
        parts = [compressor.compress(item) for item in records]
    elif storage == "gzip-whole":
        return gzip.compress(b"".join(records), mtime=0), []
    else:
        return zstandard.ZstdCompressor(write_checksum=True).compress(b"".join(records)), []
    places = [len(head)]
    for part in parts:
        places.append(places[-1] + len(part))
    return head + b"".join(parts), places


def suffix(storage: str) -> str:
    return ".warc" + {"plain": "", "gzip": ".gz", "gzip-whole": ".gz"}.get(storage, ".zst")
