"""The page says what was measured, shows what the target saw, and needs nothing but itself."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from physadv.attacks import Settings, attack
from physadv.errors import UserError
from physadv.evaluation import Evaluation, evaluate
from physadv.files import image_tensor, to_pil, write_json
from physadv.report import compare_reports, write_report
from physadv.report.charts import HEIGHT, LEFT, RIGHT, WIDTH, curves, dots, heat_map, shade
from physadv.report.headline import Subject, headline, remarks
from physadv.report.pictures import first_views, pieces
from physadv.report.words import percent
from physadv.scenes import load_scenes
from physadv.scenes.classes import GTSRB
from physadv.stats import wilson
from physadv.targets.fake import fake_classifier
from physadv.threats import Artwork, parse_threat, resolve_threat
from physadv.transforms.world import load_world

DOCS = Path(__file__).parent.parent / "docs" / "metrics.md"
SECTIONS = [
    "The artwork",
    "What the target saw",
    "Success beside its controls and in other worlds",
    "Where it works",
    "How the search went",
    "What was run, and how to run it again",
]
PLACE = torch.tensor([[200.0, 200.0, 400.0, 400.0]])
VOID = {"meta", "link", "img", "br", "line", "polyline", "circle"}


class Page(HTMLParser):
    """Every element in order, its attributes and its text; unbalanced tags are an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.open and data.strip():
            self.words.append((self.open[-1], " ".join(data.split())))

    def text(self, tag: str) -> list[str]:
        return [words for inside, words in self.words if inside == tag]

    def having(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]


def stop_reader():
    """A fake that reads stop signs as such: `stop` takes the row of the answer it gives them."""
    names = list(GTSRB)
    here, there = names.index("stop"), names.index("speed-limit-80")
    names[here], names[there] = names[there], names[here]
    return fake_classifier(classes=tuple(names))


def run_of(evaluation: Evaluation, **changes) -> dict:
    held_out = evaluation.verdict.held_out
    return {
        "command": "physadv attack --target fake --scenes staged:stop",
        "config": {"steps": 3, "step_size": None, "tv": 0.5},
        "target": {"name": "fake", "weights_hash": held_out.target.weights_hash},
        "scenes": {"spec": "staged:stop", "n": len(held_out.scenes), "groups": 1, "classes": ["stop"]},
        "threat": "stickers:two-bars",
        "world": evaluation.metrics["world"],
        "seed": 0,
        "seconds": 1.5,
        "versions": {"physadv": "0.1.0"},
        "goal": "untargeted",
        "covered_share": 0.2,
    } | changes


def judged(target, *, views: int):
    scenes, world = load_scenes("staged:stop"), load_world("drive-by")
    threat = resolve_threat(parse_threat("stickers"), scenes, seed=0)
    how = Settings(steps=3, batch=2, views=1, check_every=2, held_out=4)
    found = attack(target, scenes, threat, world=world, settings=how, seed=0)
    options = {"world": world, "goal": "untargeted", "views": views, "seed": 0, "worlds": ["night"]}
    return evaluate(target, scenes, found.artwork, **options), found


@pytest.fixture(scope="module")
def result():
    return judged(stop_reader(), views=20)


@pytest.fixture(scope="module")
def html(result, tmp_path_factory) -> str:
    evaluation, found = result
    path = tmp_path_factory.mktemp("report") / "report.html"
    run = run_of(evaluation)
    write_report(
        path, title="A <b>title</b>", evaluation=evaluation, artwork=found.artwork, history=found.history, run=run
    )
    return path.read_text()


def rate(k: int, n: int) -> dict:
    return wilson(k, n).to_json() | {"unconditional": wilson(k, n).to_json()}


def figures(k: int, n: int, *, grey: int = 2, random: int = 5, promise: int = 71) -> dict:
    return {
        "accuracy": rate(n, 100),
        "attacked": rate(k, n),
        "controls": {"grey": rate(min(grey, n), n), "random": rate(min(random, n), n)},
        "promise": rate(min(promise, n), n),
        "worlds": {},
        "world": {"name": "drive-by", "hash": "0"},
    }


