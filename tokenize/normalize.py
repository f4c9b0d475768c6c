"""What is done to a text before it is cut into words; `spec` says the same to the tokenizers library."""

import unicodedata
from collections.abc import Callable
from typing import Any, Literal

from .split import METASPACE

Form = Literal["none", "nfc", "nfkc", "bert", "bert-cased"]


class Normalizer:
    """Unicode normalisation, or BERT's cleaning; with `metaspace` also SentencePiece's way to write spaces, which puts
    one before the text unless there is no `prefix`."""

    def __init__(self, form: Form, metaspace: bool, prefix: bool = True):
        self.form: Form = form
        self.prefix = prefix
        self._metaspace = metaspace
        self._library: Callable[[str], str] | None = None

    def __call__(self, text: str) -> str:
        """The text as words are taken from it."""
        if not self._is_clean(text):
            text = self._cleaned(text)
        if not self._metaspace or not text:
            return text
        return (METASPACE if self.prefix else "") + text.replace(" ", METASPACE)

    def _is_clean(self, text: str) -> bool:
        """Whether normalising would change nothing, which Python tells fast."""
        if self.form == "nfc" or self.form == "nfkc":
            return unicodedata.is_normalized("NFC" if self.form == "nfc" else "NFKC", text)
        return self.form == "none"

    def _cleaned(self, text: str) -> str:
        """By the library that the tokenizer will run in: its Unicode may be older than Python's."""
        if self._library is None:
            from tokenizers import normalizers

            made = {"nfc": normalizers.NFC, "nfkc": normalizers.NFKC}.get(self.form)
            self._library = (
                made() if made else normalizers.BertNormalizer(lowercase=self.form == "bert")
            ).normalize_str
        return self._library(text)

    def spec(self) -> dict[str, Any] | None:
        """The `normalizer` of a tokenizer.json."""
        steps: list[dict[str, Any]] = []
        if self.form in ("nfc", "nfkc"):
            steps.append({"type": self.form.upper()})
        elif self.form != "none":
            steps.append(
                {
                    "type": "BertNormalizer",
                    "clean_text": True,
                    "handle_chinese_chars": True,
                    "strip_accents": None,
                    "lowercase": self.form == "bert",
                }
            )
        if self._metaspace:
            if self.prefix:
                steps.append({"type": "Prepend", "prepend": METASPACE})
            steps.append({"type": "Replace", "pattern": {"String": " "}, "content": METASPACE})
        if len(steps) <= 1:
            return steps[0] if steps else None
        return {"type": "Sequence", "normalizers": steps}
