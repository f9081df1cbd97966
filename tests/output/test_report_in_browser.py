"""The page in a real browser, from the disk. It needs Playwright's package, and Chromium: `apt install chromium`."""

import json
import shutil

import pytest
from output.explained_run import HOSTILE, write_run

from whycluster.output.report import write_report

api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NAMES = [*HOSTILE, *(f"photos/{'dog' if number % 2 else 'cat'}_{number:03d}.jpg" for number in range(180))]


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of the browsers {', '.join(BROWSERS)} is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Addresses of a page with hostile names, a flagged cluster, and several pages of images."""
    folder, found = tmp_path_factory.mktemp("a run"), {}
    for form, largest in {"one file": 25_000_000, "folder": 1000}.items():
        run = write_run(folder / f"#1 100% {form}", NAMES, flagged=True)
        write_report(run, largest)
        found[form] = (run / "report.html").as_uri()
    return found


@pytest.fixture
def opened_page(browser):
    """Opens a page, on a screen of some width; when done, there was no error, and nothing but files was asked for."""
    contexts, faults = [], []

    def open_page(address, width=1280, colours="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours))
        page = contexts[-1].new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"dialog {dialog.message}"))
        page.on(
            "request", lambda asked: faults.append(asked.url) if not asked.url.startswith(("file:", "data:")) else 0
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def opened(opened_page, reports):
    """Opens a view of the page of `reports`."""
    return lambda fragment="", *screen, form="one file": opened_page(reports[form] + fragment, *screen)


@pytest.fixture
def opened_run(opened_page, tmp_path):
    """Opens a view of the page of a run that is made up for it, after some change to it."""

    def open_run(fragment, names, change=lambda folder: None, **settings):
        run = write_run(tmp_path / "run", names, **settings)
        change(run)
        write_report(run)
        return opened_page((run / "report.html").as_uri() + fragment)

    return open_run


def width_of(canvas, pixels):
    """Waits until something so wide is drawn."""
    api.expect(canvas).to_have_js_property("width", pixels)


def heading(page):
    return page.locator("h1").inner_text()


def names(page):
    return page.locator("#gallery .tile .name").all_inner_texts()


VIEWS = (
    "",
    "#cluster=1",
    "#cluster=0&rival=2&only=weak",
    "#cluster=0&image=5",
    "#image=70",
    "#view=distances",
    "#view=help",
    "#q=dog",
)


@pytest.mark.parametrize("fragment", VIEWS)
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_view_is_accessible_and_fits_a_phone(opened, fragment, colours):
    page = opened(fragment, 360, colours)
    for summary in page.locator("summary").all():
        summary.click()
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("form", ["one file", "folder"])
def test_pictures_are_drawn_when_they_are_near(opened, form):
    page = opened("#cluster=0", form=form)
    width_of(page.locator(".tile canvas.photo").first, 48)
    width_of(page.locator(".concept canvas.heat").first, 16)
    last = page.locator("#gallery .tile canvas.photo").last
    assert last.evaluate("(canvas) => canvas.width") == 300  # as HTML makes it: nothing was drawn
    last.scroll_into_view_if_needed()
    width_of(last, 48)
    assert page.locator(".gone").count() == 0


def test_the_slider_lays_the_heatmap_over_the_photo(opened):
    page = opened("#cluster=0")
    heat = page.locator(".tile .heat").first
    page.locator(".opacity").first.fill("0.25")
    assert float(heat.evaluate("(canvas) => getComputedStyle(canvas).opacity")) == pytest.approx(0.25)
    page.locator(".opacity").first.fill("0")
    assert float(heat.evaluate("(canvas) => getComputedStyle(canvas).opacity")) == 0


def test_from_the_overview_to_an_image_and_back_by_keys(opened):
    page = opened()
    assert page.locator(".card").count() == 3
    assert page.locator(".badge.flag").count() == 1
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert heading(page) == "Cluster 1"
    assert page.locator(".warning").inner_text().count("12 of 15 images leave this cluster") == 1
    shortcut = page.locator(".shortcut")
    assert shortcut.inner_text().count("when the <border> is filled in") == 1
    assert "'features.drop=[20,11]'" in shortcut.inner_text()
    assert shortcut.locator(".tile").count() == 8
    assert shortcut.locator("li", has_text="AUC").is_hidden()
    shortcut.locator("summary").click()
    assert shortcut.locator("li", has_text="AUC").is_visible()
    page.keyboard.press("ArrowRight")
    assert heading(page) == "Cluster 2"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert heading(page) == "Cluster 0"
    page.locator("#gallery .tile").nth(1).click()
    first = heading(page)
    assert first.startswith("photos/")
    page.keyboard.press("ArrowRight")
    assert heading(page) != first
    page.keyboard.press("ArrowLeft")
    assert heading(page) == first
    page.keyboard.press("Escape")
    assert heading(page) == "Cluster 0"
    page.keyboard.press("Escape")
    assert heading(page) == "What the clusters are about"
    page.go_back()
    assert heading(page) == "Cluster 0"
    page.go_back()
    assert heading(page) == first


def test_what_to_look_at_first_leads_to_the_cluster_and_to_the_list(opened_run):
    def mixed(run):
        table = (run / "assignments.csv").read_text().splitlines(keepends=True)
        table[10] = table[10].replace('"kind 0"', '"<b>alone</b>"')  # image 9
        (run / "assignments.csv").write_text("".join(table))

    page = opened_run("", [f"{number:02d}.jpg" for number in range(60)], mixed, flagged=True)
    assert [line.inner_text().split(" ")[:3] for line in page.locator(".first li").all()] == [
        ["Cluster", "1", "may"],
        ["Cluster", "1", "is"],
        ["1", "image", "has"],
    ]
    page.get_by_role("link", name="1 image", exact=True).first.click()
    assert page.evaluate("location.hash") == "#part=labels"
    assert page.evaluate("document.activeElement.id") == "labels"
    listed = page.locator("#labels + p + .tiles .tile")
    assert listed.all_inner_texts() == ["09.jpg\nin cluster 0: “<b>alone</b>”, 1 of 20"]
    page.locator(".first a").first.click()
    assert heading(page) == "Cluster 1"


def test_all_images_of_another_label_than_most_can_be_shown(opened_run):
    def mixed(run):
        table = (run / "assignments.csv").read_text().splitlines(keepends=True)
        for line in range(1, 34, 3):  # 11 images of cluster 0
            table[line] = table[line].replace('"kind 0"', '"another"')
        table[34] = table[34].replace('"kind 0"', '""')
        (run / "assignments.csv").write_text("".join(table))

    page = opened_run("#cluster=0", [f"{number:03d}.jpg" for number in range(90)], mixed)
    page.get_by_role("link", name="all of them").click()
    assert page.evaluate("location.hash") == "#cluster=0&only=unlike"
    assert sorted(names(page)) == [f"{number:03d}.jpg" for number in range(0, 33, 3)]
    assert page.locator("select.only").evaluate("(field) => field.selectedOptions[0].text") == "other label than most"
    page.evaluate("location.hash = '#cluster=1&only=unlike'")
    api.expect(page.locator("h1")).to_have_text("Cluster 1")
    assert names(page) == []


def test_a_link_leads_below_the_bars_to_the_section_that_it_speaks_of(opened):
    def top_of(section):
        return page.evaluate(f"document.querySelector('{section} h2').getBoundingClientRect().top")

    page = opened()
    page.get_by_role("link", name="1 image", exact=True).click()
    assert page.evaluate("location.hash") == "#cluster=0&part=outliers"
    bars = page.evaluate("document.querySelector('.sticky').getBoundingClientRect().bottom")
    assert bars < top_of("#outliers") < 400
    assert "unusualness 4.5: concept" in page.locator("#outliers .tile").first.inner_text()
    page = opened("#cluster=0&rival=2&part=contrast")
    assert bars < top_of("#contrast") < 400
    page.locator("select.sort").select_option("name")
    assert page.evaluate("location.hash") == "#cluster=0&rival=2&sort=name"


def test_the_next_images_are_shown_and_not_the_section_that_one_came_for(opened):
    page = opened("#cluster=0&part=outliers")
    page.get_by_role("link", name="next →").click()
    assert page.evaluate("location.hash") == "#cluster=0&page=2"
    assert 0 < page.evaluate("document.querySelector('#gallery h2').getBoundingClientRect().top") < 400


def test_a_region_of_a_concept_leads_to_its_image(opened):
    page = opened("#cluster=1")
    region = page.locator(".concept .crops a").first
    name = NAMES[1]
    assert region.get_attribute("aria-label").startswith(f"region of {name} where concept 11 is strongest")
    region.click()
    assert heading(page) == name


def test_an_image_has_concepts_of_its_own_beside_those_of_its_cluster(opened_run):
    names = [f"{number:02d}.jpg" for number in range(12)]
    page = opened_run("#image=3", names)  # 00.jpg, the least sure of its cluster
    assert heading(page) == "00.jpg"
    image, cluster = page.locator(".two > div").all()
    assert "These 3 concepts are 100% of what speaks for cluster 0 here." in image.inner_text()
    assert "These 2 concepts are 80% of what speaks for cluster 0; the rest is in others." in cluster.inner_text()
    assert image.locator("h4").all_text_contents() == ["concept 20 60.0%", "concept 10 10.0%"]
    assert "No examples of concept 77 (30.0%)" in image.inner_text()
    assert cluster.locator("h4").all_text_contents() == ["concept 10 60.0%", "concept 20 20.0%"]
    page.get_by_role("link", name="What sets cluster 0 apart from cluster 1").click()
    assert page.evaluate("location.hash") == "#cluster=0&rival=1&part=contrast"


def test_the_page_says_of_which_model_it_is(opened_run):
    metrics = {"backbone": "<b>resnet</b>", "n_clusters": 7, "composite": "epsilon_plus"}
    page = opened_run("", NAMES[-6:], lambda run: (run / "metrics.json").write_text(json.dumps(metrics)))
    assert "7 clusters of the network <b>resnet</b>" in page.locator("footer").inner_text()
    assert "6 images in 3 clusters of the model's 7 (" in page.locator("main").inner_text()


def test_a_page_without_the_concepts_of_images(opened_run):
    page = opened_run("#image=0", NAMES[-6:], lambda run: (run / "concepts.npy").unlink())
    assert page.locator(".two > div").count() == 1
    assert "Cluster 0, all 2 images of this run" in page.locator("main").inner_text()


@pytest.mark.parametrize("fragment", VIEWS)
def test_one_word_is_used_and_one_bar_for_heatmaps(opened, fragment):
    page = opened(fragment)
    said = page.locator("body").inner_text()
    assert "group" not in said.lower()
    assert "undefined" not in said
    assert "NaN" not in said
    assert page.locator(".opacity").count() <= 1


def test_a_wide_table_says_that_it_scrolls(opened_run):
    names = [f"{number:03d}.jpg" for number in range(60)]
    page = opened_run("#view=distances", names, n_clusters=20)
    api.expect(page.locator(".sideways").first).to_be_hidden()
    page.set_viewport_size({"width": 360, "height": 900})
    api.expect(page.locator(".sideways").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_all_pictures_are_drawn_before_printing(opened):
    page = opened("#cluster=0")
    last = page.locator("#gallery .tile canvas.photo").last
    assert last.evaluate("(canvas) => canvas.width") == 300
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    width_of(last, 48)


def test_search_and_filters_are_in_the_address(opened):
    page = opened()
    page.keyboard.press("/")
    page.keyboard.type("DOG_01")
    assert page.evaluate("location.hash") == "#q=DOG_01"
    assert sorted(page.locator(".tile .name").all_inner_texts()) == [f"dog_{n:03d}.jpg" for n in range(11, 20, 2)]
    page.keyboard.press("Escape")
    page.locator(".tile").first.click()
    page.keyboard.press("Escape")
    assert page.evaluate("location.hash") == "#q=DOG_01"
    page = opened("#cluster=0&q=dog&sort=name")
    assert names(page) == sorted(names(page))
    assert all(name.startswith("dog") for name in names(page))
    page.locator("select.only").select_option("weak")
    assert "only=weak" in page.evaluate("location.hash")
    weak = {f"dog_{n - len(HOSTILE):03d}.jpg" for n in range(len(HOSTILE), len(NAMES)) if n % 5 == 4 and n % 3 == 0}
    assert set(names(page)) == {name for name in weak if int(name[4:7]) % 2}
    page.go_back()
    assert len(names(page)) > len(weak)
    field = page.locator("input.filter")
    field.fill("no such name")
    assert names(page) == []
    assert field.evaluate("(field) => field === document.activeElement")


def test_a_gallery_has_pages(opened):
    page = opened("#cluster=0")
    first = names(page)
    assert len(first) == 48
    page.get_by_role("link", name="next →").click()
    assert len(names(page)) == 64 - 48
    assert not set(first) & set(names(page))
    page.locator("#gallery .tile").first.click()
    page.keyboard.press("Escape")
    assert "page=2" in page.evaluate("location.hash")


def test_a_rival_is_chosen_and_what_decides_is_shown(opened):
    page = opened("#cluster=0")
    page.evaluate("scrollTo(0, 700)")
    page.locator("select.rivals").select_option("2")
    assert page.evaluate("location.hash") == "#cluster=0&rival=2"
    assert page.evaluate("scrollY") > 300
    part = page.locator("#contrast").inner_text()
    assert "What decides for 0 and against 2" in part
    assert "0 of the 64 images here have cluster 2 as their second choice, and 63 of 63 the other way round" in part
    assert "as seen in" not in part.split("What decides for 2")[0]
    assert part.count("No examples of concept 77 (10.0%)") == 2
    assert page.locator("#contrast .concept").count() == 2


def test_what_decides_is_shown_where_it_is_no_concept_of_a_cluster(opened_run):
    def with_examples(run):
        clusters = json.loads((run / "clusters.json").read_text())
        clusters[0]["examples"] = [{"channel": 77, "regions": clusters[0]["concepts"][0]["regions"]}]
        (run / "clusters.json").write_text(json.dumps(clusters))
        own = run / "concepts" / "cluster_0"
        shutil.copy(own / "channel_20.npy", own / "channel_77.npy")

    page = opened_run("#cluster=0&rival=2", NAMES[-12:], with_examples)
    ours, theirs = page.locator("#contrast .concepts").all()
    assert ours.locator("h4").all_text_contents() == ["concept 10 40.0%", "concept 77 10.0%"]
    assert "as seen in" not in ours.inner_text()
    assert "as seen in cluster 0" in theirs.inner_text()
    width_of(ours.locator("canvas").last, 16)
    assert "concept 77" not in page.locator("main").inner_text().split("What decides for")[0]


def test_rival_order_and_filter_do_not_undo_each_other(opened):
    page = opened("#cluster=0")
    page.locator("select.only").select_option("weak")
    weak = names(page)
    page.locator("select.rivals").select_option("2")
    assert page.evaluate("location.hash") == "#cluster=0&rival=2&only=weak"
    assert names(page) == weak
    page.locator("select.sort").select_option("name")
    assert page.evaluate("location.hash") == "#cluster=0&rival=2&sort=name&only=weak"
    assert sorted(names(page)) == sorted(weak)
    page.locator("input.filter").fill("dog")
    page.locator("select.only").select_option("rival")
    assert page.evaluate("location.hash") == "#cluster=0&rival=2&q=dog&sort=name&only=rival"
    assert names(page) == []  # of no image of cluster 0
    page.locator("input.filter").fill("")
    page.locator("select.rivals").select_option("1")
    assert len(names(page)) == 48  # of all
    assert page.locator("select.only").evaluate("(field) => field.selectedOptions[0].text") == "second choice is 1"


@pytest.mark.parametrize(
    ("targets", "anywhere", "beside_an_image"),
    [
        (
            ("assigned",),
            "the image's cluster rather than others, above all its second choice",
            "cluster 2 rather than others, above all 0",
        ),
        (("runner_up",), "the second choice of the image", "cluster 0, the second choice"),
        (("2:0", "2:1"), "cluster 2 rather than another", "cluster 2 rather than 0"),
        (("0", "1", "2"), "the image's cluster rather than others", "cluster 2"),
    ],
)
def test_the_page_says_what_its_heatmaps_explain(opened_run, targets, anywhere, beside_an_image):
    page = opened_run("", names=NAMES[-6:], targets=targets)
    told = page.get_by_text(f"The heatmaps of this run explain {anywhere}.", exact=True)
    assert told.count() == (1 if targets == ("runner_up",) else 0)
    page.evaluate("location.hash = '#cluster=2'")
    assert f"Red speaks for {anywhere}, blue against." in page.locator(".legend").first.inner_text()
    page.locator("#gallery .tile").first.click()
    assert f"Red speaks for {beside_an_image}, blue against." in page.locator(".legend").inner_text()
    explained = page.get_by_text(f"The heatmap of this run explains {beside_an_image}.", exact=True)
    assert explained.count() == (0 if targets[0] in ("assigned", "0") else 1)


def test_how_images_moved_from_another_run(opened_run):
    moves = {
        "run": "<b>before</b>",
        "images": 6,
        "before": [0, 1],
        "after": [0, 1, 2],
        "counts": [[2, 1, 0], [0, 1, 2]],
    }

    def compared(run):
        (run / "moves.json").write_text(json.dumps({**moves, "same": {"0": 0, "1": 2}, "moved": 2, "ari": 0.25}))

    page = opened_run("", NAMES[-6:], compared)
    said = page.locator("main").inner_text()
    assert "Of 6 images that <b>before</b> has, too, 2 moved to another cluster (adjusted Rand index 0.25" in said
    none = "\u2013"
    rows = [row.inner_text().split() for row in page.locator("tbody tr").all()]
    assert rows == [["formerly", "0", "2", "1", none], ["formerly", "1", none, "1", "2"]]
    assert axe.Axe().run(page).response["violations"] == []


def test_names_are_found_as_they_are_shown_and_however_accents_are_written(opened_run):
    decomposed, hidden = "cafe\u0301.jpg", "a\u202egpj.exe"  # as macOS writes it, and with a sign that is shown escaped
    page = opened_run("#q=CAF%C3%89", names=[decomposed, hidden, "other.jpg"])
    assert page.locator(".tile .name").all_inner_texts() == [decomposed]
    for typed in ("\\u202eg", "\u202eg"):
        page.locator("#search").fill(typed)
        assert page.locator(".tile .name").all_inner_texts() == ["a\\u202egpj.exe"]


def test_escape_leaves_a_search_field_as_it_is(opened):
    page = opened("#cluster=0")
    page.locator("input.filter").fill("dog_01")
    found = names(page)
    page.keyboard.press("Escape")
    assert page.locator("input.filter").input_value() == "dog_01"
    assert names(page) == found
    assert page.evaluate("location.hash") == "#cluster=0&q=dog_01"


def test_what_a_screen_reader_says(opened):
    page = opened("#cluster=0")
    assert page.locator(".concept h3").first.evaluate("(heading) => heading.textContent").startswith("concept 10 60.0%")
    assert page.locator("#contrast .concept h4").count() == 2  # and two concepts without examples, in a line
    assert page.locator("#contrast h3").count() == 2
    page.evaluate("document.getElementById('status').marked = true")
    page.locator("input.filter").fill("dog_01")
    assert page.locator("[role=status]").inner_text() == page.locator("#gallery .count").inner_text()
    assert page.evaluate("document.getElementById('status').marked")  # the element stays, and so its changes are read
    link = page.locator("#gallery .tile").first
    assert link.locator("[role=img]").count() == 0
    assert link.get_attribute("title") is None
    link.click()
    assert page.evaluate("document.activeElement === document.querySelector('h1')")


def test_a_second_choice_without_images_is_not_a_link(opened_run):
    def without_cluster_1(run):
        for name in ("assignments.csv", "receipts.csv"):
            table = (run / name).read_text().splitlines(keepends=True)
            (run / name).write_text("".join(line for line in table if "a/1" not in line))
        clusters = json.loads((run / "clusters.json").read_text())
        (run / "clusters.json").write_text(json.dumps([one for one in clusters if one["cluster"] != 1]))

    page = opened_run("#image=0", names=["a/0", "a/1", "a/2"], change=without_cluster_1)
    first = page.locator("main p").first
    assert first.inner_text() == "In cluster 0, second choice cluster 1."
    assert first.locator("a").all_inner_texts() == ["cluster 0"]


def test_back_returns_to_where_one_was_after_the_skip_link_and_a_link_in_a_new_tab(opened):
    page = opened("#cluster=0")
    page.evaluate("scrollTo(0, 600)")
    page.evaluate("location.hash = 'view=distances'")
    page.wait_for_function("document.querySelector('h1').textContent.startsWith('How far')")
    with page.context.expect_page():
        page.locator("main a").first.click(modifiers=["Control"])
    page.locator("#skip").dispatch_event("click")
    page.go_back()
    page.wait_for_function("document.querySelector('h1').textContent === 'Cluster 0'")
    assert page.evaluate("scrollY") > 500


def test_of_many_images_the_page_says_how_many_it_shows(opened_page, tmp_path):
    run = write_run(tmp_path / "run", NAMES)
    write_report(run, most_images=60)
    for fragment in ("", "#q=dog", "#cluster=0"):
        page = opened_page((run / "report.html").as_uri() + fragment)
        assert f"The page shows 60 of {len(NAMES)} images." in page.locator("main").inner_text()


def test_hostile_names_are_shown_and_do_nothing(opened):
    page = opened("#cluster=0")
    rows = page.evaluate("JSON.parse(document.getElementById('data').textContent).images.path")
    for name in HOSTILE:
        page.evaluate(f"location.hash = 'image={rows.index(name)}'")
        width_of(page.locator("figure canvas.photo"), 240)  # out of the file of this name
    page.evaluate("location.hash = 'q=gpj'")
    api.expect(page.locator("main .count")).to_have_text("1 image.")
    assert page.locator(".tile .name").all_inner_texts() == ["a\\u202egpj.exe"]
    page.evaluate("location.hash = 'q=lines'")
    assert page.locator(".tile .name").first.inner_text() == "two\\u000alines.jpg"
    assert page.title() != "taken"
    assert page.locator("main img, main script").count() == 0


@pytest.mark.parametrize(
    "fragment", ["#cluster=99", "#image=-1", "#image=9999999999", "#sort=x&page=0", "#%ff=%00", "#q="]
)
def test_an_address_that_means_nothing_is_the_overview(opened, fragment):
    assert heading(opened(fragment)) == "What the clusters are about"


def test_a_page_without_the_other_files_of_its_run(browser, tmp_path):
    run = write_run(tmp_path / "run", NAMES[-6:])
    write_report(run)
    alone = tmp_path / "mailed.html"
    shutil.copy(run / "report.html", alone)
    page = browser.new_page()
    page.goto(alone.as_uri() + "#image=0")
    api.expect(page.locator("figure")).to_have_count(1)
    width_of(page.locator("figure canvas.photo"), 48)
    assert page.locator(".gone").count() == 0
    page.close()