def says(metrics: dict, **changes) -> str:
    return headline(
        metrics, Subject(**{"target": "T", "classes": ["stop"], "threat": "stickers", "goal": "untargeted"} | changes)
    )


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_the_page_needs_nothing_but_itself(html):
    page = Page(html)
    links = page.having("src") + page.having("href") + re.findall(r"url\(([^)]*)\)", html)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "http" not in html
    assert "@import" not in html
    assert not any(tag in ("script", "iframe", "object") for tag, _ in page.elements)


def test_sections_stand_in_order(html):
    assert Page(html).text("h2") == SECTIONS


def test_every_picture_has_words(html):
    images = [attrs for tag, attrs in Page(html).elements if tag == "img"]
    assert all(attrs["alt"] for attrs in images)


def test_text_is_escaped(html):
    assert Page(html).text("h1") == ["A <b>title</b>"]


def test_the_figures_of_metrics_json_are_on_the_page(html, result):
    metrics = result[0].metrics
    shown = "".join(Page(html).text("b"))
    for said in (metrics["attacked"], metrics["promise"], metrics["accuracy"], *metrics["controls"].values()):
        assert percent(said["rate"]) in shown
    assert metrics["attacked"]["n"] > 0
    assert f"{metrics['attacked']['k']} of {metrics['attacked']['n']}" in Page(html).text("span")


def test_the_same_run_gives_the_same_bytes(result, html, tmp_path):
    evaluation, found = result
    again = {"history": found.history, "run": run_of(evaluation)}
    write_report(tmp_path / "r.html", title="A <b>title</b>", evaluation=evaluation, artwork=found.artwork, **again)
    assert (tmp_path / "r.html").read_text() == html


def test_a_failure_leaves_what_was_there(result, tmp_path):
    evaluation, found = result
    path = tmp_path / "report.html"
    path.write_text("before")
    broken = run_of(evaluation)
    del broken["versions"]
    with pytest.raises(Exception, match="versions"):
        write_report(path, title="t", evaluation=evaluation, artwork=found.artwork, history=[], run=broken)
    assert path.read_text() == "before"
    with pytest.raises(UserError, match="cannot be written"):
        write_report(
            tmp_path / "no" / "r.html",
            title="t",
            evaluation=evaluation,
            artwork=found.artwork,
            history=[],
            run=run_of(evaluation),
        )


def test_views_are_what_the_target_saw(result):
    evaluation, found = result
    views = first_views(evaluation.verdict, found.artwork, goal="untargeted")
    assert len(views) == 12
    assert [float(view.where.split()[0]) for view in views] == sorted(float(view.where.split()[0]) for view in views)
    held_out = evaluation.verdict.held_out
    shots = {
        what: next(held_out.photographs(worn))[:12] for what, worn in (("clean", None), ("attacked", found.artwork))
    }
    logits = {"clean": evaluation.verdict.clean, "attacked": evaluation.verdict.attacked["artwork"]}
    for what, photographs in shots.items():
        expected = {to_pil(one).tobytes(): row for row, one in enumerate(photographs)}
        rows = [expected.pop(picture(getattr(view, what).picture).tobytes()) for view in views]
        answers = [held_out.target.classes[int(row)] for row in logits[what][rows].argmax(1)]
        assert [getattr(view, what).name for view in views] == answers
        assert [getattr(view, what).verdict == "correct" for view in views] == [name == "stop" for name in answers]
    assert all(0 < view.clean.confidence <= 1 for view in views)


def test_a_reached_goal_is_told_from_another_misreading(result):
    evaluation, found = result
    reached = {view.attacked.name for view in first_views(evaluation.verdict, found.artwork, goal="untargeted")} - {
        "stop"
    }
    assert reached
    goal = reached.pop()
    for view in first_views(evaluation.verdict, found.artwork, goal=f"class:{goal}"):
        assert (view.attacked.verdict == "goal") == (view.attacked.name == goal)


