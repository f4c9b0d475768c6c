"""How the input is read: the recipe's section `read`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["warc", "wet", "html", "jsonl", "parquet", "text", "lines"]
MEBIBYTE = 2**20


class ReadOptions(BaseModel):
    """What the input is, how it is cut into units of work, and where rows keep what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["auto", "warc", "wet", "html", "jsonl", "parquet", "text", "lines"] = Field(
        default="auto",
        description="what the input files are; auto tells it by their names, then by their first bytes; plain text is "
        "a document a file (text), cut at line ends where longer than max_record_bytes, or a document a line (lines)",
    )
    unit_bytes: int = Field(
        default=64 * MEBIBYTE, gt=0, description="inputs larger than this are split, smaller pages grouped"
    )
    max_record_bytes: int = Field(
        default=20 * MEBIBYTE,
        gt=0,
        description="a larger record or body becomes a failure, and is never held in memory",
    )
    statuses: Literal["success", "all"] = Field(
        default="success", description="HTTP responses that are read: 2xx only, or all"
    )
    text_field: str | tuple[str, ...] = Field(
        default="text",
        description="JSONL and Parquet: the document's text; a dotted path may lead to it. Of several, such as "
        "[instruction, input, output], those that are there, a blank line between them",
    )
    html_field: str | None = Field(
        default=None, description="JSONL and Parquet: the page's HTML, read in place of the text"
    )
    url_field: str | None = Field(default="url", description="JSONL and Parquet: the address; rows may lack it")
    timestamp_field: str | None = Field(default=None, description="JSONL and Parquet: ISO 8601, or seconds since 1970")
    title_field: str | None = Field(default=None, description="JSONL and Parquet: the title")
    id_field: str | None = Field(default=None, description="JSONL and Parquet: the document's id, where it has one")
    label_field: str | None = Field(
        default=None, description="JSONL and Parquet: a label, such as the language, that documents are grouped by"
    )
