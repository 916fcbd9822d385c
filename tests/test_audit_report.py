"""The page of an audit: verdict and warnings on top, every attack and what the target saw, nothing from elsewhere."""

import base64
import io
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from physadv.audit import ADVICE, Audit, Case, Effort, audit
from physadv.audit.flags import FEW, NAIVE, SEARCH, UNBOUNDED
from physadv.audit.suite import CONFIDENCES, suite, transfer
from physadv.defences import Defence, defend, load_defence
from physadv.files import to_pil
from physadv.framed import framed
from physadv.heldout import HeldOut
from physadv.report.audit import examples, gain, how, remarks, standing, strongest, write_audit
from physadv.report.words import percent
from physadv.scenes import Scenes, load_scenes
from physadv.targets import Classifier
from physadv.targets.fake import fake_classifier
from physadv.threats import load_threat
from physadv.transforms.world import DIGITAL, load_world

DOCS = Path(__file__).parent.parent / "docs" / "audit.md"
SECTIONS = ["Naive → adaptive", "All attacks", "What the target saw", "What was run, and how to run it again"]
QUICK = Effort(steps=5, restarts=1, queries=8, compared=4, batch=8)
VOID = {"meta", "link", "img", "br"}
TARGET, SCENE, COMMAND = "<b>fake</b>", "<i>scene</i>", "physadv audit --defence '<u>bits</u>'"


