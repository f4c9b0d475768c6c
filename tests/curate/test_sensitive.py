"""The sensitive-words label: whole words where words have spaces, any occurrence where they have none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.curate.label.sensitive import Sensitive, SensitiveMatcher, SensitiveOptions
from tilth.errors import ModelError


@pytest.fixture(scope="module")
def match(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    for name, terms in {"en": "Drat\nbother it\n", "zh": "坏话\nsm\n", "de": "mist\n", "LICENSE": "free\n"}.items():
        (folder / name).write_text(terms, encoding="utf-8")
    general = folder.parent / "general.txt"
    general.write_text("blast\n", encoding="utf-8")
    return SensitiveMatcher(SensitiveOptions(lists=(str(folder), str(general))))


def test_words_and_phrases_are_counted_whole_and_in_any_case(match):
    assert match("DRAT! Oh drat, bother  it. Dratted hydrat", "en") == Sensitive(3, 2, "en")
    assert match("bother-it/drat", "en") == Sensitive(2, 2, "en")


def test_unspaced_scripts_are_searched_inside_their_lines(match):
    assert match("他说了很多坏话。坏话！", "zh") == Sensitive(2, 1, "zh")
    assert match("sm", "zh") == Sensitive(0, 0, "")  # on the list, but allowed as C4 has it


def test_lists_by_language_apply_to_that_language_and_files_to_all(match):
    assert match("the morning mist", "en") == Sensitive(0, 0, "")
    assert match("so ein Mist", "de") == Sensitive(1, 1, "de")
    assert match("blast! drat!", "en") == Sensitive(2, 2, "general.txt")
    assert match("blast! drat!") == Sensitive(1, 1, "general.txt")


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_searched(match, text):
    found = match(text, "en")
    assert found.matches >= found.terms >= 0


def test_lists_that_are_none_are_refused(tmp_path):
    (tmp_path / "en").touch()
    (tmp_path / "other").mkdir()
    for source, message in [("en", "empty"), ("other", "neither"), ("missing", "neither")]:
        with pytest.raises(ModelError, match=message):
            SensitiveMatcher(SensitiveOptions(lists=(str(tmp_path / source),)))


@pytest.mark.realdata
def test_real_lists_of_all_languages_load_and_find_their_terms(data):
    folder = data / "lists" / "ldnoobw"
    match = SensitiveMatcher(SensitiveOptions(lists=(str(folder),)))
    for language in ("en", "zh", "ja", "hi", "ru", "th", "ko", "ar"):
        terms = [term for term in (folder / language).read_text("utf-8").splitlines() if term.strip()]
        found = sum(match(f"… {term}, …", language).matches > 0 for term in terms)
        assert found >= len(terms) - 3, language
