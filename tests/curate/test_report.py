import copy
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from lxml import html

from tilth.curate.report import (
    draw_histogram,
    inline,
    number,
    passage,
    percent,
    render_report,
    short_number,
    size,
    sizes,
    width,
)

ATTACK = '"><script>alert("x")</script><img src=x onerror=alert(1)>&amp;\u202egnp.exe\x00\ud800'
TEXT = "A garden needs water in the morning. The soil is dark and full of worms.\n\n\n\nBeans climb; peas do too."


def sample(**changes):
    plain = {"id": "0" * 32, "url": "https://garden.example/soil", "language": "en", "title": "On soil"}
    plain |= {"chars": len(TEXT), "text": TEXT, "rule": None, "label": None, "value": None, "test": None, "also": []}
    return plain | changes


def dropped_sample(rule, **changes):
    decided = {"rule": rule["rule"], "label": rule["label"], "value": 31, "test": rule["test"]}
    return sample(**decided, also=["short-lines"]) | changes


def make_rule(name="gopher-words", label="gopher.words", decided=30, would_drop=41, alone=12):
    test, source = f"50 ≤ {label} ≤ 100000", "Rae et al. 2021, table A1"
    shares = {"decided": decided, "decided_bytes": 40 * decided, "would_drop": would_drop, "alone": alone}
    return {"rule": name, "label": label, "test": test, "source": source} | shares


def make_stats(rules):
    """Figures of 1,200 records of which 1,180 became documents; they add up."""
    documents, text = 1180, 9_000_000
    left, left_bytes = documents, text
    funnel = [
        step("records read", "start", 1200, 98_035_231, unit="html"),
        step("no document", "failures", 1180, 97_000_000, 20, 1_035_231, unit="html"),
        step("documents", "start", left, left_bytes),
    ]
    for rule in rules:
        left, left_bytes = left - rule["decided"], left_bytes - rule["decided_bytes"]
        funnel.append(step(rule["rule"], "rule", left, left_bytes, rule["decided"], rule["decided_bytes"]))
    funnel.append(step("lines cleaned", "cleaning", left - 2, left_bytes - 1000, 2, 1000))
    return {
        "missing_units": 0,
        "recipe": "fineweb",
        "tilth": "0.1.0",
        "inputs": ["crawl"],
        "totals": {"records": 1200, "record_bytes": 98_035_231, "failures": 20, "documents": documents}
        | {"document_bytes": text, "kept": left, "kept_bytes": left_bytes, "emptied": 2}
        | {"corpus_bytes": left_bytes - 1000},
        "failures": [
            {
                "stage": "extract",
                "reason": "timeout",
                "records": 20,
                "bytes": 1_035_231,
                "example": "http://slow.example/",
            }
        ],
        "rules": rules,
        "funnel": funnel,
        "lines": [{"rule": "c4-policy", "lines": 1203, "documents": 407}],
        "histograms": [
            {"label": rule["label"], "scale": "log", "edges": [0, 1, 10, 100, 1000, 10_000], "kept": [0, 0, 9, 700, 1]}
            | {"dropped": [1, 20, 5, 4, 0], "min": 50, "max": 100_000, "rule": rule["rule"]}
            for rule in rules
        ],
        "languages": [
            {"code": "zh", "documents": 700, "kept": 650, "bytes": 6_000_000},
            {"code": "other", "documents": 480, "kept": 100, "bytes": 3_000_000},
        ],
        "domains": [{"domain": "garden.example", "documents": 611, "kept": 609}],
        "duplicates": make_duplicates(),
    }


def kind(name, rules, labelled, decided):
    return {"kind": name, "rules": rules, "labelled": labelled, "decided": decided, "decided_bytes": 100 * decided}


def share(found, of):
    return {"found": found, "of": of, "share": found / of, "low": 0.9, "high": 0.99}


def make_duplicates():
    recall = {"threshold": 0.8, "clusters": 21, "clustered": share(97, 98), "resolved": share(98, 98)}
    return {
        "kinds": [
            kind("exact", ["exact-duplicate"], 13, 12),
            kind("url", [], 7, 0),
            kind("near", ["near-duplicate"], 59, 44),
            kind("passages", [], 31, 0),
        ],
        "repeated_chars": 8191,
        "cut": {"passages": 37, "documents": 29},
        "sizes": [{"least": 2, "clusters": 17, "documents": 34}, {"least": 5, "clusters": 3, "documents": 19}],
        "largest": [{"cluster": "c" * 32, "size": 7, "standing": 5}],
        "verify": 0.7,
        "audit": {
            "documents": 1000,
            "sampled": {"texts": 1000, "of": 1167, "dropped": 59, "dropped_of": 59},
            "verify": 0.7,
            "recall": [recall],
            "precision": {
                "representative": share(58, 59) | {"clusters": 20},
                "cluster": share(55, 59) | {"clusters": 20},
            },
        },
    }


