"""Text labels: values worked out by hand, a plain oracle for the vectorised ones, and totality on any text."""

import math
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.curate.label.fineweb import FineWebOptions, fineweb
from tilth.curate.label.gopher import VARIANTS, GopherOptions, gopher, words_of
from tilth.curate.label.length import length
from tilth.curate.label.lines import EDIT_BITS, EDITS, FLAGS, SCRIPT_AWARE, Lines, LinesOptions, lines
from tilth.curate.label.noise import noise
from tilth.curate.label.repetition import repetition
from tilth.curate.segment import segment
from tilth.document import struct_of

ANY_TEXT = st.one_of(
    st.sampled_from(["", " ", "\n", "\n\n\n", "...", "。", "#", "one", "\0", "\ud800", "{", "👍", "\u200b", "12345"]),
    st.text(st.characters(codec=None), max_size=150),
    st.text("ab \n#…-•.'中文かé1{[]", max_size=150),
)
REPETITIVE = st.lists(st.sampled_from(["a", "bb", "c", "d.", "e,", "\n", "\n\n", "中", "国"]), max_size=80).map(
    " ".join
)


def quality(text, variant="datatrove", language="en"):
    return gopher(segment(text), GopherOptions(variant=variant), language)


def repeats(text, variant="datatrove"):
    return repetition(segment(text), GopherOptions(variant=variant))


# Gopher, quality


def test_gopher_quality_by_hand():
    measured = quality("• The cat sat on #1 of the mats...\n- that was 2 much\nplain")
    assert measured.words == 13  # • the bullet is punctuation, as are # and ...; 1 and 2 are words
    assert measured.mean_word_length == pytest.approx(38 / 13)
    assert measured.hash_ratio == pytest.approx(1 / 17)
    assert measured.ellipsis_ratio == pytest.approx(1 / 17)
    assert measured.bullet_lines == pytest.approx(2 / 3)
    assert measured.ellipsis_lines == pytest.approx(1 / 3)
    assert measured.alphabetic_words == pytest.approx(11 / 17)
    assert measured.stop_words == 3  # the, of, that; a capital The is another word
    assert measured.stop_word_occurrences == 3
    assert measured.longest_word == 7


def test_stop_words_are_those_of_the_language_then_of_the_script_then_english():
    text = "的 是 在 和 有 the of"
    assert quality(text, language="zh").stop_words == 5
    assert quality(text, language="xx").stop_words == 5  # Hani
    assert quality("the of et le la", language="xx").stop_words == 2
    assert quality("the of et le la", language="fr").stop_words == 3


def test_a_recipe_can_bring_its_own_stop_words():
    options = GopherOptions(stop_words={"en": ["cat", "dog"]})
    assert gopher(segment("the cat and the dog"), options, "en").stop_words == 2


def test_shipped_stop_words_are_single_tokens_of_their_language():
    from tilth.curate.label.gopher import _shipped_stop_words

    for language, words in _shipped_stop_words().items():
        assert len(words) >= 7, language
        assert all(isinstance(word, str) for word in words)
        for word in words if language not in ("km", "lo", "my") else []:
            assert segment(word).tokens.strings == [word] or language in ("th", "zh", "ja"), (language, word)


def test_chinese_prose_is_measured_by_its_own_words():
    text = "我们昨天一起去了城里的图书馆，借了三本关于历史的书。晚上大家在家里读书，也谈了很多有意思的事情。" * 3
    measured = quality(text, language="zh")
    assert 50 < measured.words < len(text)
    assert 1.2 <= measured.mean_word_length <= 2.5
    assert measured.stop_words >= 3
    assert measured.alphabetic_words > 0.6


def test_boilerplate_and_unfinished_lines():
    measured = quality("We use cookies here.\n\nA text\n\nends well.\n\nSee our Privacy Policy")
    assert measured.boilerplate_paragraphs == pytest.approx(2 / 4)
    assert measured.unfinished_lines == pytest.approx(2 / 4)
    assert quality("Lorem ipsum dolor").boilerplate_paragraphs == 1.0


# Gopher, repetition: the plain version, as the systems' sources tell it