def test_the_artwork_lies_where_it_says(result):
    evaluation, _ = result
    faces = evaluation.verdict.held_out.scenes.faces
    width, height = faces.size_mm[0].tolist()
    place = torch.tensor([[0.25 * width, 0.5 * height, 0.5 * width, 0.75 * height]])
    blue = Artwork(torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4), torch.ones(1, 1, 4, 4), place)
    (piece,) = pieces(blue, evaluation.verdict)
    worn = np.asarray(picture(piece.face).convert("RGB")).astype(int)
    side = len(worn)
    covered = (worn == [0, 0, 255]).all(2)
    assert covered[side // 2 : side * 3 // 4, side // 4 : side // 2].all()
    assert covered.sum() == (side // 4) ** 2
    assert piece.size_mm == pytest.approx((0.25 * width, 0.25 * height))
    assert image_tensor(picture(piece.artwork))[:, 0, 0].tolist() == [0, 0, 1, 1]


def test_one_artwork_per_scene_makes_a_gallery(tmp_path):
    scenes, world = load_scenes("staged:stop,yield"), load_world("drive-by")
    artwork = Artwork(torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 1, 4, 4), PLACE)
    evaluation = evaluate(stop_reader(), scenes, artwork, world=world, goal="untargeted", views=1, seed=0, worlds=[])
    made = pieces(artwork, evaluation.verdict)
    assert [piece.face_name for piece in made] == ["stop", "yield"]
    assert made[0].artwork != made[1].artwork
    run = run_of(evaluation)
    write_report(tmp_path / "r.html", title="t", evaluation=evaluation, artwork=artwork, history=[], run=run)
    assert 'class="gallery"' in (tmp_path / "r.html").read_text()


def test_nothing_read_correctly_makes_a_page_too(tmp_path):
    evaluation, found = judged(fake_classifier(), views=2)
    assert evaluation.metrics["attacked"]["rate"] is None
    write_report(
        tmp_path / "r.html",
        title="t",
        evaluation=evaluation,
        artwork=found.artwork,
        history=found.history,
        run=run_of(evaluation),
    )
    page = Page((tmp_path / "r.html").read_text())
    assert page.text("p")[0].startswith("Nothing can be said about this sticker")
    assert page.text("h2") == SECTIONS


def test_a_clean_evaluation_makes_a_page_without_attack(tmp_path):
    target, scenes, world = stop_reader(), load_scenes("staged:stop"), load_world("drive-by")
    evaluation = evaluate(target, scenes, None, world=world, goal="untargeted", views=3, seed=0, worlds=[])
    run = run_of(evaluation, threat=None, seconds=None, covered_share=None)
    write_report(tmp_path / "r.html", title="t", evaluation=evaluation, artwork=None, history=[], run=run)
    page = Page((tmp_path / "r.html").read_text())
    assert page.text("p")[0].startswith("fake reads the stop sign correctly in")
    assert page.text("h2") == [SECTIONS[0], SECTIONS[1], SECTIONS[-1]]


def test_headlines():
    assert says(figures(93, 100)) == (
        "This sticker makes T misread the stop sign in 93 % of held-out views [86–97]; "
        "promise in unseen worlds 71 % [61–79]; controls: grey 2 %, random 5 %."
    )
    assert "makes T read the stop sign as yield in 93 %" in says(figures(93, 100), goal="class:yield")
    assert says(figures(93, 100), artworks=4, threat="patch:10%").startswith("These 4 patches make T misread")
    assert says(figures(93, 100), classes=["stop", "yield", "stop"]).startswith(
        "This sticker makes T misread the stop and yield"
    )
    assert "signs of 4 classes" in says(figures(93, 100), classes=list("abcd"))


def test_headlines_of_failures():
    assert says(figures(0, 100, grey=0, random=0)) == (
        "No sticker of this kind was found that makes T misread the stop sign: none of 100 held-out views [0–4]."
    )
    assert says(figures(0, 0)) == (
        "Nothing can be said about this sticker: T reads the stop sign correctly in none of 100 held-out views, "
        "even without it."
    )
    plain = says(figures(30, 100, grey=28))
    assert plain.startswith(
        "No sticker of this kind was found that does clearly better than a plain one: this sticker makes"
    )
    given = says(figures(0, 100, grey=0, random=0), searched=False)
    assert given.startswith("This sticker does not make T misread the stop sign")
    no_promise = figures(93, 100) | {"promise": rate(0, 0)}
    assert "promise in unseen worlds no cases;" in says(no_promise)


def test_a_control_that_hides_the_sign_is_none():
    metrics = figures(60, 100, grey=100, random=98)
    assert says(metrics, threat="linf:8/255").endswith("promise in unseen worlds 71 % [61–79].")
    assert any("no controls here" in said for said in remarks(metrics, "linf:8/255", printed=False))
    assert any("cannot be told from a plain" in said for said in remarks(metrics, "stickers", printed=True))


def test_remarks_name_what_to_doubt():
    assert remarks(figures(93, 100, promise=92), "stickers", printed=True) == []
    assert "falls to 71 %" in remarks(figures(93, 100), "stickers", printed=True)[0]
    few = remarks(figures(19, 20), "stickers", printed=True)
    assert "only 20 %" in few[0]
    assert "--judge-views" in few[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.934, "93 %"),
        (0.004, "0.4 %"),
        (0.998, "99.8 %"),
        (0.9999, "99.99 %"),
        (None, "no cases"),
    ],
)
def test_percent_is_0_or_100_only_where_it_is(value, text):
    assert percent(value) == text