def step(name, kind, documents, size_, removed=0, removed_bytes=0, unit="text"):
    left = {"documents": documents, "bytes": size_, "unit": unit}
    return {"step": name, "kind": kind, "removed": removed, "removed_bytes": removed_bytes} | left


def make_samples(rules):
    failed = {
        "url": "http://slow.example/",
        "path": "crawl/a.warc.gz",
        "offset": 1_234_567,
        "detail": "slow",
    }
    return {
        "kept": [sample(title=f"Kept page {i}") for i in range(10)],
        "dropped": {rule["rule"]: [dropped_sample(rule) for _ in range(10)] for rule in rules if rule["decided"]},
        "failed": {"timeout": [failed]},
        "clusters": [make_cluster()],
    }


def make_cluster(**changes):
    members = [
        sample(title="The one that stays", similarity=None),
        sample(title="Least like it", similarity=0.7125, rule="near-duplicate"),
    ]
    return {"cluster": "c" * 32, "size": 7, "lead": "0" * 32, "standing": 5, "members": members} | changes


COUNTED = ("records", "failures", "documents", "kept", "emptied")
SIZES = ("record_bytes", "document_bytes", "kept_bytes", "corpus_bytes")
EMPTY = {
    "missing_units": 0,
    "recipe": "keep-all",
    "tilth": "0.1.0",
    "inputs": [],
    "totals": dict.fromkeys((*COUNTED, *SIZES), 0),
    **{part: [] for part in ("failures", "rules", "funnel", "lines", "histograms", "languages", "domains")},
    "duplicates": None,
}
NO_SAMPLES = {"kept": [], "dropped": {}, "failed": {}, "clusters": []}
RULES = [make_rule(), make_rule("stop-words", "gopher.stop_words", 11, 12, 1), make_rule("bullets", "lines", 0, 0, 0)]


@pytest.fixture(scope="module")
def page():
    return render_report(make_stats(RULES), make_samples(RULES))


@pytest.fixture(scope="module")
def tree(page):
    return html.fromstring(page)


def text_of(element):
    return " ".join(element.text_content().split())


def test_equal_arguments_give_equal_bytes_and_are_left_as_they_were():
    stats, samples = make_stats(RULES), make_samples(RULES)
    before = copy.deepcopy((stats, samples))
    assert render_report(stats, samples) == render_report(*before)
    assert (stats, samples) == before


def test_page_asks_the_network_for_nothing(page, tree):
    assert not tree.xpath("//script | //link | //img | //iframe | //object | //embed | //@src | //@srcset | //form")
    assert "default-src 'none'" in tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0]
    style = "".join(tree.xpath("//style/text()") + tree.xpath("//@style"))
    assert "@import" not in style
    assert style.count("url(") == style.count("url(#hatch)")


def test_headline_tells_what_came_in_and_what_is_left(tree):
    header = text_of(tree.find(".//header"))
    for figure in ("1,200", "98.0 MB", "1,180", "9.00 MB", "1,139", "41 dropped", "20 failed", "94.9%"):
        assert figure in header


def test_funnel_names_every_step_with_what_it_removed(tree):
    rows = [text_of(row) for row in tree.xpath("//section[@id='funnel']//tbody/tr")]
    assert rows[0].startswith("records read 1,200")
    assert rows[1] == "no document −20 1.7% 1,180 −1.04 MB 1.1% 97.0 MBHTML"
    assert rows[3] == "gopher-words −30 2.5% 1,150 −1.20 kB 0.01% 9.00 MB"
    assert rows[-2] == "1 rule dropped nothing here: bullets"
    assert rows[-1].startswith("lines cleaned −2 0.2% 1,137")


def test_every_rule_stands_with_its_figures_in_the_order_of_application(tree):
    rows = [text_of(row) for row in tree.xpath("//section[@id='rules']//tbody/tr")]
    assert [row.split("50 ≤")[0] for row in rows] == [rule["rule"] for rule in RULES]
    for figure in ("30 2.5%", "41 3.5%", "12 1.0%", "Rae et al. 2021", "50 ≤ gopher.words ≤ 100000"):
        assert figure in rows[0]


