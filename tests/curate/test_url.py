"""The URL labels: one canonical form, blocklists that case and subdomains do not escape, words, a learned score."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.curate.label.canonical_url import parse_url
from tilth.curate.label.url import UrlLabeller, UrlOptions, url_words
from tilth.errors import ModelError

plain = UrlLabeller(UrlOptions())


def canonical(url: str) -> str:
    return plain(url).canonical


@pytest.fixture
def lists(tmp_path):
    """Blocklists as UT1 lays them out."""
    folder = tmp_path / "lists"
    for category in ("bank", "gambling", "adult"):
        (folder / category).mkdir(parents=True)
    (folder / "adult" / "domains").write_text("Naughty.example\r\nwww.rude.example\nbücher.example\n\n")
    (folder / "adult" / "urls").write_text("mixed.example/After-Dark/\nmixed.example/show.php?id=7\n")
    with gzip.open(folder / "gambling" / "domains.gz", "wt") as file:
        file.write("slots.example.co.uk\n10.1.2.3\nboth.example\n")
    (folder / "bank" / "domains").write_text("both.example\n")
    return folder


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://User:secret@WWW.Example.COM.:80/Path#part", "http://www.example.com/Path"),
        ("https://example.com:443", "https://example.com/"),
        ("https://example.com:8443/a", "https://example.com:8443/a"),
        ("http://example.com/?b=2&utm_source=x&a=1&fbclid=3&gclid=&_ga=1", "http://example.com/?a=1&b=2"),
        ("http://example.com/?utm_source=x", "http://example.com/"),
        ("http://example.com/?a=2&b=1&a=1", "http://example.com/?a=2&a=1&b=1"),
        ("http://example.com/?id=7&ref=9&source=web", "http://example.com/?id=7&ref=9&source=web"),
        ("http://example.com/%7euser/%c3%a9?q=%2f", "http://example.com/~user/%C3%A9?q=%2F"),
        ("http://example.com/é?q=é", "http://example.com/%C3%A9?q=%C3%A9"),
        ("http://example.com/a;jsessionid=12.3?x=1", "http://example.com/a?x=1"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://XN--bcher-kva.example/", "http://xn--bcher-kva.example/"),
        ("//example.com/a", "http://example.com/a"),
        ("example.com:8080/a", "http://example.com:8080/a"),
        ("http://[2001:DB8::1]:80/a", "http://[2001:db8::1]/a"),
        ("http://example.com:/a", "http://example.com/a"),
        ("http://example.com:99999/a", "http://example.com/a"),
    ],
)
def test_equal_pages_have_one_canonical_url(url, expected):
    assert canonical(url) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize(
    "url", [None, "", "  ", "http://", "http:///a", "http://[::1", "mailto:a@b.example", "javascript:x()", "two words"]
)
def test_what_names_no_host_has_empty_labels(url):
    assert plain(url) == ("", "", "", "", "", 0, 0, 0, None)


@given(st.one_of(st.text(st.characters(exclude_categories=())), st.from_regex(r"https?://[\w.:@\[\]%]*/[\w%?&=#/;.]*")))
def test_any_string_has_labels_and_its_canonical_url_is_stable(url):
    labels = plain(url)
    for value in labels[:5]:
        value.encode()  # no lone surrogates
    if address := parse_url(labels.canonical):
        assert parse_url(str(address)) == address


def test_domains_are_those_that_someone_registered():
    assert plain("https://news.bbc.co.uk/a").domain == "bbc.co.uk"
    assert plain("https://www.example.com.cn/a").domain == "example.com.cn"
    assert plain("http://10.0.0.1/a").domain == "10.0.0.1"
    assert plain("http://[::1]/").domain == "::1"
    assert plain("http://localhost:8000/").domain == "localhost"


def test_listed_domains_are_found_under_any_case_subdomain_and_spelling(lists):
    label = UrlLabeller(UrlOptions(lists=(str(lists),)))
    for url in (
        "http://naughty.example/",
        "HTTPS://WWW.NAUGHTY.EXAMPLE:443/x",
        "http://a.b.naughty.example./",
        "rude.example",
    ):
        assert label(url).domain_listed == "adult", url
    assert label("http://BÜCHER.example/").domain_listed == "adult"
    assert label("http://slots.example.co.uk/").domain_listed == "gambling"
    assert label("http://10.1.2.3:8080/").domain_listed == "gambling"
    for url in (
        "http://notnaughty.example/",
        "http://example.co.uk/",
        "http://naughty.example.org/",
        "http://other.example/",
    ):
        assert label(url).domain_listed == "", url


def test_listed_urls_are_found_with_what_lies_below_them(lists):
    label = UrlLabeller(UrlOptions(lists=(str(lists),)))
    for url in ("http://mixed.example/after-dark", "http://www.mixed.example/AFTER-DARK/x/y.html?z=1#top"):
        assert label(url).url_listed == "adult", url
    assert label("https://mixed.example/show.php?id=7&utm_medium=mail").url_listed == "adult"
    for url in ("http://mixed.example/", "http://mixed.example/after-darkness", "http://mixed.example/show.php?id=8"):
        assert label(url).url_listed == "", url


def test_categories_are_chosen_and_ordered_by_the_recipe(lists):
    def category(*names):
        return UrlLabeller(UrlOptions(lists=(str(lists),), categories=names))("http://both.example/").domain_listed

    assert (category(), category("gambling", "bank"), category("gambling"), category("adult")) == (
        "bank",
        "gambling",
        "gambling",
        "",
    )


def test_words_are_counted_by_kind_whatever_their_case(tmp_path):
    (tmp_path / "strict").write_text("# two words\nbig win\nfreestuff\n")
    (tmp_path / "hard").write_text("CONTRABAND\nunder counter\n")
    (tmp_path / "soft").write_text("luck\nchance\n")
    label = UrlLabeller(UrlOptions(**{f"{kind}_words": str(tmp_path / kind) for kind in ("strict", "hard", "soft")}))

    def counts(url):
        return label(url)[5:8]

    assert counts("http://x.example/Big-Win/free-Stuff.html") == (2, 0, 0)
    assert counts("http://x.example/%42igwinner") == (1, 0, 0)
    assert counts("http://x.example/Contraband_Under-COUNTER") == (0, 2, 0)
    assert counts("http://x.example/contrabands/undercounter") == (0, 0, 0)
    assert counts("http://x.example/luck/luck?q=Chance") == (0, 0, 2)


def test_the_shipped_words_leave_harmless_pages_alone():
    for url in (
        "https://www.essexshop.example/middlesex-video",
        "https://health.example/sex-education",
        "https://www.example.org/judi-dench",
        "https://docs.example.com/serial-port",
    ):
        labels = plain(url)
        assert (labels.strict_words, labels.hard_words) == (0, 0), url
        assert labels.soft_words < 2, url
    assert plain("http://Best-Online-Casino.example/").strict_words == 1
    assert plain("http://example.com/PORN/1").hard_words == 1
    assert plain("http://example.com/casino-bonus").soft_words == 2


def test_a_classifier_scores_urls(tmp_path):
    import fasttext

    lines = [f"__label__{'bad casino win' if n % 2 else 'good garden soil'} page{n}" for n in range(400)]
    (tmp_path / "train").write_text("\n".join(lines) + "\n")
    fasttext.train_supervised(str(tmp_path / "train"), dim=4, epoch=30, lr=1.0, verbose=0, thread=1).save_model(
        str(tmp_path / "model.bin")
    )
    label = UrlLabeller(UrlOptions(model=str(tmp_path / "model.bin")))
    bad, good = label("http://x.example/CASINO/win").score, label("http://x.example/garden/soil").score
    assert bad is not None
    assert good is not None
    assert 0 <= good < 0.5 < bad <= 1
    assert plain("http://x.example/casino").score is None
    assert url_words("https://a-b.example/C_d%20e") == ["a", "b", "example", "c", "d", "e"]
    with pytest.raises(ModelError, match="no label 'spam'"):
        UrlLabeller(UrlOptions(model=str(tmp_path / "model.bin"), model_label="spam"))


def test_lists_that_are_none_are_refused_in_one_line(tmp_path, lists):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "hollow" / "adult").mkdir(parents=True)
    (tmp_path / "hollow" / "adult" / "domains").touch()
    (tmp_path / "broken" / "adult").mkdir(parents=True)
    (tmp_path / "broken" / "adult" / "domains.gz").write_bytes(b"no gzip")
    (tmp_path / "words").touch()
    for options, message in [
        (UrlOptions(lists=(str(tmp_path / "missing"),)), "missing"),
        (UrlOptions(lists=(str(tmp_path / "nothing"),)), "nothing"),
        (UrlOptions(lists=(str(tmp_path / "hollow"),)), "empty"),
        (UrlOptions(lists=(str(tmp_path / "broken"),)), r"domains\.gz"),
        (UrlOptions(lists=(str(lists),), categories=("sports",)), "sports.*adult, bank, gambling"),
        (UrlOptions(hard_words=str(tmp_path / "words")), "empty"),
        (UrlOptions(soft_words=str(tmp_path / "missing")), "missing"),
        (UrlOptions(model=str(tmp_path / "missing")), "missing"),
    ]:
        with pytest.raises(ModelError, match=message) as error:
            UrlLabeller(options)
        assert "\n" not in str(error.value)


@pytest.mark.realdata
def test_real_lists_find_their_own_entries(data):
    folder = data / "lists" / "ut1"
    label = UrlLabeller(UrlOptions(lists=(str(folder),), categories=("gambling", "adult", "warez")))
    domains = gzip.decompress((folder / "gambling" / "domains.gz").read_bytes()).decode().split()
    for domain in domains[::50]:
        assert label(f"https://www.{domain.upper()}/x").domain_listed == "gambling", domain
    urls = gzip.decompress((folder / "adult" / "urls.gz").read_bytes()).decode().split()
    missed = [url for url in urls if label(f"http://{url}").url_listed != "adult"]
    assert len(missed) <= 0.01 * len(urls), missed
    assert label("https://en.wikipedia.org/wiki/Soil")[3:5] == ("", "")


@pytest.mark.realdata
def test_real_word_lists_are_read(data):
    words = data / "lists" / "datatrove"
    label = UrlLabeller(
        UrlOptions(
            strict_words=str(words / "banned_subwords.txt"),
            hard_words=str(words / "banned_words.txt"),
            soft_words=str(words / "soft_banned_words.txt"),
        )
    )
    strict = (words / "banned_subwords.txt").read_text().split("\n")[0]
    assert label(f"http://x.example/a{strict.upper().replace(' ', '-')}z").strict_words >= 1
    assert label("https://en.wikipedia.org/wiki/Soil")[5:8] == (0, 0, 0)
