"""The page of a report in a real browser without a network: what it draws, and what it is asked."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from report_tables import HOSTILE, by_class, probes

from featstore.probe.errors import visible
from featstore.probe.results.files import save_table
from featstore.report.page import write

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")


@pytest.fixture(scope="module")
def chromium():
    """A headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def usual(folder):
    """A page of two curves, with CKA and classes."""
    table = probes(modes=("random", "first"), cka=0.25)
    return _written(folder, "usual", table, by_class(table, ["cat", "dog", "eel"]))


@pytest.fixture(scope="module")
def hostile(folder):
    """A page whose every name is hostile."""
    table = probes(modes=HOSTILE, seeds=(1, 2), tap=HOSTILE[2])
    return _written(folder, "hostile", table, by_class(table, HOSTILE), title=HOSTILE[0])


def _written(folder: Path, name: str, table, per_class=None, **options) -> Path:
    save_table(table, folder / f"{name}.csv")
    files = [folder / f"{name}-classes.csv"] if per_class is not None else []
    for file in files:
        save_table(per_class, file)
    return write([folder / f"{name}.csv"], folder / f"{name}.html", per_class=files, **options)


@pytest.fixture
def opened(chromium):
    """A function that opens a page, and afterwards holds it to no error and no request."""
    contexts, wrong = [], []

    def open_page(path: Path, **options):
        context = chromium.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: _note_request(request, path, wrong))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn=yes]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def _note_request(request, path: Path, wrong: list[str]) -> None:
    if request.url != path.as_uri() and not request.url.startswith("data:"):
        wrong.append(f"request: {request.url[:200]}")