def plain_datatrove(text):
    words = segment(text).tokens.strings
    size = max(len(text), 1)
    shares = []
    for n in (2, 3, 4):
        grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        if not grams:
            shares.append(0.0)
            continue
        gram, count = Counter(grams).most_common(1)[0]
        shares.append(min(len(gram) * count / size, 1.0))
    for n in range(5, 11):
        seen, found, index = set(), 0, 0
        while index <= len(words) - n:
            gram = tuple(words[index : index + n])
            if gram in seen:
                found += sum(map(len, gram))
                index += n
            else:
                seen.add(gram)
                index += 1
        shares.append(min(found / size, 1.0))
    return shares


def plain_words(text, variant):
    """dolma, DCLM, RedPajama: shares of the words' characters."""
    words = words_of(segment(text), VARIANTS[variant].ngram_words).strings
    size = max(sum(map(len, words)), 1)
    shares = []
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        if n < 5:
            gram, count = counts.most_common(1)[0] if grams else ((), 0)
            if variant == "dclm" and grams:
                gram = max((g for g in grams if counts[g] == count), key=lambda g: sum(map(len, g)))
            chars = sum(map(len, gram)) * count
            shares.append(0.0 if count == 1 and variant != "dolma" else min(chars / size, 1.0))
        elif variant == "dolma":
            every = sum(sum(map(len, gram)) for gram in grams)
            again = sum(sum(map(len, gram)) for gram in grams if counts[gram] > 1)
            shares.append(again / max(every, 1))
        else:
            inside = {i + k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(n)}
            shares.append(sum(len(words[i]) for i in inside) / size)
    return shares


def plain_nemo(text):
    words, size = text.split(), max(len(text), 1)
    shares = []
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if not grams:
            shares.append(1.0)
            continue
        if n < 5:
            top = " ".join(Counter(grams).most_common(1)[0][0])
            shares.append((len(text) - len(text.replace(top, ""))) / size)
            continue
        counts, found, overlap = Counter(), 0, 0
        for gram in grams:
            counts[gram] += 1
            if counts[gram] > 1:
                found += sum(map(len, gram[overlap:])) + min(n - overlap, n - 1)
                overlap = n
            overlap = max(overlap - 1, 0)
        shares.append(min(found / size, 1.0))
    return shares


@settings(max_examples=200)
@given(st.one_of(REPETITIVE, ANY_TEXT))
def test_ngram_shares_are_those_of_the_plain_version(text):
    assert list(repeats(text)[4:]) == pytest.approx(plain_datatrove(text))
    for variant in ("dolma", "dclm", "redpajama"):
        assert list(repeats(text, variant)[4:]) == pytest.approx(plain_words(text, variant)), variant
    assert list(repeats(text, "nemo")[4:]) == pytest.approx(plain_nemo(text))


def test_variants_differ_where_the_systems_do():
    text = "same line\nsame line\n\nother\n\nother"
    assert repeats(text).dup_line_frac == pytest.approx(2 / 4)  # later copies, blank lines are none
    assert repeats(text, "dclm").dup_line_frac == 1.0  # all copies
    assert repeats(text, "dolma").dup_line_frac == 1.0  # all copies, the blank lines among them
    assert repeats(text, "nemo").dup_line_frac == pytest.approx(2 / 4)
    assert repeats(text).dup_line_chars == pytest.approx(14 / len(text))
    assert repeats(text).dup_paragraph_frac == pytest.approx(1 / 3)
    two = "hello world"
    assert repeats(two).top_2_gram == 1.0  # an n-gram that occurs once counts
    assert repeats(two, "dolma").top_2_gram == 1.0
    assert repeats(two, "dclm").top_2_gram == repeats(two, "redpajama").top_2_gram == 0.0
    assert repeats(two).top_3_gram == 0.0
    assert repeats(two, "nemo").top_3_gram == 1.0  # too short a text is all repetition
    assert quality("a bb cccccccc", "dolma").mean_word_length == 2  # the median
    assert quality("a bb cccccccc", "nemo").mean_word_length == pytest.approx(11 / 3)
    assert quality("* item", "dolma").bullet_lines == 1
    assert quality("* item").bullet_lines == 0
    assert quality("more...", "dolma").ellipsis_lines == 0
    assert quality("Go (...)", "nemo").ellipsis_lines == 1


