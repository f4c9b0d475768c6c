"""Mixtures: which documents are in which pool, what share each pool gets, and what is refused before training."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.curate.mix import Balance, Part, Pool, Rank, Span, Strata, check, exposure, shares
from tilth.curate.mix_fit import fitted
from tilth.curate.mix_pools import Left, select
from tilth.curate.mix_query import columns, connected
from tilth.errors import InputError, RecipeError, UsageError
from tilth.recipe import validated

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("tokens", pa.int64()),
        pa.field("place", pa.string()),
        pa.field("lang", pa.struct([pa.field("code", pa.string())])),
        pa.field("quality", pa.struct([pa.field("score", pa.float64()), pa.field("noise", pa.float64())])),
        pa.field("dup", pa.struct([pa.field("cluster", pa.string())])),
    ]
)


def document(
    name: str,
    tokens: int = 10,
    place: str = "web/",
    code: str | None = None,
    score: float | None = None,
    noise: float | None = None,
    cluster: str | None = None,
) -> dict[str, Any]:
    families = {"lang": {"code": code}, "quality": {"score": score, "noise": noise}, "dup": {"cluster": cluster}}
    return {"id": name, "tokens": tokens, "place": place, **families}


def documents(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), SCHEMA)


def named(selection: Any) -> list[str | None]:
    """The name of each document's pool."""
    return [selection.pools[pool].name if pool >= 0 else None for pool in selection.assigned]


def pool(name: str, tokens: float, part: str | None = None, **more: Any) -> Pool:
    given = {"value": None, "target": None, "often": 1.0, "language": None, "documents": 1, "max_epochs": 4.0} | more
    return Pool(name=name, part=part or name, tokens=int(tokens), **given)


