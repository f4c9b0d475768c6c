"""fastText models from disk, checked before the library sees them.

The library itself hangs, crashes or answers nonsense on a file that is cut short, so the file's structure is walked
first and its length compared with what it announces.
"""

import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from tilth.errors import ModelError

if TYPE_CHECKING:
    import fasttext

MAGIC = 793712314
MAX_VERSION = 12
_HEADER = struct.Struct("<2i12id")  # magic, version; twelve whole numbers and one real of training arguments
_DICTIONARY = struct.Struct("<3i2q")  # entries, words, labels; tokens, pruned entries (-1: not pruned)
_ENTRY_TAIL = 9  # count (8 bytes) and kind (1), after the entry's name and its NUL
_SUPERVISED = 3


def load_fasttext(path: str | Path) -> "fasttext.FastText._FastText":
    """A supervised fastText model (.bin or .ftz). Raises ModelError where the file is missing or is no such model."""
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            fault = _fault(data)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        reason = getattr(error, "strerror", None) or "the file is empty"
        raise ModelError(f"fastText model {path}: {reason}; name a .bin or .ftz file") from error
    if fault:
        raise ModelError(f"fastText model {path}: {fault}; name a .bin or .ftz file, whole")

    import fasttext

    try:
        return fasttext.load_model(str(path))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise ModelError(f"fastText model {path}: {error}") from error


def _fault(data: mmap.mmap) -> str | None:
    """What is wrong with the model file, or None."""
    if len(data) < _HEADER.size + _DICTIONARY.size or struct.unpack_from("<i", data)[0] != MAGIC:
        return "this is no fastText model"
    _, version, *arguments = _HEADER.unpack_from(data)
    if not 11 <= version <= MAX_VERSION:
        return f"version {version} of the format, 11 and {MAX_VERSION} are known"
    if arguments[7] != _SUPERVISED:
        return "not a classifier but word vectors"
    try:
        end = _length(data)
    except (struct.error, ValueError):
        return "the file is cut short or damaged"
    return None if end == len(data) else "the file is cut short or damaged"


def _length(data: mmap.mmap) -> int:
    """The length that the model should have, by walking its parts (fastText's own order of writing them)."""
    at = _HEADER.size
    entries, _, _, _, pruned = _DICTIONARY.unpack_from(data, at)
    at += _DICTIONARY.size
    for _ in range(entries):
        nul = data.find(b"\0", at)
        if nul < 0:
            raise ValueError("an entry without an end")
        at = nul + 1 + _ENTRY_TAIL
    at += 8 * max(pruned, 0)
    quantized = bool(data[at : at + 1] == b"\x01")
    at = _matrix_end(data, at + 1, quantized)
    quantized_output = bool(data[at : at + 1] == b"\x01")
    return _matrix_end(data, at + 1, quantized and quantized_output)


def _matrix_end(data: mmap.mmap, at: int, quantized: bool) -> int:
    if not quantized:
        rows, columns = struct.unpack_from("<2q", data, at)
        return at + 16 + 4 * rows * columns
    with_norms, rows, _, codes = struct.unpack_from("<?2qi", data, at)
    at = _quantizer_end(data, at + 21 + codes)
    return _quantizer_end(data, at + rows) if with_norms else at


def _quantizer_end(data: mmap.mmap, at: int) -> int:
    dimensions, *_ = struct.unpack_from("<4i", data, at)
    return at + 16 + 4 * 256 * dimensions