def test_every_other_table_shows_its_rows(tree):
    for section, figures in {
        "failures": ("timeout", "in extract", "20 1.7%", "1.04 MB", "http://slow.example/"),
        "languages": ("zh", "700", "650 92.9%", "6.00 MB", "other"),
        "domains": ("garden.example", "611", "609 99.7%"),
        "lines": ("c4-policy", "1,203", "407"),
        "failed": ("crawl/a.warc.gz", "1,234,567", "slow"),
    }.items():
        text = text_of(tree.get_element_by_id(section))
        assert [figure for figure in figures if figure not in text] == []


def test_samples_show_text_and_the_reason_of_a_drop(tree):
    assert len(tree.xpath("//section[@id='kept']//article")) == 10
    groups = tree.xpath("//section[@id='dropped']/details")
    assert [len(group.xpath(".//article")) for group in groups] == [10, 10]
    first = text_of(groups[0].xpath(".//article")[0])
    for part in ("gopher.words = 31", "50 ≤ gopher.words ≤ 100000", "Also against short-lines", "Beans climb"):
        assert part in first


def test_duplicates_tell_what_each_kind_found_and_dropped(tree):
    section = tree.get_element_by_id("duplicates")
    kinds, clusters, audit = ([text_of(row) for row in table.xpath(".//tbody/tr")] for table in section.iter("table"))
    assert kinds[0] == "Equal textexact-duplicate13 1.1%12 1.0%1.20 kB 0.01%"
    assert kinds[1] == "Same URLno rule drops them7 0.6%0 0%0 B 0%"
    assert kinds[2] == "Similar textnear-duplicate, similarity 0.7 and more59 5.0%44 3.7%4.40 kB 0.05%"
    assert "8,191 characters, 37 passages cut from 29 documents" in kinds[3]
    assert clusters == ["21734 2.9%", "5 to 8319 1.6%"]
    assert audit == [
        "Recall at 0.8: in one cluster99.0%90.0% to 99.0%98 in 21 clusters",
        "Recall at 0.8: at least one named a duplicate100%90.0% to 99.0%98 in 21 clusters",
        "Precision at 0.7: duplicate, and what stands for it98.3%90.0% to 99.0%59 in 20 clusters",
        "Precision at 0.7: two of one cluster93.2%90.0% to 99.0%59 in 20 clusters",
    ]


def test_the_largest_clusters_show_who_stays_and_how_like_it_others_are(tree):
    (cluster,) = tree.xpath("//section[@id='duplicates']/details")
    assert text_of(cluster.find("summary")) == "7 documents The one that stays"
    stays, other = (text_of(article) for article in cluster.iter("article"))
    assert "Stands for 5 others kept" in stays
    assert "Similarity 0.7125 dropped by near-duplicate" in other
    assert "Beans climb" in other


def test_a_cluster_whose_like_an_earlier_run_kept_says_so():
    later = make_cluster(members=make_cluster()["members"][1:])
    bare = make_cluster(members=[], lead=None, standing=0)
    samples = make_samples(RULES) | {"clusters": [later, bare]}
    first, second = html.fromstring(render_report(make_stats(RULES), samples)).xpath(
        "//section[@id='duplicates']/details"
    )
    assert f"An earlier run kept what stands for most of them: {'0' * 32}" in text_of(first)
    assert "None of them has another document in its place." in text_of(second)


def test_the_report_says_how_to_get_an_audit_and_when_no_duplicates_were_looked_for():
    stats = make_stats(RULES)
    stats["duplicates"]["audit"] = None
    section = html.fromstring(render_report(stats, make_samples(RULES))).get_element_by_id("duplicates")
    assert "tilth curate audit" in text_of(section)
    section = html.fromstring(render_report(stats | {"duplicates": None}, NO_SAMPLES)).get_element_by_id("duplicates")
    assert "None were looked for" in text_of(section)


def test_sizes_of_clusters_are_told_apart_up_to_four_and_then_by_doubling():
    assert [sizes(least) for least in (2, 3, 4, 5, 9, 1025)] == ["2", "3", "4", "5 to 8", "9 to 16", "1,025 to 2,048"]


def test_a_rule_links_to_its_samples(tree):
    links = tree.xpath("//section[@id='rules']//a/@href")
    assert links == ["#dropped-1", "#dropped-2"]
    assert all(tree.get_element_by_id(link[1:]) is not None for link in links)