def refused(call: Any, kind: type[Exception] = RecipeError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Which pool


def test_the_first_part_whose_condition_a_document_meets_has_it():
    rows = documents(
        document("a", code="zh", score=0.9),
        document("b", code="zh", score=0.1),
        document("c", code="en"),
        document("d"),
    )
    parts = {
        "good": Part(where="lang.code = 'zh' AND quality.score > 0.5"),
        "zh": Part(where="lang.code = 'zh' -- the rest of it"),
        "rest": Part(),
    }
    assert named(select(rows, parts)) == ["good", "zh", "rest", "rest"]
    assert named(select(rows, {"rest": Part(), **parts})) == ["rest"] * 4
    some = select(rows, {"zh": parts["zh"]})
    assert named(some) == ["zh", "zh", None, None]
    assert some.left == [Left(None, "no part", 2, 20)]
    assert some.assigned.dtype == np.int16


def test_a_condition_cannot_change_the_meaning_of_what_stands_around_it():
    rows = documents(document("a", place="web/", score=0.1), document("b", place="books/", score=0.9))
    part = Part(where="place = 'web/') OR (quality.score > 0.5", data=("web/",))
    assert named(select(rows, {"web": part})) == ["web", None]


def test_a_threshold_is_not_met_by_a_label_that_is_null_or_no_number():
    rows = documents(*(document(str(score), score=score) for score in (0.2, 0.5, 0.7, 0.71, math.nan, None)))
    part = Part(thresholds={"quality.score": Span(min=0.5, max=0.7)})
    assert named(select(rows, {"some": part})) == [None, "some", "some", None, None, None]
    above = Part(thresholds={"quality.score": Span(min=0.5)})
    assert named(select(rows, {"some": above})) == [None, "some", "some", "some", None, None]


def test_short_documents_are_left_out_and_long_ones_count_as_what_is_read_of_them():
    rows = documents(document("a", 5), document("b", 10), document("c", 100))
    found = select(rows, {"web": Part(shortest=10, longest=40), "rest": Part()})
    assert named(found) == [None, "web", "web"], "a document too short for its part is not for a later one"
    assert (found.pools[0].documents, found.pools[0].tokens) == (2, 50)
    assert found.left == [Left("web", "longer", 1, 60), Left("web", "shorter", 1, 5)]


def test_of_duplicates_the_first_by_id_stays_and_those_without_a_cluster_all():
    clusters = [("d", "x"), ("b", "x"), ("c", "y"), ("a", None), ("e", None), ("f", "x"), ("g", "")]
    rows = documents(*(document(name, cluster=cluster) for name, cluster in clusters))
    found = select(rows, {"web": Part(unique="dup.cluster")})
    assert named(found) == [None, "web", "web", "web", "web", None, "web"]
    assert found.left == [Left("web", "unique", 2, 20)]
    assert found.pools[0].documents == 5


def test_ranking_keeps_the_best_share_of_tokens_whatever_the_scales_of_the_labels():
    marks = {"a": (0.1, 1e6), "b": (0.2, 3e6), "c": (0.3, 0.0), "d": (0.4, 4e6), "e": (0.5, 2e6)}
    rows = documents(*(document(name, score=score, noise=noise) for name, (score, noise) in marks.items()))
    # percent ranks: score 0 1 2 3 4, noise 1 3 0 4 2 (of 4); score - noise: -1 -2 2 -1 2
    rank = Rank(by={"quality.score": 1, "quality.noise": -1}, keep=0.6)
    assert named(select(rows, {"web": Part(rank=rank)})) == ["web", None, "web", None, "web"], "a and d tie: a by id"
    unknown = documents(document("a"), document("b", score=0.0), document("c", score=math.nan))
    best = Part(rank=Rank(by={"quality.score": 1}, keep=0.3))
    worst = Part(rank=Rank(by={"quality.score": -1}, keep=0.3))
    assert named(select(unknown, {"web": best})) == named(select(unknown, {"web": worst})) == [None, "web", None]


def test_balance_strata_and_languages_split_a_part_into_pools():
    rows = documents(
        document("a", 1, code="zh", score=0.1, cluster="law"),
        document("b", 2, code="fr", score=0.5, cluster="law"),
        document("c", 4, code="zh", score=0.9, cluster="news"),
        document("d", 8, code=None, score=None, cluster=None),
    )
    strata = Strata(by="quality.score", bounds=(0.5,), often=(1, 3))
    found = select(rows, {"web": Part(strata=strata)}, languages=["zh", "en"])
    assert named(found) == ["web/<0.5/zh", "web/>=0.5/*", "web/>=0.5/zh", "web/<0.5/*"]
    assert [one.often for one in found.pools] == [1, 1, 3, 3]
    even = select(rows, {"web": Part(balance=Balance(by="dup.cluster"))})
    assert [(one.name, one.target, one.tokens) for one in even.pools] == [
        ("web/law", 1 / 3, 3),
        ("web/news", 1 / 3, 4),
        ("web/none", 1 / 3, 8),
    ]
    told = select(rows, {"web": Part(balance=Balance(by="dup.cluster", to={"news": 3, "art": 1}))})
    assert named(told) == [None, None, "web/news", None]
    assert [(one.name, one.target, one.documents) for one in told.pools] == [
        ("web/news", 0.75, 1),
        ("web/art", 0.25, 0),
    ]
    assert told.left == [Left("web", "no share", 3, 11)]
    others = select(rows, {"web": Part(balance=Balance(by="dup.cluster", to={"news": 1, "*": 1}))})
    assert named(others) == ["web/*", "web/*", "web/news", "web/*"]


def test_labels_may_come_by_id_from_elsewhere():
    rows = documents(document("a", code="zh"), document("b", code="en"), document("c", code="zh"))
    parts = {"zh": Part(where="lang.code = 'zh' AND tokens = 10"), "rest": Part()}
    bare = rows.select(["id", "tokens", "place"])
    labels = ds.dataset(pa.table({"id": ["c", "x", "a"], "lang": rows["lang"].take([2, 1, 0])}))
    found = select(bare, parts, labels=labels)
    assert named(found) == ["zh", "rest", "zh"]
    assert found.unlabelled == 1
    twice = ds.dataset(pa.table({"id": ["c", "c"], "lang": rows["lang"].take([2, 1])}))
    assert "twice" in refused(lambda: select(bare, parts, labels=twice), InputError)


def test_no_document_is_no_mistake_until_a_share_is_asked_of_it():
    found = select(documents(), {"web": Part(unique="dup.cluster"), "rest": Part()})
    assert [(one.name, one.documents) for one in found.pools] == [("web", 0), ("rest", 0)]
    assert found.assigned.tolist() == found.left == []
    told = refused(lambda: shares([pool("web", 10), pool("law", 0)], {"web": 4, "law": 1}))
    assert told == "mixture: law is to have 20.000% of the tokens, but there are none in it"
    assert shares([pool("web", 10), pool("law", 0)], {"web": 4, "law": 0}).tolist() == [1, 0]


def test_a_mistake_of_the_documents_source_stays_what_it_is():
    def broken():
        yield documents(document("a")).to_batches()[0]
        raise InputError("web/b.parquet: cannot be read")

    reader = pa.RecordBatchReader.from_batches(SCHEMA, broken())
    assert refused(lambda: select(reader, {"web": Part()}), InputError) == "web/b.parquet: cannot be read"


numbers = st.one_of(st.none(), st.sampled_from([0.1, 0.5, 0.9]), st.floats(0, 1))
made = st.builds(
    document,
    name=st.just(""),
    tokens=st.integers(0, 30),
    place=st.sampled_from(["web/", "books/"]),
    code=st.sampled_from(["zh", "en", "fr", "", None]),
    score=numbers,
    noise=numbers,
    cluster=st.sampled_from(["x", "y", None]),
)
PARTS = {
    "zh": Part(
        where="lang.code = 'zh' AND quality.score > 0.3",
        unique="dup.cluster",
        rank=Rank(by={"quality.score": 2, "quality.noise": -0.5}, keep=0.5),
        strata=Strata(by="quality.score", bounds=(0.5, 0.9), often=(1, 2, 4)),
    ),
    "books": Part(data=("books/",), shortest=5, longest=20, balance=Balance(by="lang.code")),
    "clean": Part(thresholds={"quality.noise": Span(max=0.5)}, rank=Rank(by={"quality.noise": -1}, keep=0.7)),
    "some": Part(where="tokens % 2 = 0", balance=Balance(by="dup.cluster", to={"x": 1, "y": 2})),
}


@settings(max_examples=25, deadline=None)
@given(st.lists(made, max_size=40), st.randoms(use_true_random=False), st.booleans())
def test_every_document_is_where_a_plain_reading_puts_it_in_whatever_order_they_come(rows, random, split):
    rows = [{**row, "id": f"{random.random()}-{number}"} for number, row in enumerate(rows)]
    languages = ["zh", "en"] if split else []
    found = select(documents(*rows), PARTS, languages)
    expected = plainly(rows, languages)
    assert named(found) == [expected.get(row["id"]) for row in rows]
    read = sum(one.tokens for one in found.pools) + sum(one.tokens for one in found.left)
    assert read == sum(row["tokens"] for row in rows), "every token is in a pool or left out for a reason"
    assert sum(one.documents for one in found.pools) == len(expected)
    order = random.sample(range(len(rows)), len(rows))
    again = select(documents(*rows).take(pa.array(order, pa.int64())), PARTS, languages)
    assert again.pools == found.pools
    assert again.assigned.tolist() == found.assigned[order].tolist()


def plainly(rows: list[dict[str, Any]], languages: list[str]) -> dict[str, str]:
    """The pool of each document that is in one, by id, found one by one."""

    def meets(row: dict[str, Any]) -> str | None:
        score, noise = row["quality"]["score"], row["quality"]["noise"]
        if row["lang"]["code"] == "zh" and score is not None and score > 0.3:
            return "zh"
        if row["place"] == "books/":
            return "books"
        if noise is not None and noise <= 0.5:
            return "clean"
        return "some" if row["tokens"] % 2 == 0 else None

    def best(group: list[dict[str, Any]], by: dict[str, float], keep: float) -> list[dict[str, Any]]:
        scores = dict.fromkeys((row["id"] for row in group), 0.0)
        for label, weight in by.items():
            unknown = -math.inf if weight > 0 else math.inf
            values = [row["quality"][label] if row["quality"][label] is not None else unknown for row in group]
            for row, value in zip(group, values, strict=True):
                scores[row["id"]] += weight * (sum(other < value for other in values) / max(len(values) - 1, 1))
        whole, so_far, kept = sum(row["tokens"] for row in group), 0, []
        for row in sorted(group, key=lambda row: (-scores[row["id"]], row["id"])):
            if so_far < keep * whole:
                kept.append(row)
            so_far += row["tokens"]
        return kept

    groups: dict[str | None, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        groups.setdefault(meets(row), []).append(row)
    once, clusters = [], set()
    for row in groups.get("zh", []):
        if row["dup"]["cluster"] not in clusters:
            once.append(row)
        clusters |= {row["dup"]["cluster"]} - {None}
    pools = {}
    for row in best(once, {"score": 2, "noise": -0.5}, 0.5):
        score = row["quality"]["score"]
        pools[row["id"]] = "zh/" + ("<0.5" if score < 0.5 else "0.5-0.9" if score < 0.9 else ">=0.9")
    for row in groups.get("books", []):
        if row["tokens"] >= 5:
            pools[row["id"]] = f"books/{row['lang']['code'] or 'none'}"
    for row in best(groups.get("clean", []), {"noise": -1}, 0.7):
        pools[row["id"]] = "clean"
    for row in groups.get("some", []):
        if row["dup"]["cluster"]:
            pools[row["id"]] = f"some/{row['dup']['cluster']}"
    if languages:
        codes = {row["id"]: row["lang"]["code"] for row in rows}
        pools = {name: f"{one}/{codes[name] if codes[name] in languages else '*'}" for name, one in pools.items()}
    return pools


# What is refused


@pytest.mark.parametrize(
    "condition",
    [
        "EXISTS (FROM read_csv('/etc/passwd'))",
        "(SELECT count(*) FROM read_text('/etc/*')) > 0",
        "tokens IN (SELECT 1)",
        "true) FROM read_csv('/etc/passwd') WHERE (true",
        "true; COPY (SELECT 1) TO '/tmp/x'",
        "true); ATTACH '/tmp/x.db'; SELECT (true",
        "true); INSTALL httpfs; SELECT (true",
        "read_text('/etc/passwd') IS NOT NULL",
        "getenv('HOME') = '/root'",
        "true) AS x, (true",
        "random() < 0.5",
        "now() > '2020-01-01'",
        "current_date > '2020-01-01'",
        "count(*) > 1",
        "row_number() OVER () < 5",
        "COLUMNS('to.*') > 1",
        "tokens > ?",
    ],
)
def test_a_condition_sees_one_document_and_nothing_else(condition):
    assert refused(lambda: select(documents(document("a")), {"web": Part(where=condition)})).startswith(
        "parts.web.where: "
    )


def test_duckdb_itself_is_kept_from_files_and_from_its_own_settings():
    import duckdb

    with connected() as connection:
        for statement in ("FROM read_text('/etc/hostname')", "ATTACH '/tmp/x.db'", "INSTALL httpfs", "SET threads = 1"):
            with pytest.raises((duckdb.PermissionException, duckdb.InvalidInputException)):
                connection.execute(statement)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"where": "lnag.code = 'zh'"}, "parts.web.where: there is no label lnag; did you mean lang?"),
        ({"where": "lang.cod = 'zh'"}, 'Could not find key "cod" in struct; Candidate Entries: "code"'),
        ({"where": "lang.code = 'zh' AND"}, "syntax error at or near \")\" in: lang.code = 'zh' AND"),
        ({"where": "quality.score"}, "is DOUBLE, and has to be true or false: quality.score"),
        ({"where": "quality.score > 'high'"}, "Could not convert string 'high' to DOUBLE"),
        ({"where": "lenght(id) > 3"}, 'name lenght does not exist!; Did you mean "length"?'),
        ({"where": "CAST(id AS INT) > 3"}, "a condition cannot be worked out: Could not convert string 'a'"),
        (
            {"thresholds": {"lang.code": {"min": 1}}},
            "parts.web.thresholds: lang.code is VARCHAR, and has to be a number",
        ),
        ({"rank": {"by": {"quality.scoer": 1}, "keep": 0.5}}, 'parts.web.rank.by: Could not find key "scoer"'),
        ({"unique": "dup"}, "parts.web.unique: dup is a family of labels; name one of it, such as dup.cluster"),
        ({"balance": {"by": "topic.name"}}, "parts.web.balance.by: there is no label topic; there are id, tokens"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(part, told):
    web = validated(Part, part, "x")
    assert told in refused(lambda: select(documents(document("a", code="zh", score=0.5)), {"web": web}))


def test_a_label_that_tells_documents_apart_is_nothing_to_balance_by():
    rows = documents(*(document(str(number)) for number in range(2100)))
    assert "more than 2,000 pools" in refused(lambda: select(rows, {"web": Part(balance=Balance(by="id"))}))


@pytest.mark.parametrize(
    "part",
    [
        {"wher": "true"},
        {"thresholds": {"quality.score": {}}},
        {"thresholds": {"quality.score": {"min": 2, "max": 1}}},
        {"rank": {"by": {}, "keep": 0.5}},
        {"rank": {"by": {"quality.score": 0}, "keep": 0.5}},
        {"rank": {"by": {"quality.score": 1}, "keep": 0}},
        {"strata": {"by": "quality.score", "bounds": [0.5], "often": [1]}},
        {"strata": {"by": "quality.score", "bounds": [0.5, 0.5], "often": [1, 2, 3]}},
        {"balance": {"by": "lang.code", "to": {"zh": -1}}},
        {"balance": {"by": "lang.code", "to": {}}},
        {"shortest": 10, "longest": 5},
        {"max_epochs": 0},
    ],
)
def test_options_that_make_no_part_are_refused(part):
    refused(lambda: validated(Part, part, "x"))


def test_only_columns_that_conditions_and_labels_name_are_read():
    names = ["id", "text", "tokens", "place", "Lang", "quality", "dup", "url"]
    parts = {
        "a": Part(where="lang.code = 'zh' AND len(list_filter(['x'], lambda text: text = url)) > 0"),
        "b": Part(unique="dup.cluster"),
    }
    assert columns(parts, None, names) == ["Lang", "dup", "url"]
    assert columns({"a": Part(where="tokens > 1")}, "lang.code", names) == ["tokens", "Lang"]
    rows = documents(document("a", code="zh")).append_column("text", pa.array([b"not text"]))
    assert named(select(rows, {"a": Part()})) == ["a"]


# Shares


GPT3 = {  # Brown et al. 2020, table 2.2: tokens, weight in percent, epochs at 300 billion tokens
    "common-crawl": (410e9, 60, 0.44),
    "webtext2": (19e9, 22, 2.9),
    "books1": (12e9, 8, 1.9),
    "books2": (55e9, 8, 0.43),
    "wikipedia": (3e9, 3, 3.4),
}


def test_gpt3s_published_mixture_gives_its_published_epochs():
    pools = [pool(name, tokens) for name, (tokens, _, _) in GPT3.items()]
    found = shares(pools, {name: weight for name, (_, weight, _) in GPT3.items()})
    rows = exposure(pools, [("all", 300e9, found)])
    check(rows)
    epochs = dict(zip(GPT3, [row.epochs[0] for row in rows], strict=True))
    for name, (tokens, weight, _) in GPT3.items():
        assert epochs[name] == pytest.approx(300e9 * weight / 101 / tokens), "their weights are rounded, to 101% in all"
    # Their epochs are of weights less rounded; for WebText2 (18.4%) and Wikipedia (3.4%) not those that are printed.
    assert epochs == pytest.approx({name: seen for name, (_, _, seen) in GPT3.items()}, rel=0.2)
    assert [round(epochs[name], 2) for name in ("common-crawl", "books2")] == [0.43, 0.43]
    assert epochs["books1"] == pytest.approx(1.9, rel=0.05)
    little = [one._replace(max_epochs=3) for one in pools]
    assert "webtext2" in refused(lambda: check(exposure(little, [("all", 300e9, found)])), UsageError)


def test_strata_seen_as_often_as_gpt3s_sets_give_its_published_epochs():
    pools = [pool(f"all/{name}", tokens, "all", often=seen) for name, (tokens, _, seen) in GPT3.items()]
    asked = sum(tokens * seen for tokens, _, seen in GPT3.values())
    rows = exposure(pools, [("all", asked, shares(pools, {"all": 1}))])
    assert [row.epochs[0] for row in rows] == pytest.approx([seen for _, _, seen in GPT3.values()])


def test_within_a_part_shares_go_by_tokens_by_often_and_by_target():
    plain = [pool("a/1", 30, "a"), pool("a/2", 10, "a"), pool("b", 1000)]
    assert shares(plain, {"a": 1, "b": 1}).tolist() == [0.375, 0.125, 0.5]
    strata = [pool("a/low", 30, "a"), pool("a/high", 10, "a", often=3.0)]
    assert shares(strata, {"a": 7}).tolist() == [0.5, 0.5]
    balanced = [
        pool("a/law/zh", 30, "a", value="law", target=0.75),
        pool("a/law/en", 10, "a", value="law", target=0.75),
        pool("a/*", 1000, "a", value="*", target=0.25),
    ]
    assert shares(balanced, {"a": 1}) == pytest.approx([0.75 * 0.75, 0.25 * 0.75, 0.25])
    assert "did you mean books?" in refused(lambda: shares([pool("books", 1)], {"boks": 1}))
    assert "more than 0" in refused(lambda: shares([pool("books", 1)], {"books": 0}))


sizes = st.lists(st.lists(st.integers(1, 10**12), min_size=3, max_size=3), min_size=2, max_size=4)


@settings(max_examples=50, deadline=None)
@given(
    sizes, st.lists(st.integers(1, 100), min_size=4, max_size=4), st.lists(st.integers(1, 100), min_size=3, max_size=3)
)
def test_shares_of_parts_and_of_languages_hold_at_once(tokens, weights, ratio):
    parts = [f"part{number}" for number in range(len(tokens))]
    languages = dict(zip(["zh", "en", "*"], ratio, strict=True))
    pools = [
        pool(f"{part}/{language}", size, part, language=language)
        for part, row in zip(parts, tokens, strict=True)
        for language, size in zip(languages, row, strict=True)
    ]
    mixture = dict(zip(parts, weights, strict=False))
    found = shares(pools, mixture, languages)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    by_part = found.reshape(-1, 3).sum(1)
    by_language = found.reshape(-1, 3).sum(0)
    assert by_part == pytest.approx([weight / sum(mixture.values()) for weight in mixture.values()], abs=1e-9)
    assert by_language == pytest.approx([weight / sum(ratio) for weight in ratio], abs=1e-9)
    # Nothing else is changed: what the sizes say of two parts and two languages stays (their odds ratio).
    a, b, c, d = (found.reshape(-1, 3)[i, j] / tokens[i][j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    assert a * d == pytest.approx(b * c, rel=1e-6)


def test_a_ratio_of_languages_that_leaves_only_one_way_is_found():
    pools = [pool("a", 5, language="zh"), pool("b/zh", 7, "b", language="zh"), pool("b/en", 1, "b", language="en")]
    found = shares(pools, {"a": 0.6, "b": 0.4}, {"zh": 0.6, "en": 0.4})
    assert found == pytest.approx([0.6, 0, 0.4], abs=1e-12), "no table with these sums has Chinese in b"
    assert fitted(np.ones((2, 2)), np.array([0.25, 0.75]), np.array([0.5, 0.5])) == pytest.approx(
        np.array([[0.125, 0.125], [0.375, 0.375]])
    )


def test_a_ratio_that_cannot_be_met_is_refused_with_what_is_in_the_way():
    pools = [
        pool("web/zh", 5, "web", language="zh"),
        pool("web/en", 5, "web", language="en"),
        pool("books", 9, language="en"),
        pool("code", 9, language="en"),
    ]
    mixture = {"web": 0.3, "books": 0.5, "code": 0.2}
    assert refused(lambda: shares(pools, mixture, {"zh": 0.4, "en": 0.6})) == (
        "languages: cannot be met: books, code have together 70.00% of the tokens, and documents only in en, whose "
        "share is to be 60.00%: 10.00% too much"
    )
    assert shares(pools, mixture, {"zh": 0.3, "en": 0.7}) == pytest.approx([0.3, 0, 0.5, 0.2], abs=1e-12)
    none = refused(lambda: shares(pools, mixture, {"fr": 1, "en": 1}))
    assert "web, books, code have together 100.00% of the tokens, and documents only in en, whose" in none
    assert "not negative" in refused(lambda: shares(pools, mixture, {"zh": -1, "en": 2}))


# What will be seen


def test_what_one_stage_reads_counts_in_the_next_and_four_epochs_are_enough():
    pools = [pool("web", 1e9), pool("books", 1e8)]
    stages = [("stable", 2e9, np.array([0.9, 0.1])), ("annealing", 1e9, np.array([0.8, 0.2]))]
    rows = exposure(pools, stages)
    assert rows[1].asked == (2e8, 2e8)
    assert rows[1].epochs == (2.0, 4.0)
    check(rows)
    longer = exposure(pools, [*stages, ("more", 1e9, np.array([0.99, 0.01]))])
    told = refused(lambda: check(longer), UsageError)
    assert "books has 100M tokens, and 410M are asked of it: it would be seen 4.1 times, and may be 4 times" in told
    assert "parts.books.max_epochs" in told
    assert "too often too" not in told
    both = exposure([one._replace(max_epochs=1) for one in pools], stages)
    assert "it would be seen 4 times, and may be 1 times" in refused(lambda: check(both), UsageError)
    assert "too often too: web (2.6 of 1)" in refused(lambda: check(both), UsageError)
    check(exposure([pool("web", 1e9), pool("books", 1e8, max_epochs=5.0)], stages))