class Page(HTMLParser):
    """The page's attributes, and its words by the tag they stand in; unbalanced tags are an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.alts: list[str | None] = []
        self.words: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.alts += [dict(attrs).get("alt")] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] not in ("style", "title"):
            self.words.append((self.open[-1], " ".join(data.split())))

    def text(self, tag: str | None = None) -> str:
        return " ".join(words for inside, words in self.words if tag in (None, inside))


def victim() -> Classifier:
    return replace(fake_classifier(), name=TARGET)


@cache
def photographs() -> Scenes:
    """Eight images that the victim is right about, each a scene of its own."""
    target, signs = victim(), load_scenes("staged:stop,yield")
    scenes = framed(HeldOut(target, signs, load_world("drive-by"), 4, 5))
    named = replace(scenes, names=tuple(f"{SCENE} {row}" for row in range(8)), groups=tuple("abcdefgh"))
    return replace(named, labels=target(scenes.images).argmax(1), classes=target.classes)


def case_of(defence: Defence | None, *, scenes: Scenes | None = None, epsilon: str = "8/255", **changes: Any) -> Case:
    scenes, plain = scenes or photographs(), replace(victim(), **changes)
    sides = [plain, plain] if defence is None else [defend(plain, defence, adaptive=a, seed=0) for a in (False, True)]
    threat, boundless = (load_threat(f"linf:{size}", scenes, seed=0) for size in (epsilon, "1"))
    return Case(plain, *sides, scenes, threat, boundless, DIGITAL, "untargeted", 0)


@cache
def found(name: str) -> Audit:
    match name:
        case "none":
            return audit(case_of(None), effort=QUICK)
        case "scores":
            return audit(case_of(None, differentiable=False), effort=QUICK)
        case "softmax":  # alarmed by every photograph; attacked by the search alone, which is quick
            noise = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            defence = load_defence("softmax").fit(victim(), noise, torch.zeros(40, dtype=torch.int64))
            defence.threshold = torch.tensor(-10.0)
            return audit(case_of(defence, differentiable=False), effort=QUICK)
    return audit(case_of(load_defence(name)), effort=QUICK)


def metrics_of(audited: Audit) -> dict[str, Any]:
    """As `run_audit` writes them."""
    views = {"rate": 0.25, "k": 1, "n": 4, "ci95": [0.05, 0.7], "world": "drive-by"}
    deployed = audited.case.deployed
    run = {
        "command": COMMAND,
        "config": {"steps": 8, "defence": None},
        "target": {"name": deployed.name, "weights_hash": deployed.weights_hash},
        "defence": deployed.name.partition(" behind ")[2] or None,
        "scenes": {"spec": "gtsrb:<DIR>", "n": len(audited.case), "groups": 8},
        "threat": audited.case.threat.name,
        "goal": audited.case.goal,
        "world": {"name": "digital", "hash": "0123456789ab"},
        "seed": 0,
        "versions": {"physadv": "0.1.0"},
    }
    risk = audited.metrics["risk"] | {"views": views}
    return audited.metrics | {"risk": risk, "run": run}


@pytest.fixture
def page(tmp_path):
    def made(audited: Audit) -> Page:
        write_audit(tmp_path / "report.html", audited, metrics_of(audited))
        return Page((tmp_path / "report.html").read_text())

    return made


def pixels(uri: str) -> torch.Tensor:
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return torch.from_numpy(np.asarray(image).astype(int))


# --- the page


@pytest.mark.parametrize("name", ["bits:3", "none", "scores", "softmax"])
def test_the_page_needs_nothing_but_itself(page, tmp_path, name):
    made = page(found(name))
    html = (tmp_path / "report.html").read_text()
    assert made.links
    assert all(link.startswith("data:") for link in made.links)
    assert "http" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert not {"script", "iframe", "object"} & set(made.tags)
    assert made.alts
    assert all(made.alts)
    headings = made.text("h2")
    assert [headings.find(section) for section in SECTIONS] == sorted(headings.find(section) for section in SECTIONS)
    assert headings.startswith(SECTIONS[0])


def test_the_verdict_and_the_figures_stand_on_top(page):
    audited = found("bits:3")
    words, metrics = page(audited).text(), metrics_of(audited)
    top = words[: words.index("Naive → adaptive")]
    naive, adaptive = (metrics["robust_accuracy"][kind]["rate"] for kind in ("naive", "adaptive"))
    assert naive > adaptive
    assert f"{percent(naive)} → {percent(adaptive)}" in top
    assert metrics["verdict"] in top
    for rate in (metrics["clean_accuracy"], *metrics["risk"].values()):
        assert f"{rate['k']} of {rate['n']}" in top
    assert "drive-by" in top


def test_raised_flags_come_with_advice_and_others_without(page):
    audited = found("bits:3")
    words = page(audited).text()
    flags = {flag.name: flag for flag in audited.flags}
    assert flags["gradient"].raised
    assert flags["naive"].raised
    assert flags["confident"].raised is None
    for flag in audited.flags:
        assert flag.seen in words
        assert (flag.advice.partition("`")[0].strip() in words) == bool(flag.raised)
    assert "confident could not be checked there is no detector" in words
    assert "softmax not raised answers are logits" in words
    assert words.index(flags["naive"].seen) < words.index("Checked, not raised") < words.index(flags["softmax"].seen)


def test_code_in_advice_is_set_as_code(page):
    assert "`" in ADVICE["gradient"]
    made = page(found("bits:3"))
    assert "stand_in" in made.text("code")
    assert "`" not in made.text()


def test_names_are_escaped(page):
    made = page(found("bits:3"))
    assert TARGET in made.text("h1")
    assert f"{SCENE} 0" in made.text("span")
    assert "'<u>bits</u>'" in made.text("span")
    assert "gtsrb:<DIR>" in made.text("td")


def test_every_attack_is_listed_with_what_it_broke(page):
    audited = found("bits:3")
    words = page(audited).text()
    table = words[words.index("All attacks") :]
    assert len(audited.tally.tried) >= 6
    for one in audited.tally.tried:
        row = table[table.index(f"{one.trial.name} {one.trial.kind}") :]
        said = f"{int(one.answers.broken.sum())} of {len(one.rows)}"
        assert 0 < row.index(said) < 200
        assert 0 < row.index(f"{one.found.photographs:,}") < 250


def test_without_a_defence_the_page_says_so(page):
    words = page(found("none")).text()
    assert "There is no defence" in words
    top = words[: words.index("Naive → adaptive")]
    assert not re.search(r"% → \d", top)


def test_nothing_raised_is_said_but_not_as_a_proof(page):
    quiet = replace(found("none"), flags=[replace(flag, raised=False) for flag in found("none").flags])
    words = page(quiet).text()
    assert "Warnings: none" in words
    assert "no proof" in words
    assert not any(advice.partition("`")[0] in words for advice in ADVICE.values())


def test_a_target_that_gives_scores_only_has_no_naive_attack(page):
    audited = found("scores")
    assert NAIVE not in audited.tally
    words = page(audited).text()
    assert "gives scores only: there is no naive attack" in words
    assert "none possible" in words


def test_abstention_is_counted_and_shown(page):
    audited = found("softmax")
    assert audited.metrics["abstains_on_clean"] == 1
    words = page(audited).text()
    assert "abstains on 100 % of the clean photographs" in words
    assert "to abstain counts as right" in words
    assert {one.clean.verdict for one in examples(audited)} == {"abstains"}


def test_a_random_defence_is_judged_in_several_views(page):
    plain = found("none")
    assert "fresh views" not in page(plain).text()
    case = replace(plain.case, deployed=replace(plain.case.deployed, randomised=True))
    assert "median margin of 8 fresh views" in page(replace(plain, case=case)).text()


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "report.html").write_text("before")
    broken = metrics_of(found("none"))
    del broken["run"]["versions"]
    with pytest.raises(Exception, match="versions"):
        write_audit(tmp_path / "report.html", found("none"), broken)
    assert (tmp_path / "report.html").read_text() == "before"


# --- what stands, and what is shown


def test_what_stands_ends_at_the_robust_accuracy():
    audited = found("bits:3")
    steps, tally = standing(audited.tally), audited.tally
    assert [step.name for step in steps[1:]] == [one.trial.name for one in tally.tried if one.trial.kind != "validity"]
    assert all(one.after == two.before >= two.after for one, two in pairwise(steps))
    assert steps[0].after == len(audited.case) - audited.metrics["risk"]["clean"]["k"]
    assert steps[1].after == audited.metrics["robust_accuracy"]["naive"]["k"]
    assert steps[-1].after == audited.metrics["robust_accuracy"]["adaptive"]["k"]


def test_the_attack_without_a_budget_is_not_shown():
    audited = found("none")
    unbounded = audited.tally[UNBOUNDED]
    assert bool(unbounded.answers.broken.all())
    for row in range(len(audited.case)):
        one, at = strongest(audited.tally, row)
        assert one.trial.kind != "validity"
        assert int(one.rows[at]) == row
        margins = [
            float(other.answers.margin[other.rows.tolist().index(row)])
            for other in audited.tally.tried
            if other.trial.kind != "validity" and row in other.rows.tolist()
        ]
        assert float(one.answers.margin[at]) == min(margins)


def test_the_pictures_are_what_the_target_saw_and_said():
    audited = found("bits:3")
    case, shown = audited.case, examples(audited)
    assert [one.scene for one in shown] == [f"{SCENE} {row}" for row in (0, 1, 3, 4, 6, 7)]
    for one, row in zip(shown, (0, 1, 3, 4, 6, 7), strict=True):
        said, at = strongest(audited.tally, row)
        images = case.scenes.images[[row]], said.found.artwork.rgb[[at]]
        for answer, image in zip((one.clean, one.attacked), images, strict=True):
            assert (pixels(answer.picture) - pixels_of(image[0])).abs().max() <= 1
            name = case.deployed.classes[int(case.deployed(image).argmax(1))]
            assert answer.name == name
            assert answer.verdict == ("correct" if name == one.truth else "misread")
        assert one.broken == (one.attacked.verdict == "misread")
        expected = (0.5 + 10 * (images[1] - images[0])).clamp(0, 1)
        assert (pixels(one.difference) - pixels_of(expected[0])).abs().max() <= 1
        assert pixels(one.difference).float().std() > 20


def pixels_of(image: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.asarray(to_pil(image)).astype(int))


def test_a_single_scene_makes_a_page(page):
    scenes = photographs().take(torch.tensor([2]))
    made = page(audit(case_of(None, scenes=scenes, differentiable=False), effort=QUICK))
    assert f"{SCENE} 2" in made.text()


def test_a_printed_artwork_is_shown_as_it_differs():
    case = case_of(None)
    assert gain(case) == 10
    assert gain(replace(case, threat=load_threat("patch:10%", load_scenes("staged:stop"), seed=0))) == 1


def test_trials_say_their_settings():
    plain, long = suite(case_of(None), Effort())[0], suite(case_of(None), Effort())[3]
    assert how(plain) == "margin, 40 steps"
    assert how(long) == "margin, 160 steps, 3 starts"


def test_remarks_name_what_to_doubt():
    metrics = metrics_of(found("bits:3"))
    assert remarks(found("bits:3"), metrics) == ["Only 8 scenes: intervals are wide; audit more (--limit)."]
    weak = metrics | {"clean_accuracy": {"rate": 0.5, "k": 50, "n": 100, "ci95": [0.4, 0.6]}}
    assert remarks(found("bits:3"), weak) == [
        "The target reads only 50 % [40–60] of the scenes correctly without any attack."
    ]


# --- the documentation


def test_every_key_of_audit_json_is_documented():
    documented = set(re.findall(r"`(\w+)`", DOCS.read_text()))

    def keys(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        if not isinstance(value, dict):
            return set()
        inner = [set() if key in ("config", "versions") else keys(item) for key, item in value.items()]
        return (set(value) - set(ADVICE)).union(*inner)

    assert keys(metrics_of(found("bits:3"))) - documented == set()


def test_every_flag_and_attack_is_documented():
    rows = re.findall(r"^\| `([^`]+)` \|", DOCS.read_text(), re.MULTILINE)
    known = [trial.name for trial in suite(case_of(load_defence("bits:3")), Effort())]
    assert {NAIVE, SEARCH, FEW, UNBOUNDED, *map(transfer, CONFIDENCES)} <= set(known)
    assert set(known) | set(ADVICE) <= set(rows)