def test_the_weakest_world_is_marked():
    metrics = figures(93, 100) | {"worlds": {"night": rate(40, 100), "low-sun": rate(60, 100)}}
    assert [(dot.label, dot.mark) for dot in dots(metrics, "stickers")][-2:] == [("night", "weakest"), ("low-sun", "")]
    metrics["worlds"]["low-sun"] = rate(40, 100)
    assert not any(dot.mark for dot in dots(metrics, "stickers"))


def test_the_heat_map_holds_every_view_once(result):
    metrics = result[0].metrics
    heat = heat_map(metrics["cells"])
    cells = [cell for _, row in heat.rows for cell in row if cell is not None]
    assert sum(cell["n"] for cell in cells) == metrics["attacked"]["n"]
    assert sum(cell["k"] for cell in cells) == metrics["attacked"]["k"]
    assert all(len(row) == len(heat.columns) for _, row in heat.rows)


def test_a_gap_in_the_heat_map_stays_a_gap():
    cells = [{"sign_px": at, "yaw_deg": yaw} | rate(1, 2) for at, yaw in (([0, 32], [0, 10]), ([72, 112], [20, 30]))]
    heat = heat_map(cells)
    assert [label for label, _ in heat.rows] == ["0–32 px", "32–48 px", "48–72 px", "72–112 px"]
    assert heat.columns == ("0–10°", "10–20°", "20–30°")
    assert sum(cell is not None for _, row in heat.rows for cell in row) == 2


def test_the_scale_is_monotone_in_grey_and_its_text_is_readable():
    grounds, contrasts = [], []
    for share in np.linspace(0, 1, 101):
        ground = [int(c) for c in re.search(r"rgb\((.*?)\)", shade(float(share)))[1].split(",")]
        ink = 1.0 if shade(float(share)).endswith("#fff") else 0.0056
        light = luminance(ground)
        grounds.append(light)
        contrasts.append((max(light, ink) + 0.05) / (min(light, ink) + 0.05))
    assert all(np.diff(grounds) < 0)
    assert min(contrasts) > 4