def test_ids_are_unique_and_names_resolve(tree):
    ids = tree.xpath("//@id")
    assert len(ids) == len(set(ids))
    named = [name for names in tree.xpath("//@aria-labelledby") for name in names.split()]
    assert set(named) <= set(ids)
    assert all(svg.find("title").text for svg in tree.xpath("//svg[@role='img']"))
    assert all(table.find("caption") is not None for table in tree.xpath("//table"))


def poison(value):
    """The same shape with every string hostile, keys included, except the words that mean something to the page."""
    meaning = ("log", "html", "text", "start", "failures", "rule", "cleaning", "exact", "url", "near", "passages")
    if isinstance(value, str):
        return value if value in meaning else value + ATTACK
    if isinstance(value, list):
        return [poison(item) for item in value]
    return {key: poison(item) for key, item in value.items()} if isinstance(value, dict) else value


def test_hostile_strings_everywhere_stay_text():
    samples = make_samples(RULES)
    samples = {part: poison(samples[part]) for part in ("kept", "clusters")} | {
        part: {key + ATTACK: poison(group) for key, group in samples[part].items()} for part in ("dropped", "failed")
    }
    page = render_report(poison(make_stats(RULES)), samples)
    assert page.encode()
    assert not any(character in page for character in "\x00\ud800")
    tree = html.fromstring(page)
    # A passage is a paragraph of its own, so that an override ends with it; anywhere else it would not.
    reordering = tree.xpath("//*[contains(text(), '\u202e')]")
    assert {element.get("class") for element in reordering} == {"passage"}
    assert not tree.xpath("//script | //img | //@onerror")
    assert '<script>alert("x")</script>' in tree.text_content()


@pytest.mark.parametrize(
    ("url", "followed"),
    [
        ("https://a.example/?q=\"x'&y", True),
        ("HTTP://A.example/", True),
        ("javascript:alert(1)", False),
        (" javascript:alert(1)//http://", False),
        ("data:text/html,x", False),
        ("file:///etc/passwd", False),
        ("http://a.example/" + "x" * 5000, False),
        ("", False),
        (None, False),
    ],
)
def test_only_plain_web_addresses_are_links(url, followed):
    samples = NO_SAMPLES | {"kept": [sample(url=url)]}
    links = html.fromstring(render_report(EMPTY, samples)).xpath("//article//a")
    assert [link.get("href") for link in links] == ([url] if followed else [])
    assert all("noreferrer" in link.get("rel") for link in links)


@given(st.text(max_size=700))
def test_any_text_and_title_render(text):
    samples = NO_SAMPLES | {"kept": [sample(text=text, title=text, url=text, chars=len(text))]}
    page = render_report(EMPTY, samples)
    assert page.encode()
    assert len(html.fromstring(page).xpath("//article/*")) == 4


def test_a_run_without_records_says_so():
    tree = html.fromstring(render_report(EMPTY, NO_SAMPLES))
    assert text_of(tree.find(".//h1")) == "No records were read"
    assert not tree.xpath("//article | //figure")


def test_a_run_that_keeps_nothing_says_so():
    stats = make_stats([make_rule(decided=1180, would_drop=1180, alone=1180)])
    tree = html.fromstring(render_report(stats, NO_SAMPLES))
    assert text_of(tree.find(".//h1")) == "None of 1,180 documents was kept"
    assert "Nothing was kept." in text_of(tree.get_element_by_id("kept"))


@pytest.mark.parametrize("text", ["土" * 600, '"<&>' * 150])
def test_sixty_rules_with_ten_samples_each_stay_below_a_megabyte_and_a_half(text):
    rules = [make_rule(f"rule-{i}-{'long-' * 12}", f"label.{i}", 3, 9, 1) for i in range(60)]
    stats, samples = make_stats(rules), make_samples(rules)
    for histogram in stats["histograms"]:
        histogram |= {"scale": "linear", "edges": list(range(41)), "kept": [7] * 40, "dropped": [3] * 40}
    long = {"text": text, "chars": 9000, "url": "https://a.example/" + "x" * 90, "title": "题" * 40}
    for group in samples["dropped"].values():
        group[:] = [item | long for item in group]
    page = render_report(stats, samples)
    assert len(page.encode()) < 1_500_000
    assert all(rule["rule"] in page for rule in rules)


def test_a_missing_figure_is_an_error_not_a_blank():
    totals = {name: value for name, value in EMPTY["totals"].items() if name != "record_bytes"}
    with pytest.raises(UndefinedError, match="record_bytes"):
        render_report(EMPTY | {"totals": totals}, NO_SAMPLES)