def until(page, expression: str) -> None:
    """Wait until an expression is true; the page's policy lets no waiting function in."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never true: {expression}")


def lines(page, figure: str) -> int:
    """Return how many lines a figure has, dashed rules and bands included."""
    return page.locator(f"#{figure} .scatterlayer .trace").count()


def point_at(page, number: int) -> None:
    """Move the mouse to one of the points of the figure of accuracy."""
    point = page.locator("#accuracy .scatterlayer .trace .point").nth(number)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#accuracy .hoverlayer .hovertext")


def cells(page, table: str, column: str) -> list[str]:
    """The texts of a column, top to bottom."""
    heads = page.locator(f"#table-{table} th").all_inner_texts()
    place = heads.index(column) + 1
    return page.locator(f"#table-{table} tbody td:nth-child({place})").all_inner_texts()


def test_it_draws_every_figure_and_table(opened, usual):
    page = opened(usual)
    for figure in ("accuracy", "redundancy", "cka", "classes"):
        assert lines(page, figure) >= 2, figure
    for table in ("summary", "redundancy", "losses", "inequality", "probes"):
        assert page.locator(f"#table-{table} tbody tr").count() > 0, table
    assert page.title() == "resnet"


def test_a_click_in_the_legend_hides_a_line_and_another_brings_it_back(opened, usual):
    page = opened(usual)
    before = lines(page, "accuracy")
    entry = page.locator("#accuracy .legend button", has_text="random")
    entry.click()
    assert lines(page, "accuracy") == before - 2  # the line and its band
    assert entry.get_attribute("aria-pressed") == "false"
    entry.press("Enter")  # it kept the focus
    assert lines(page, "accuracy") == before
    assert entry.get_attribute("aria-pressed") == "true"


def test_bands_are_drawn_of_few_curves(opened, folder):
    modes = ("random", "first", "last", "pca", "fisher", "variance", "greedy")
    page = opened(_written(folder, "several", probes(modes=modes)))
    page.locator("#accuracy button[data-value=no]").click()
    bands = "#accuracy .scatterlayer .trace .js-fill[d]"
    points = "#accuracy .scatterlayer .trace .points:not(:empty)"
    assert page.locator(points).count() == len(modes)
    assert page.locator(bands).count() == 0
    assert "6 curves or fewer" in page.locator("#accuracy").inner_text()
    page.locator("#accuracy .legend button", has_text="greedy").click()
    assert page.locator(points).count() == len(modes) - 1
    assert page.locator(bands).count() == len(modes) - 1
    assert "6 curves or fewer" not in page.locator("#accuracy").inner_text()


def test_pointing_at_a_line_tells_mean_spread_count_and_k(opened, usual):
    page = opened(usual)
    point_at(page, 2)
    text = page.locator("#accuracy .hoverlayer").text_content()
    for words in (
        "10 % of the features, k = 100",
        "test accuracy",
        " to ",
        "full layer's",
        "5 seeds",
    ):
        assert words in text


def test_tables_sort_numbers_by_their_values_by_mouse_and_keyboard(opened, usual):
    page = opened(usual)
    head = page.locator("#table-summary th button").get_by_text("k", exact=True)
    head.click()
    falling = [int(text.replace(",", "")) for text in cells(page, "summary", "k")]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == 1000
    sorted_head = page.locator("#table-summary th[aria-sort=descending]")
    assert sorted_head.inner_text() == "k"
    head.press("Enter")
    rising = [int(text.replace(",", "")) for text in cells(page, "summary", "k")]
    assert rising == falling[::-1]
    assert page.locator("#table-summary th[aria-sort=ascending]").inner_text() == "k"
    assert page.locator("#table-summary th[aria-sort=descending]").count() == 0


def test_the_switches_change_the_axes(opened, usual):
    page = opened(usual)
    layout = "document.querySelector('#accuracy .plot')._fullLayout"
    assert page.evaluate(f"{layout}.xaxis.type") == "log"
    page.locator("#accuracy button", has_text="Linear").click()
    assert page.evaluate(f"{layout}.xaxis.type") == "linear"
    top = page.evaluate(f"{layout}.yaxis.range[1]")
    page.locator("#accuracy button", has_text="Of the full layer").click()
    assert page.evaluate(f"{layout}.yaxis.title.text") == "of the full layer's (%)"
    assert page.evaluate(f"{layout}.yaxis.range[1]") > top


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_then_the_button(opened, usual, scheme):
    page = opened(usual, color_scheme=scheme)
    text = "getComputedStyle(document.querySelector('#accuracy .xtick text')).fill"
    ground = "getComputedStyle(document.body).backgroundColor"
    ours, labels = page.evaluate(ground), page.evaluate(text)
    page.click("#theme")
    until(page, f"{text} !== '{labels}'")
    assert page.evaluate(ground) != ours
    assert (page.evaluate(ground) == "rgb(255, 255, 255)") == (scheme == "dark")


def test_paper_is_light_and_has_whole_tables(opened, folder):
    page = opened(_written(folder, "paper", probes(seeds=range(20))), color_scheme="dark")
    assert page.locator("#table-probes tbody tr").count() == 50
    text = "getComputedStyle(document.querySelector('#accuracy .xtick text')).fill"
    on_screen = page.evaluate(text)
    page.emulate_media(media="print")
    until(page, f"{text} !== '{on_screen}'")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#theme").is_visible()
    assert page.locator("#table-probes tbody tr").count() == 100


def test_a_phone_needs_no_sideways_scroll(opened, usual, hostile):
    for path in (usual, hostile):
        page = opened(path, viewport={"width": 360, "height": 700}, has_touch=True)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for plot in page.locator(".plot").all():
            assert plot.bounding_box()["width"] <= 360


def test_hostile_names_are_shown_and_do_nothing(opened, hostile):
    page = opened(hostile)
    assert page.evaluate("window.attacked") is None
    assert page.locator("img, main b, main a").count() == 0
    legend = page.locator("#accuracy .legend").inner_text()
    assert all(visible(name) in legend for name in HOSTILE)
    # in plotly's own texts as well, which know some tags
    for entry in (0, 1, 3):
        page.locator("#accuracy .legend button").nth(entry).click()
    point_at(page, 2)
    hover = page.locator("#accuracy .hoverlayer")
    assert HOSTILE[2] in hover.text_content()
    assert hover.locator("a").count() == 0
    assert page.evaluate("window.attacked") is None


def test_ten_thousand_rows_are_paged_and_sorted_whole(opened, folder):
    sizes = [k / 250 for k in range(1, 251)]
    table = probes(modes=tuple("abcdefgh"), fractions=sizes, features=250)
    assert len(table) == 10_000
    page = opened(_written(folder, "large", table))
    assert page.locator("#table-probes tbody tr").count() == 50
    assert "rows 1 to 50 of 10,000" in page.locator("#table-probes output").inner_text()
    page.locator("#table-probes th button").get_by_text("accuracy", exact=True).click()
    shown = [float(text) for text in cells(page, "probes", "accuracy")]
    assert shown[0] == round(table["accuracy"].max(), 3)
    assert shown == sorted(shown, reverse=True)
    page.locator("#table-probes button", has_text="Next").click()
    assert float(cells(page, "probes", "accuracy")[0]) <= shown[-1]
    page.locator("#table-probes button", has_text="Back").click()
    assert [float(text) for text in cells(page, "probes", "accuracy")] == shown


def test_curves_with_nothing_known_leave_a_page_that_opens(opened, folder):
    table = probes(seeds=(1,), fractions=(0.1,)).assign(accuracy=float("nan"), status="singular")
    page = opened(_written(folder, "empty", table))
    assert "No probe of these results has a score." in page.locator("header").inner_text()
    assert "singular" in page.locator(".warnings").inner_text()


def test_many_curves_have_a_panel_each_until_they_are_put_together(opened, folder):
    table = probes(modes=[f"mode {n}" for n in range(9)], seeds=(1, 2))
    page = opened(_written(folder, "many", table), viewport={"width": 390, "height": 800})
    assert page.locator("#accuracy .plot .subplot").count() == 9
    assert page.locator("#accuracy .annotation-text").all_text_contents() == [
        f"mode {n}" for n in range(9)
    ]
    # five points of its own in each panel, inside of it
    within = """() => [...document.querySelectorAll("#accuracy .plot .subplot")].every((panel) => {
        const room = panel.getBoundingClientRect();
        const points = [...panel.querySelectorAll(".scatterlayer .trace .point")];
        return points.length === 5 && points.every((point) => {
            const box = point.getBoundingClientRect();
            return box.top >= room.top && box.bottom <= room.bottom;
        });
    })"""
    assert page.evaluate(within)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#accuracy button[data-value=no]").click()
    until(page, "document.querySelectorAll('#accuracy .plot .subplot').length === 1")
    assert lines(page, "accuracy") >= 9