def test_a_trailing_newline_adds_an_empty_line_as_in_datatrove():
    assert repeats("\na\n").dup_line_frac == pytest.approx(1 / 3)  # "", a, ""


# FineWeb, lengths, noise


def test_fineweb_by_hand():
    long = "This line is long enough to be counted as one that is not short."
    measured = fineweb(segment(f"{long}\n{long}\n\nshort one\nनमस्ते।"), FineWebOptions())
    assert measured.line_punct_ratio == pytest.approx(3 / 4)
    assert measured.short_line_ratio == pytest.approx(2 / 4)
    assert measured.char_dup_ratio == pytest.approx(len(long) / (2 * len(long) + 9 + 7))
    assert measured.new_line_ratio == pytest.approx(4 / (2 * 15 + 2 + 2))
    assert fineweb(segment(" \n\t\n"), FineWebOptions()) == (0, 0, 0, 0)


def test_short_chinese_lines_are_shorter_than_short_english_ones():
    line = "这一行有超过十个汉字，不算太短。"
    assert fineweb(segment(line), FineWebOptions()).short_line_ratio == 0
    assert fineweb(segment(line), FineWebOptions(short_line_length_unspaced=30)).short_line_ratio == 1


def test_lengths_in_every_unit():
    assert length(segment("Hé, 世界。 Two!\n\nNext one.")) == (30, 23, 5, 3, 2, 0, 2)
    assert length(segment("")) == (0, 0, 0, 0, 0, 0, 0)


def test_noise_by_hand():
    measured = noise(segment("Ab 12 €+ www.a.org слово\u200b"))
    assert measured.symbols == pytest.approx(2 / 25)
    assert measured.digits == pytest.approx(2 / 25)
    assert measured.urls == pytest.approx(9 / 25)
    assert measured.white_space == pytest.approx(4 / 25)
    assert measured.invisible == pytest.approx(1 / 25)
    assert measured.other_scripts == pytest.approx(5 / 14)
    assert measured.upper_case == pytest.approx(1 / 14)
    assert noise(segment("漢字とかな")).other_scripts == 0


@pytest.mark.parametrize("codec", ["latin-1", "cp1252"])
@pytest.mark.parametrize("text", ["déjà vu à Zürich", "naïve café", "привет мир", "中文网页", "it’s “fine”"])
def test_utf8_read_as_latin_is_mojibake(text, codec):
    broken = text.encode().decode(codec, "replace")
    assert noise(segment(broken)).mojibake > 0.1
    assert noise(segment(text)).mojibake == 0


def test_gbk_read_as_latin_is_mojibake_and_european_words_are_not():
    assert noise(segment("中国人民".encode("gbk").decode("latin-1"))).mojibake == 1
    assert noise(segment("锟斤拷\ufffd")).mojibake == 1
    good = "«Über große Öfen» – ÄÖÜ, VOILÀ” l’été, « café », Ångström, señor, ÆØÅ, €5"
    assert noise(segment(good)).mojibake == 0


# Lines


TO_THE_LETTER = LinesOptions(variant="datatrove")