def histogram(**changes):
    plain = {"label": "words", "scale": "linear", "edges": [0, 10, 20, 30], "kept": [1, 2, 3], "dropped": [3, 0, 0]}
    return plain | {"min": None, "max": None, "rule": None} | changes


def test_bars_stack_in_proportion_to_documents():
    bars = draw_histogram(histogram()).bars
    unit = bars[1].kept_height / 2
    assert [bar.kept_height for bar in bars] == pytest.approx([unit, 2 * unit, 3 * unit], abs=0.2)
    assert [bar.dropped_height for bar in bars] == pytest.approx([3 * unit, 0, 0], abs=0.2)
    assert bars[0].title == "0 to 10: 1 kept, 3 dropped"


def test_threshold_stands_at_its_value_and_tints_the_side_that_is_dropped():
    low, high = draw_histogram(histogram(min=10, max=20)).thresholds
    chart = draw_histogram(histogram())
    at = {tick.text: tick.at for tick in chart.x_ticks}
    assert (low.line, high.line) == (at["10"], at["20"])
    assert (low.band_x, low.band_x + low.band_width) == pytest.approx((at["0"], at["10"]), abs=0.11)
    assert (high.band_x, high.band_x + high.band_width) == pytest.approx((at["20"], at["30"]), abs=0.11)


@pytest.mark.parametrize(("bound", "tinted"), [({"min": -5}, False), ({"min": 99}, True), ({"max": 99}, False)])
def test_threshold_outside_the_range_is_named_but_not_drawn(bound, tinted):
    (threshold,) = draw_histogram(histogram(**bound)).thresholds
    assert threshold.line is None
    assert threshold.text.startswith("← ") or threshold.text.endswith(" →")
    assert (threshold.band_width > 0) == tinted


def test_logarithmic_axis_gives_each_decade_the_same_width_and_zero_a_place():
    edges = [0, 1, 10, 100, 1000]
    bars = draw_histogram(histogram(scale="log", edges=edges, kept=[1] * 4, dropped=[0] * 4)).bars
    starts = [bar.x for bar in bars]
    assert [b - a for a, b in pairwise(starts)] == pytest.approx([starts[1] - starts[0]] * 3, abs=0.2)


@given(
    st.lists(
        st.sampled_from([1e-6, 0.001, 0.3, 7.5]) | st.integers(-5, 10**12), min_size=2, max_size=12, unique=True
    ).map(sorted),
    st.sampled_from(["log", "linear"]),
    st.floats(-1e15, 1e15) | st.none(),
    st.integers(0, 10**12),
)
def test_any_histogram_is_drawn_inside_its_box(edges, scale, bound, documents):
    bins = len(edges) - 1
    drawn = histogram(edges=edges, scale=scale, min=bound, max=bound)
    chart = draw_histogram(drawn | {"kept": [documents] * bins, "dropped": [0] * bins})
    for bar in chart.bars:
        assert 0 <= bar.x <= bar.x + bar.width <= 360
        assert 0 <= bar.kept_height <= 170
    assert all(0 <= tick.at <= 360 for tick in chart.x_ticks)


def test_numbers_read_as_people_write_them():
    assert [size(n) for n in (0, 999, 1000, 999_999, 98_035_231, 4.2e15)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "1.00 MB",
        "98.0 MB",
        "4.20 PB",
    ]
    shares = [(0, 9), (9, 9), (1, 3), (1, 100_000), (1, 2000), (99_999, 100_000), (0, 0)]
    assert [percent(*share) for share in shares] == ["0%", "100%", "33.3%", "<0.01%", "0.05%", ">99.9%", "–"]
    assert [number(n) for n in (100_000, 0.123456, 50.0, None, "zh")] == ["100,000", "0.1235", "50", "–", "zh"]
    assert [short_number(n) for n in (0, 0.05, 200, 1500, 2e6)] == ["0", "0.05", "200", "1.5k", "2M"]
    assert [width(*share) for share in ((1, 4), (5, 4), (1, 0))] == ["25.00%", "100.00%", "0.00%"]


def test_foreign_strings_are_kept_to_a_line_and_passages_to_their_budget():
    assert len(inline("x" * 10_000)) <= 181
    assert inline("ab\u202ecd\u2066") == "abcd"
    assert passage("a\n\n\n\nb", 6, 100) == "a\n\nb"
    assert len(passage("<" * 600, 600, 100).encode()) <= 104
    assert passage("ab", 3, 100) == "ab …"