def luminance(rgb: list[int]) -> float:
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_curves_stay_in_their_frame():
    history = [
        {"step": i + 1, "loss": 5.0 - i / 100} | ({"success": i / 1000} if i % 20 == 19 else {}) for i in range(1000)
    ]
    loss, success = curves(history)
    assert len(loss.line) <= 400
    assert loss.last == "−4.99 after step 1000"
    assert success.last == "99.9 % after step 1000"
    assert len(success.line) == 50
    for curve in (loss, success):
        assert all(LEFT <= x <= WIDTH - RIGHT and 0 <= y <= HEIGHT for x, y in curve.line)
        assert 2 <= len(curve.y_ticks) <= 8
    assert loss.line[0][1] < loss.line[-1][1]
    assert success.line[0][1] > success.line[-1][1]


@pytest.mark.parametrize("history", [[{"step": 1, "loss": 0.0}], [{"step": i, "loss": -5.0} for i in (1, 2, 3)]])
def test_a_flat_curve_is_drawn(history):
    (curve,) = curves(history)
    assert len(curve.line) == len(history)
    assert curve.y_ticks


def saved(result, folder: Path, **changes) -> Path:
    evaluation, found = result
    folder.mkdir()
    found.artwork.save(folder)
    metrics = evaluation.metrics | {"run": run_of(evaluation, **changes), "history": list(found.history)}
    write_json(folder / "metrics.json", metrics)
    return folder


def test_comparison_shows_rates_and_marks_what_differs(result, tmp_path):
    one, two = saved(result, tmp_path / "one"), saved(result, tmp_path / "two", seed=7)
    compare_reports(tmp_path / "compare.html", [one, two])
    html = (tmp_path / "compare.html").read_text()
    page = Page(html)
    assert [word for word in page.text("th") if word.startswith("≠")] == ["≠ seed"]
    assert page.text("th")[:2] == ["one", "two"]
    assert len([attrs for tag, attrs in page.elements if tag == "img"]) == 2
    attacked = result[0].metrics["attacked"]
    assert html.count(f"{attacked['k']}/{attacked['n']}") >= 2
    assert all(link.startswith("data:") for link in page.having("src") + page.having("href"))
    assert "world night" in page.text("th")


def test_comparison_tells_runs_of_one_name_apart(result, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    runs = [saved(result, tmp_path / "a" / "run"), saved(result, tmp_path / "b" / "run")]
    compare_reports(tmp_path / "compare.html", runs)
    assert Page((tmp_path / "compare.html").read_text()).text("th")[:2] == [str(run) for run in runs]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"accuracy": {}}', '{"attacked": 3, "run": {"config": {}}}'])
def test_comparison_of_what_is_no_run_is_refused(result, tmp_path, content):
    other = tmp_path / "other"
    other.mkdir()
    if content is not None:
        (other / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json"):
        compare_reports(tmp_path / "compare.html", [saved(result, tmp_path / "run"), other])
    assert not (tmp_path / "compare.html").exists()


def test_comparison_needs_two(result, tmp_path):
    with pytest.raises(UserError, match="two"):
        compare_reports(tmp_path / "compare.html", [saved(result, tmp_path / "run")])


def test_every_key_of_metrics_json_is_documented(result):
    evaluation, found = result
    metrics = evaluation.metrics | {"run": run_of(evaluation), "history": list(found.history)}
    documented = set(re.findall(r"`(\w+)`", DOCS.read_text()))
    named_by_the_user = {"worlds", "config", "versions"}

    def keys(value: object) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value)) if value else set()
        if not isinstance(value, dict):
            return set()
        inner = [keys(item if key not in named_by_the_user else list(item.values())) for key, item in value.items()]
        return set(value).union(*inner)

    assert keys(json.loads(json.dumps(metrics))) - documented == set()


def test_long_photographs_travel_as_jpeg(result):
    evaluation, _ = result
    held_out = evaluation.verdict.held_out
    large = replace(held_out, target=fake_classifier(size_px=160), views=1)
    verdict = replace(evaluation.verdict, held_out=large, clean=evaluation.verdict.clean[: len(large)])
    assert first_views(verdict, None, goal="untargeted")[0].clean.picture.startswith("data:image/jpeg")
