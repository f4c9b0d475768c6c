"""The picture of a plan: every stage and pool is in it, at its place, whatever it is called and however large it is."""

import copy
import re
from itertools import pairwise
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from lxml import html

from tilth.train.plan_report import LEFT, MIXTURE, RATE, RIGHT, WIDTHS, picture, plan_text, render_plan
from tilth.train.plan_rows import COLORS, portion, rate, times

SCRIPT = "</svg><script>alert(1)</script>"
HOSTILE = [SCRIPT, "\u202eevil\u202c", "nul\x00\x1b[31m", "half \udc80", "语料", "{{ 7*7 }}", "line\nbreak", ""]

Parts = list[tuple[int, int, int]]  # size, length, steps


def plan_of(stages: list[tuple[str, Parts, dict[str, float]]], **more: Any) -> dict[str, Any]:
    """A plan from each stage's name, segments and mixture, with a rate that rises, stays and falls."""
    told, segments, tokens, steps = [], [], 0, 0
    epochs: dict[str, list[float]] = {name: [] for *_, mixture in stages for name in mixture}
    for index, (name, parts, mixture) in enumerate(stages):
        first, before = tokens, steps
        for size, length, many in parts:
            part = {"stage": index, "first": tokens, "tokens": size * length * many, "step": steps, "steps": many}
            segments.append({**part, "size": size, "length": length})
            tokens, steps = tokens + size * length * many, steps + many
        stage = {"name": name, "first": first, "tokens": tokens - first, "steps": steps - before, "rows": "all"}
        told.append({**stage, "schedule": "wsd, 3e-4", "mixture": mixture})
        for pool, seen in epochs.items():
            seen.append((seen[-1] if seen else 0.0) + mixture.get(pool, 0.0))
    pools = [
        {"name": name, "documents": 12_345, "tokens": 10**9, "estimated": False, "epochs": seen, "max_epochs": 4}
        for name, seen in epochs.items()
    ]
    rates = [[0, 0.0], [tokens // 50, 3e-4], [tokens * 9 // 10, 3e-4], [tokens, 3e-5]]
    plan = {"name": "base", "about": {"model": "llama", "parameters": 10**9}, "tokens": tokens, "steps": steps}
    plan |= {"stages": told, "segments": segments, "rates": rates, "pools": pools, "packing": None}
    return plan | {"advice": [], "notes": []} | more


def three() -> dict[str, Any]:
    """New rows first with a ramp, a stable stage, annealing on longer sequences with SFT text."""
    web = {"web/en": 0.6, "web/zh": 0.3, "books": 0.1}
    plan = plan_of(
        [
            ("warm", [(64, 4096, 500), (128, 4096, 500), (256, 4096, 500)], web),
            ("stable", [(512, 4096, 8000)], web),
            ("annealing", [(64, 32768, 1000)], {"web/en": 0.3, "web/zh": 0.2, "books": 0.3, "sft": 0.2}),
        ],
        packing={"how": "best-fit", "padding": 0.0042, "lost": 1_200_000},
        advice=["a batch of 64 sequences is small for this size"],
        notes=["GPT-3's batch of 3.2M is in tokens"],
    )
    plan["pools"][2]["epochs"] = [0.4, 2.0, 3.7]
    plan["pools"][3]["epochs"] = [0.0, 0.0, 4.2]
    plan["pools"][1]["estimated"] = True
    plan["stages"][0]["rows"] = "new"
    return plan


def large(stages: int = 40, pools: int = 30) -> dict[str, Any]:
    """A plan of 10^13 tokens."""
    mixture = {f"pool/{index}": (index + 1) / (pools * (pools + 1) / 2) for index in range(pools)}
    parts: Parts = [(3814, 8192, 8001)]
    return plan_of([(f"a stage with a long name, {index}", parts, mixture) for index in range(stages)])


def page(plan: dict[str, Any]) -> Any:
    return html.fromstring(render_plan(plan))


def words(element: Any) -> str:
    return " ".join(element.text_content().split())


def rows(found: Any, section: str) -> list[list[str]]:
    return [[words(cell) for cell in row] for row in found.xpath(f"//section[@id='{section}']//tbody/tr")]


def points(drawn: str) -> list[list[float]]:
    return [[float(value) for value in point.split()] for point in re.split("[ML]", drawn)[1:]]


# --- The page -------------------------------------------------------------------------------------------------------


def test_equal_plans_give_equal_bytes_and_are_left_as_they_were() -> None:
    plan = three()
    before = copy.deepcopy(plan)
    once = render_plan(plan), plan_text(plan)
    assert plan == before
    assert once == (render_plan(before), plan_text(before))
    read = orjson.loads(orjson.dumps(plan))
    assert once == (render_plan(read), plan_text(read))


def test_a_page_stands_alone_and_has_every_name_as_text() -> None:
    mixture = {name: 1 / len(HOSTILE) for name in HOSTILE}
    about = {**dict.fromkeys(HOSTILE, SCRIPT), "data": HOSTILE[1]}
    plan = plan_of(
        [(name, [(8, 128, 10)], mixture) for name in HOSTILE], name=SCRIPT, about=about, advice=HOSTILE, notes=HOSTILE
    )
    for stage in plan["stages"]:
        stage["schedule"] = SCRIPT
    text = render_plan(plan)
    text.encode()
    found = html.fromstring(text)
    assert not found.xpath("//script | //link | //@onerror | //@src | //@href[not(starts-with(., '#'))]")
    assert "default-src 'none'" in found.xpath("//meta[@http-equiv]/@content")[0]
    assert not re.search("[\x00-\x08\x1b\u202a-\u202e]|url\\(|@import", text)
    assert found.xpath("//h1")[0].text_content().startswith(SCRIPT)
    for section in ("stages", "pools", "advice", "notes", "about"):
        told = found.xpath(f"//section[@id='{section}']")[0].text_content()
        assert all(name in told for name in (SCRIPT, "evil", "nul", "half", "语料", "{{ 7*7 }}")), section
    assert SCRIPT in found.xpath("//svg//title")[0].text
    shown = plan_text(plan)
    assert all(character.isprintable() for character in shown.replace("\n", ""))
    assert len([line for line in shown.splitlines() if line.startswith("Note:")]) == len(HOSTILE)


def test_the_page_tells_every_stage_and_pool_in_figures() -> None:
    found = page(three())
    assert words(found.xpath("//h1")[0]) == "base: 19.8B tokens in 3 stages"
    figures = [words(one) for one in found.xpath("//dl/div")]
    assert figures == [
        "Steps10,50019,791,872,000 tokens",
        "Tokens a step262k–2.10M64–512 sequences of 4,096–32,768",
        "Learning rate3e-4at its highest; 3e-5 at the end",
        "Seen most often4.20 epochsof sft; at most 4",
    ]
    assert rows(found, "stages") == [
        ["warmtrains new tokens’ rows alone", "918M4.6%", "1,500", "64–256", "4,096", "262k–1.05M", "wsd, 3e-4"],
        ["stable", "16.8B84.8%", "8,000", "512", "4,096", "2.10M", "wsd, 3e-4"],
        ["annealing", "2.10B10.6%", "1,000", "64", "32,768", "2.10M", "wsd, 3e-4"],
    ]
    assert rows(found, "pools") == [
        ["web/en", "12,345", "1.00B", "56.8%11.2B", "0.6060%", "1.2060%", "1.5030%", "4"],
        ["web/zh", "12,345", "≈ 1.00B", "28.9%5.73B", "0.3030%", "0.6030%", "0.8020%", "4"],
        ["books", "12,345", "1.00B", "12.1%2.40B", "0.4010%", "2.0010%", "3.7030%", "4, nearly reached"],
        ["sft", "12,345", "1.00B", "2.1%419M", "0.00–", "0.00–", "4.2020%", "4, exceeded"],
    ]
    assert words(found.xpath("//section[@id='packing']/p")[0]) == (
        "Whole documents are fitted together, and only those longer than a sample are cut. 0.4% of all positions is "
        "padding, and 1.20M tokens are left out."
    )
    assert words(found.xpath("//section[@id='advice']//li")[0]).startswith("a batch of 64")


def test_a_plan_of_ten_trillion_tokens_in_40_stages_of_30_pools_is_a_small_page() -> None:
    plan = large()
    assert 9.9e12 < plan["tokens"] < 10.1e12
    text = render_plan(plan)
    assert len(text) < 400_000
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)
    found = html.fromstring(text)
    assert [row[0] for row in rows(found, "pools")] == [pool["name"] for pool in plan["pools"]]
    assert [row[0] for row in rows(found, "stages")] == [
        f"{number} {stage['name']}" for number, stage in enumerate(plan["stages"], 1)
    ]
    legend = [words(one) for one in found.xpath("//p[@class='legend']/span")]
    assert legend == [*(f"pool/{index}" for index in range(30 - COLORS + 1, 30)), "23 others"]
    assert found.xpath("//svg[@class='wide']//text[@class='named']/text()") == [str(n) for n in range(1, 41)]


# --- The picture ----------------------------------------------------------------------------------------------------


def test_corners_of_the_rate_and_steps_of_the_batch_lie_where_their_tokens_do() -> None:
    plan = three()
    for width in WIDTHS:
        drawn = picture(plan, width)
        pixels = (width - LEFT - RIGHT) / plan["tokens"]
        lr, batch, length, mixture = drawn.panels
        assert [panel.title for panel in drawn.panels] == [
            "Learning rate",
            "Tokens a step",
            "Sequence length",
            "Mixture",
        ]
        assert [at for at, _ in points(lr.path)] == [round(LEFT + pixels * at, 1) for at, _ in plan["rates"]]
        heights = [lr.bottom - up for _, up in points(lr.path)]
        assert heights[0] == 0
        assert heights[1] == heights[2] > 0.9 * RATE
        assert abs(heights[3] - heights[1] / 10) < 0.2
        ends = [at for one in plan["segments"] for at in (one["first"], one["first"] + one["tokens"])]
        # The stable stage and the annealing have the same tokens a step: one level line.
        assert [at for at, _ in points(batch.path)] == [
            round(LEFT + pixels * at, 1) for at in (*ends[:7], plan["tokens"])
        ]
        ups = [batch.bottom - up for _, up in points(batch.path)]
        assert all(
            abs(up - ups[-1] * share) < 0.2 for up, share in zip(ups[::2], (1 / 8, 1 / 4, 1 / 2, 1), strict=True)
        )
        assert [tick.text for tick in length.ticks] == ["32,768", "4,096"]
        assert mixture.bottom == drawn.bottom < drawn.height


def test_the_mixture_fills_its_panel_without_gap_or_overlap() -> None:
    for plan in (three(), large(), large(1, COLORS), large(2, COLORS + 1)):
        drawn = picture(plan, WIDTHS[0])
        panel = drawn.panels[-1]
        for stage in drawn.stages:
            boxes = [box for box in panel.boxes if box.x == stage.x]
            assert boxes[0].y + boxes[0].height == panel.bottom
            assert abs(boxes[-1].y - panel.top) < 0.11
            assert all(abs(low.y - high.y - high.height) < 0.11 for low, high in pairwise(boxes))
            assert abs(sum(box.height for box in boxes) - MIXTURE) < 0.1 * len(boxes)
            assert {box.width for box in boxes} == {stage.width}
        assert abs(sum(stage.width for stage in drawn.stages) - (WIDTHS[0] - LEFT - RIGHT)) < 0.1 * len(drawn.stages)


def test_the_sequence_length_is_drawn_only_where_it_changes() -> None:
    plan = plan_of([("all", [(8, 128, 100), (16, 128, 100)], {"web": 1.0})])
    assert [panel.title for panel in picture(plan, WIDTHS[0]).panels] == ["Learning rate", "Tokens a step", "Mixture"]
    assert "1 stage\n" in plan_text(plan)
    assert "Sequence length" not in render_plan(plan)


def test_a_batch_says_what_it_is_made_of_where_it_has_room() -> None:
    batch = picture(three(), WIDTHS[0]).panels[1]
    assert [label.text for label in batch.labels] == ["512 × 4,096", "64 × 32,768"]
    assert all(label.y < batch.bottom and label.y - 10 > batch.top for label in batch.labels)


def test_a_name_that_would_stand_beyond_the_edge_is_moved_and_its_line_begins_below_it() -> None:
    plan = plan_of([("stable", [(8, 128, 990)], {"web": 1.0}), ("annealing", [(8, 128, 10)], {"web": 1.0})])
    first, second = picture(plan, WIDTHS[1]).names
    assert (first.text, second.text) == ("stable", "annealing")
    assert first.x == LEFT + 4 > first.line
    assert second.x < second.line
    assert second.top > second.y


@given(st.lists(st.tuples(st.text(max_size=40), st.integers(1, 10**12)), min_size=1, max_size=50))
def test_no_name_covers_another_or_crosses_a_line_that_leads_to_one(stages) -> None:
    plan = plan_of([(name, [(1, 1, steps)], {"web": 1.0}) for name, steps in stages])
    for width in WIDTHS:
        drawn = picture(plan, width)
        assert drawn.numbered or len(drawn.names) == len(stages)
        assert drawn.names[0].text
        for index, name in enumerate(drawn.names):
            assert LEFT <= name.x <= width
            assert name.y < drawn.panels[0].top
            for later in drawn.names[index + 1 :]:
                assert later.x > name.x or later.y != name.y
                end = name.x + 5 * len(name.text)  # of the narrowest letters
                if name.x < later.line < end and later.y <= name.y:
                    assert later.x >= end or later.top > name.y
    assert "<svg" in render_plan(plan)


def test_a_plan_without_rates_or_with_a_rate_of_zero_is_drawn() -> None:
    for rates in ([], [[0, 0.0], [10, 0.0]]):
        text = render_plan({**three(), "rates": rates})
        assert not re.search(r'="[^"]*\b(nan|inf)\b', text)


# --- Text -----------------------------------------------------------------------------------------------------------


def test_the_text_is_a_compact_table() -> None:
    assert plan_text(three()) == "\n".join(
        [
            "base: 19.8B tokens in 10,500 steps, 3 stages",
            "  stage      tokens  steps  sequences  length  tokens a step",
            "  warm         918M  1,500     64–256   4,096     262k–1.05M  wsd, 3e-4 (new rows only)",
            "  stable      16.8B  8,000        512   4,096          2.10M  wsd, 3e-4",
            "  annealing   2.10B  1,000         64  32,768          2.10M  wsd, 3e-4",
            "  pool    documents  tokens  share  epochs after warm  stable  annealing",
            "  web/en     12,345   1.00B  56.8%               0.60    1.20       1.50",
            "  web/zh     12,345  ~1.00B  28.9%               0.30    0.60       0.80",
            "  books      12,345   1.00B  12.1%               0.40    2.00       3.70  near the cap of 4",
            "  sft        12,345   1.00B   2.1%               0.00    0.00       4.20  over the cap of 4",
            "Packing: best-fit, 0.4% padding, 1.20M tokens lost",
            "GPT-3's batch of 3.2M is in tokens",
            "Note: a batch of 64 sequences is small for this size",
        ]
    )


def test_the_text_of_many_stages_has_the_last_epochs_alone() -> None:
    text = plan_text(large(9, 2)).splitlines()
    assert text[11].split() == ["pool", "documents", "tokens", "share", "epochs"]
    assert text[12].split()[-1] == "3.00"


def test_rates_epochs_and_shares_read_as_people_write_them() -> None:
    assert [rate(value) for value in (0, 3e-4, 2.5e-5, 0.01, 1e-5 / 3, 0.5)] == [
        "0",
        "3e-4",
        "2.5e-5",
        "1e-2",
        "3.33e-6",
        "0.5",
    ]
    assert [times(value) for value in (0, 0.001, 0.839, 4, 12.34)] == ["0.00", "<0.01", "0.84", "4.00", "12.3"]
    assert [portion(value) for value in (0, 0.6, 0.125, 1, 1e-6)] == ["–", "60%", "12.5%", "100%", "<0.01%"]
