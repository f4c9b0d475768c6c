"""Readers: WARC, WET, loose HTML, JSONL, Parquet and plain text, from bytes to pages.

`list_units` (or `plan`, which also tells what was passed over) cuts the input into units of work; `read_unit` reads
one. A page's body is decoded no further than its transport: `html` tells what it is, `charset` turns it into text.
"""

from .options import ReadOptions
from .page import Failure, Page
from .plan import Plan, list_units, plan
from .reader import read_unit
from .unit import InputFile, InputUnit

__all__ = ["Failure", "InputFile", "InputUnit", "Page", "Plan", "ReadOptions", "list_units", "plan", "read_unit"]
