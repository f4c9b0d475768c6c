"""The language label: right on real sentences, total on any text, and told apart from files that are no model."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.curate.label.fasttext_model import load_fasttext
from tilth.curate.label.language import Language, LanguageIdentifier, LanguageOptions, find_model, sample
from tilth.errors import ModelError

identify = LanguageIdentifier(LanguageOptions())


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("en", "The ferry leaves the harbour at seven and comes back before it is dark."),
        ("de", "Die Fähre verlässt den Hafen um sieben und kommt vor der Dunkelheit zurück."),
        ("fr", "Le bateau quitte le port à sept heures et revient avant la tombée de la nuit."),
        ("zh", "渡轮七点离开港口，天黑之前回来。\n今天的风很大。"),
        ("ja", "フェリーは七時に港を出て、暗くなる前に戻ってきます。"),
        ("ru", "Паром уходит из гавани в семь и возвращается до темноты."),
        ("ar", "تغادر العبارة الميناء في السابعة وتعود قبل حلول الظلام."),
    ],
)
def test_plain_sentences_are_identified(code, text):
    language = identify(text)
    assert language.code == code
    assert 0.5 < language.score <= 1
    assert language.second_score <= language.score
    assert language.second not in ("", code)


@pytest.mark.parametrize("text", ["", "  \n\t", "123 456", "!?…", "\0", "☺☺☺"])
def test_a_text_without_letters_has_no_language(text):
    assert identify(text) == Language("und", 0.0, "und", 0.0)


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_has_a_language_and_scores_between_0_and_1(text):
    language = identify(text)
    assert language.code
    assert 0 <= language.second_score <= language.score <= 1


def test_of_a_long_text_a_bounded_sample_from_all_its_parts_is_read():
    text = "".join(f"{number:06d}" for number in range(10_000))
    piece = sample(text, 1000)
    assert len(piece) <= 1000 + 7
    assert piece.startswith(text[:100])
    assert piece.endswith(text[-100:])
    assert sample("short", 1000) == "short"


def test_the_model_is_taken_from_the_recipe_then_from_the_folder_of_models(tmp_path, monkeypatch):
    assert find_model("/elsewhere/lid.bin") == Path("/elsewhere/lid.bin")
    monkeypatch.setenv("TILTH_MODELS", str(tmp_path))
    assert find_model().parent != tmp_path
    (tmp_path / "lid.176.ftz").write_bytes(find_model().read_bytes())
    assert find_model() == tmp_path / "lid.176.ftz"


def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path):
    whole = find_model().read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"hello",
        "cut": whole[: len(whole) // 2],
        "cut at the end": whole[:-1],
        "with a tail": whole + b"x",
        "garbage after the magic": whole[:8] + bytes(range(256)) * 40,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=name) as error:
            load_fasttext(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="No such file"):
        LanguageIdentifier(LanguageOptions(model=str(tmp_path / "nowhere.bin")))
    with pytest.raises(ModelError):
        load_fasttext(tmp_path)


def test_trained_models_load_plain_and_quantized(tmp_path):
    import fasttext

    lines = [
        f"__label__{'odd' if n % 2 else 'even'} " + " ".join(f"w{n * k % 997}" for k in range(20)) for n in range(600)
    ]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    model = fasttext.train_supervised(
        str(tmp_path / "train.txt"), dim=4, minn=2, maxn=3, bucket=1000, verbose=0, thread=1
    )
    model.save_model(str(tmp_path / "plain.bin"))
    model.quantize(str(tmp_path / "train.txt"), qnorm=True, cutoff=500)
    model.save_model(str(tmp_path / "small.ftz"))
    assert sorted(load_fasttext(tmp_path / "plain.bin").get_labels()) == ["__label__even", "__label__odd"]
    assert load_fasttext(tmp_path / "small.ftz").predict("w1 w2")[0]


@pytest.mark.realdata
def test_real_sentences_of_a_dozen_languages_are_identified(data):
    for code in ["ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "pt", "ru", "tr", "vi", "zh"]:
        with gzip.open(data / "langid" / "lingua" / code / "sentences.txt.gz", "rt", encoding="utf-8") as file:
            sentences = [line for line in file.read().split("\n") if line]
        right = sum(identify(sentence).code == code for sentence in sentences)
        assert right / len(sentences) > 0.94, code