def rules_of(line, options=SCRIPT_AWARE):
    flags = lines(segment(line), options).flags[0]
    return {rule for rule, bit in FLAGS.items() if flags & bit}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A good line of text.", set()),
        ('He said "yes"', set()),
        ("And so on...", {"c4-no-terminal-punctuation"}),
        ("No end here", {"c4-no-terminal-punctuation"}),
        ("Too few.", {"c4-few-words"}),
        ("One.", {"c4-few-words", "refinedweb-one-word"}),
        ("Please enable JavaScript to go on.", {"c4-javascript"}),
        ("This site uses cookies, you know.", {"c4-policy"}),
        ("This is lorem Ipsum for you.", {"c4-lorem-ipsum"}),
        ("function f() { return; } is code.", {"c4-curly-bracket"}),
        ("It is so [1] they say [citation needed].", {"c4-citation"}),
        ("It is so they say.[12]", {"c4-citation"}),
        ("x" * 1001 + " is a long word.", {"c4-long-word"}),
        ("ALL CAPITALS IN HERE.", {"refinedweb-uppercase"}),
        ("12345", {"refinedweb-digits", "refinedweb-one-word", "c4-few-words", "c4-no-terminal-punctuation"}),
        ("* 1.2K Likes *", {"refinedweb-counter", "c4-no-terminal-punctuation"}),
        ("3 Followers.", {"refinedweb-counter", "c4-few-words"}),
        ("Sign-in to see all of this.", {"refinedweb-sign-in"}),
        ("You have 3 items in cart now.", {"refinedweb-items-in-cart"}),
        ("The story goes on Read more...", {"refinedweb-read-more", "c4-no-terminal-punctuation"}),
        ("The story goes on Read morexyz.", set()),
        ("one two three four five six seven eight nine ten items in cart.", set()),
        ("今天的天气很好，我们去公园散步。", set()),
        ("他说：“我们去公园散步。”", set()),
        ("今天的天气很好，我们去公园散步", {"c4-no-terminal-punctuation"}),
        ("你好。", {"c4-few-words", "refinedweb-one-word"}),
        ("यह एक वाक्य है।", set()),
        ("", set()),
        ("   ", set()),
    ],
)
def test_each_line_rule_on_a_line_of_its_own(line, expected):
    assert rules_of(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A good line of text.", set()),
        ("This ends with its own mark。", {"c4-no-terminal-punctuation"}),
        ("यह एक वाक्य है।", {"c4-no-terminal-punctuation"}),
        ("يذهب الولد إلى المدرسة؟", {"c4-no-terminal-punctuation"}),
        ("今天的天气很好，我们去公园散步。", {"c4-no-terminal-punctuation", "c4-few-words", "refinedweb-one-word"}),
        ("我们 去 公园.", set()),
        ("字" * 1001, {"c4-long-word", "c4-no-terminal-punctuation", "c4-few-words", "refinedweb-one-word"}),
    ],
)
def test_to_the_letter_of_c4_words_are_between_spaces_and_five_marks_end_a_line_in_every_script(line, expected):
    assert rules_of(line, TO_THE_LETTER) == expected


def test_to_the_letter_of_c4_the_words_of_a_chinese_line_are_counted_by_its_spaces():
    document = segment("我们去公园散步。 read more...\nOne two.\n")
    assert lines(document).words == [6, 2, 0]
    to_the_letter = lines(document, TO_THE_LETTER)
    assert to_the_letter.words == [3, 2, 0]
    read_more = list(EDITS).index("refinedweb-read-more")
    assert to_the_letter.edited_words[0] == 2 << EDIT_BITS * read_more


def test_line_labels_are_aligned_with_the_lines():
    measured = lines(segment("One two. Three!\n\n我们去公园散步。\nRead more..."))
    assert measured.words == [3, 0, 4, 2]
    assert measured.sentences[:3] == [2, 0, 1]
    read_more = list(EDITS).index("refinedweb-read-more")
    assert measured.edited_words == [0, 0, 0, 2 << EDIT_BITS * read_more]


@pytest.mark.parametrize("variant", ["script-aware", "datatrove"])
@given(text=ANY_TEXT)
def test_line_labels_fit_their_columns(variant, text):
    measured = lines(segment(text), LinesOptions(variant=variant))
    assert {len(column) for column in measured} == {len(text.split("\n"))}
    for words, line in zip(measured.words, text.split("\n"), strict=True):
        assert (words == 0) == (not line.strip())
    pa.array([measured._asdict()], struct_of(Lines))


# All of them


@settings(max_examples=200)
@given(ANY_TEXT)
def test_every_measure_of_any_text_is_finite(text):
    document = segment(text)
    families = [length(document), noise(document), fineweb(document, FineWebOptions())]
    for variant in VARIANTS:
        options = GopherOptions(variant=variant)
        families += [gopher(document, options, "en"), repetition(document, options)]
    for family in families:
        for name, value in family._asdict().items():
            assert type(value) in (int, float), (name, type(value))
            assert math.isfinite(value), name
            assert value >= 0, name
            if isinstance(value, float) and name not in ("mean_word_length", "hash_ratio", "ellipsis_ratio"):
                assert value <= 1, name
        pa.array([family._asdict()], struct_of(type(family)))
