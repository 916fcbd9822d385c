"""Defences: one value for every attacker, a gradient where it is due, detectors that abstain as often as fitted."""

from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor, nn

from physadv.defences import ABSTAIN, Defence, Defended, defend, list_defences, load_defence
from physadv.defences.mahalanobis import features
from physadv.defences.pruning import layers
from physadv.errors import UserError
from physadv.heldout import HeldOut
from physadv.scenes import load_scenes
from physadv.targets import Classifier, Frame, fake_classifier, frozen, load_target, weights_hash
from physadv.targets.base import drawing
from physadv.transforms.world import DIGITAL

EXAMPLES = [row.example for row in list_defences()]
DETECTORS = [row.example for row in list_defences() if row.kind == "detector"]
SHATTERED = ["jpeg:75", "bits:4", "thermometer:16", "kmeans:32"]
RANDOM = ["resize-pad:0.85", "pruning:1"]
SIZE_PX, CLASSES = 16, ("stop", "yield", "no-entry")


class Tiny(nn.Module):
    """Two convolutions and a linear layer, random but always the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return 20 * self.head(self.second(self.first(images - 0.5).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def target() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Tiny().eval()
    return Classifier.of(module, classes=CLASSES, frame=Frame(SIZE_PX, 0.1), name="tiny")


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Coarse noise over a tint, so that blurring and squeezing change it, but not everything."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(80, 3, 4, 4, generator=generator)
    fine = torch.rand(80, 3, SIZE_PX, SIZE_PX, generator=generator)
    return (0.7 * nn.functional.interpolate(coarse, SIZE_PX, mode="bilinear") + 0.3 * fine).contiguous()


@pytest.fixture(scope="module")
def labels(target: Classifier, images: Tensor) -> Tensor:
    return target(images).argmax(1).detach()


@pytest.fixture(scope="module")
def fitted(target: Classifier, images: Tensor, labels: Tensor) -> dict[str, Defence]:
    return {spec: load_defence(spec).fit(target, images, labels) for spec in EXAMPLES}


def gradient(classifier: Classifier, images: Tensor) -> Tensor | None:
    """Of the first class's logit; None where autograd has nothing to follow."""
    start = images.clone().requires_grad_()
    with frozen(classifier.module):
        logits = classifier(start)
    if not logits.requires_grad:
        return None
    return torch.autograd.grad(logits[:, 0].sum(), start)[0]


def test_every_row_loads_and_says_its_name() -> None:
    for row in list_defences():
        defence = load_defence(row.example)
        assert isinstance(defence, Defence)
        assert defence.name == row.example
        assert load_defence(row.name).name == row.example
        assert defence.abstains == (row.kind == "detector")
        assert defence.randomised == (row.kind == "random")


def test_every_example_fits_on_a_page() -> None:
    folder = Path(__file__).parent.parent / "physadv" / "defences"
    for file in folder.glob("*.py"):
        if file.stem not in ("base", "catalogue", "detector"):
            assert len(file.read_text().splitlines()) <= 60, file.name


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("jpg:75", "jpeg:75"),
        ("jpeg:0", "1 to 100"),
        ("jpeg:high", "whole number"),
        ("bits:9", "1 to 8"),
        ("thermometer:1", "2 to 256"),
        ("kmeans:1", "2 to 256"),
        ("resize-pad:1.2", "between 0 and 1"),
        ("pruning:0", "more than 0"),
        ("squeezing:0", "1 to 8"),
        ("lgs:-1", "more than 0"),
        ("lgs:nan", "more than 0"),
        ("median:4", "odd"),
        ("mahalanobis:3", "takes no number"),
        ("moat", "there are"),
        ("python:none.py:make", "no file"),
    ],
)
def test_a_wrong_spec_is_refused_with_a_remedy(spec: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        load_defence(spec)


@pytest.mark.parametrize("spec", EXAMPLES)
def test_naive_and_adaptive_have_the_same_value(
    spec: str, target: Classifier, images: Tensor, fitted: dict[str, Defence]
) -> None:
    sides = [defend(target, fitted[spec], adaptive=adaptive, seed=3) for adaptive in (False, True)]
    answers = []
    for side in sides:
        with drawing(side.module, 7):
            answers.append(side(images))
    naive, adaptive = answers
    assert torch.equal(naive[:, : len(CLASSES)], adaptive[:, : len(CLASSES)])
    assert naive.shape == adaptive.shape == (len(images), len(CLASSES) + fitted[spec].abstains)


@pytest.mark.parametrize("spec", EXAMPLES)
def test_an_adaptive_attacker_has_a_gradient(
    spec: str, target: Classifier, images: Tensor, fitted: dict[str, Defence]
) -> None:
    found = gradient(defend(target, fitted[spec], adaptive=True, seed=3), images[:4])
    assert found is not None
    assert found.isfinite().all()
    assert (found.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("spec", SHATTERED)
def test_a_shattered_gradient_is_none_or_zero_to_the_naive(
    spec: str, target: Classifier, images: Tensor, fitted: dict[str, Defence]
) -> None:
    found = gradient(defend(target, fitted[spec], adaptive=False, seed=3), images[:4])
    assert found is None or not found.any()


@pytest.mark.parametrize("spec", SHATTERED[1:])
def test_the_stand_in_is_the_identity_around_the_changed_image(
    spec: str, target: Classifier, images: Tensor, fitted: dict[str, Defence]
) -> None:
    changed = fitted[spec].change(images[:4], generator=torch.Generator())
    expected = gradient(target, changed.detach())
    assert torch.equal(gradient(defend(target, fitted[spec], adaptive=True, seed=3), images[:4]), expected)


def test_a_codec_stands_in_for_the_codec(target: Classifier, images: Tensor, fitted: dict[str, Defence]) -> None:
    """Its gradient passes what a JPEG keeps, a ramp, and drops what it loses, a checkerboard of colour."""
    stand_in = load_defence("jpeg:30").stand_in  # type: ignore[attr-defined]
    smooth = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    red = board * torch.tensor([1.0, -0.5, 0.0])[:, None, None]
    base = torch.full((1, 3, 16, 16), 0.5)
    with torch.no_grad():
        moved = [(stand_in(base + 0.1 * way) - stand_in(base - 0.1 * way)).norm() for way in (smooth, red[None])]
    assert moved[0] > 0.15 * smooth.norm()
    assert moved[1] < 0.1 * red.norm()


def test_draws_inside_leave_those_outside_alone(target: Classifier, images: Tensor, fitted: dict[str, Defence]) -> None:
    one, same = (defend(target, fitted["resize-pad:0.85"], adaptive=True, seed=3) for _ in range(2))
    with drawing(one.module, 7):
        first = one(images)
    assert torch.equal(one(images), same(images))
    with drawing(one.module, 7):
        assert torch.equal(one(images), first)


@pytest.mark.parametrize("spec", RANDOM)
def test_random_defences_draw_anew_and_repeat_with_their_seed(
    spec: str, target: Classifier, images: Tensor, fitted: dict[str, Defence]
) -> None:
    one, same, other = (defend(target, fitted[spec], adaptive=True, seed=seed) for seed in (3, 3, 4))
    first, second = one(images), one(images)
    assert not torch.equal(first, second)
    assert torch.equal(first, same(images))
    assert torch.equal(second, same(images))
    assert not torch.equal(first, other(images))
    twins = one(images[:1].expand(6, -1, -1, -1))
    assert len(twins.unique(dim=0)) == 6, "every image of a batch draws for itself"


@pytest.mark.parametrize("spec", sorted(set(EXAMPLES) - set(RANDOM)))
def test_the_others_repeat(spec: str, target: Classifier, images: Tensor, fitted: dict[str, Defence]) -> None:
    defended = defend(target, fitted[spec], adaptive=True, seed=3)
    assert torch.equal(defended(images), defended(images))


@pytest.mark.parametrize("spec", EXAMPLES)
def test_the_target_is_left_as_it_was(
    spec: str, target: Classifier, images: Tensor, fitted: dict[str, Defence]
) -> None:
    defended = defend(target, fitted[spec], adaptive=True, seed=3)
    own = {f"module.{name}": value for name, value in target.module.state_dict().items()}
    before, chance = weights_hash(defended.module), torch.get_rng_state()
    with frozen(defended.module):
        defended(images)
    assert all(torch.equal(defended.module.state_dict()[name], value) for name, value in own.items())
    assert weights_hash(defended.module) == before
    assert all(parameter.requires_grad for parameter in target.module.parameters())
    assert not any(part._forward_pre_hooks for part in target.module.modules())
    assert torch.equal(torch.get_rng_state(), chance), "only the generator draws"


def test_the_hash_depends_on_the_name_and_on_what_was_learnt(
    target: Classifier, images: Tensor, labels: Tensor, fitted: dict[str, Defence]
) -> None:
    def hash_of(defence: Defence) -> str:
        return defend(target, defence, adaptive=True, seed=3).weights_hash

    hashes = [target.weights_hash, *map(hash_of, fitted.values()), hash_of(load_defence("jpeg:76"))]
    assert len(set(hashes)) == len(hashes)
    assert hash_of(load_defence("jpeg:75")) == hash_of(fitted["jpeg:75"])
    for spec in [*DETECTORS, "kmeans:32"]:
        elsewhere = load_defence(spec).fit(target, images[:60], labels[:60])
        assert hash_of(elsewhere) != hash_of(fitted[spec])


# --- what each one does


def test_jpeg_is_the_real_codec(images: Tensor) -> None:
    jpeg = load_defence("jpeg:75").change(images[:1], generator=torch.Generator())
    pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()[:, :, ::-1]
    coded = cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_COLOR)
    assert torch.equal((jpeg[0] * 255).round().byte(), torch.from_numpy(coded[:, :, ::-1].copy()).permute(2, 0, 1))


@pytest.mark.parametrize(("spec", "levels", "furthest"), [("bits:4", 16, 1 / 30), ("thermometer:16", 16, 1 / 32)])
def test_quantisation_keeps_so_many_levels(spec: str, levels: int, furthest: float) -> None:
    ramp = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    coarse = load_defence(spec).change(ramp, generator=torch.Generator())
    assert len(coarse.unique()) == levels
    assert (coarse - ramp).abs().max() <= furthest + 1e-6


def test_kmeans_finds_the_colours_there_are(target: Classifier) -> None:
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.2, 0.8], [0.5, 0.5, 0.5]])
    which = torch.randint(3, (20, SIZE_PX, SIZE_PX), generator=torch.Generator().manual_seed(2))
    clean = colours[which].movedim(-1, 1)
    palette = load_defence("kmeans:3").fit(target, clean, torch.zeros(20, dtype=torch.int64))
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(palette.change(noisy, generator=torch.Generator()), clean, atol=1e-5)


def test_resize_pad_shrinks_and_places_at_random() -> None:
    white = torch.ones(200, 3, 40, 40)
    seen = load_defence("resize-pad:0.5").change(white, generator=torch.Generator().manual_seed(4))
    side = seen[:, 0].sum((1, 2)).sqrt() / 40
    assert side.min() > 0.49
    assert side.max() < 1.01
    assert side.mean() == pytest.approx(0.75, abs=0.04)
    assert side.std() == pytest.approx(0.5 / 12**0.5, abs=0.02)
    centre = (seen[:, 0] * torch.arange(40).add(0.5)).sum((1, 2)) / seen[:, 0].sum((1, 2)) / 40
    assert centre.mean() == pytest.approx(0.5, abs=0.03)
    room = (1 - side).clamp(min=0.02)
    assert ((centre - 0.5).abs() <= room / 2 + 0.02).all()
    assert ((centre - 0.5) / room).std() == pytest.approx(1 / 12**0.5, abs=0.06), "uniform over the canvas"


def test_pruning_drops_small_activations_and_is_right_in_the_mean() -> None:
    pruning, generator = load_defence("pruning:0.5"), torch.Generator().manual_seed(5)
    activations = torch.cat([torch.full((1, 50), 0.01), torch.full((1, 50), 1.0)], 1)
    draws = pruning._pruned(activations.expand(4000, -1), generator)
    kept = (draws != 0).float().mean(0)
    p = 0.01 / 50.5
    assert kept[:50].mean() == pytest.approx(1 - (1 - p) ** 50, abs=0.003)
    assert kept[50:].mean() == pytest.approx(1 - (1 - 100 * p) ** 50, abs=0.01)
    assert draws[:, 50:].mean() == pytest.approx(1, abs=0.02)
    assert draws[:, :50].mean() == pytest.approx(0.01, abs=0.002)


def test_pruning_leaves_the_image_alone_and_needs_layers(target: Classifier, images: Tensor) -> None:
    assert layers(target.module)[0] is target.module.first
    seen: list[Tensor] = []
    with target.module.first.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0])):
        defend(target, load_defence("pruning:1"), adaptive=True, seed=3)(images)
    assert torch.equal(seen[0], images - 0.5)
    with pytest.raises(UserError, match="layers"):
        defend(fake_classifier(), load_defence("pruning:1"), adaptive=True, seed=3)(images)


def test_lgs_dims_what_is_busy_and_leaves_what_is_smooth() -> None:
    picture = torch.full((1, 3, 40, 40), 0.5)
    picture[..., 8:20, 8:20] = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(6))
    smooth = load_defence("lgs:2").change(picture, generator=torch.Generator())
    assert torch.equal(smooth[..., 28:, 28:], picture[..., 28:, 28:])
    assert smooth[..., 8:20, 8:20].mean() < 0.6 * picture[..., 8:20, 8:20].mean()


def test_median_removes_what_is_smaller_than_half_its_window() -> None:
    picture = torch.full((1, 3, 20, 20), 0.5)
    picture[..., 9:11, 9:11] = 1
    change = {px: load_defence(f"median:{px}").change(picture, generator=torch.Generator()) for px in (3, 5)}
    assert (change[5] == 0.5).all()
    picture[..., 5:15, 5:15] = 1
    assert load_defence("median:3").change(picture, generator=torch.Generator()).max() == 1


# --- detectors


@pytest.mark.parametrize("spec", DETECTORS)
def test_a_detector_abstains_on_5_percent_of_its_clean_images(
    spec: str, target: Classifier, images: Tensor, fitted: dict[str, Defence]
) -> None:
    defended = defend(target, fitted[spec], adaptive=True, seed=3)
    assert defended.classes == (*CLASSES, ABSTAIN)
    logits, score = fitted[spec].scored(target.module, images)
    abstained = defended(images).argmax(1) == len(CLASSES)
    assert torch.equal(abstained, score > fitted[spec].threshold)
    assert abstained.float().mean() == pytest.approx(0.05)
    assert torch.equal(defended(images)[:, : len(CLASSES)], logits)


@pytest.mark.parametrize("spec", DETECTORS)
def test_a_detector_does_not_exist_for_the_naive(
    spec: str, target: Classifier, images: Tensor, fitted: dict[str, Defence]
) -> None:
    naive = defend(target, fitted[spec], adaptive=False, seed=3)
    assert (naive(images)[:, -1] < naive(images)[:, :-1].amin(1) - 50).all()
    assert torch.equal(gradient(naive, images[:4]), gradient(target, images[:4]))


@pytest.mark.parametrize("spec", DETECTORS)
def test_descending_on_the_verdict_silences_it(
    spec: str, target: Classifier, images: Tensor, fitted: dict[str, Defence]
) -> None:
    defended = defend(target, fitted[spec], adaptive=True, seed=3)
    loud = images[fitted[spec].scored(target.module, images)[1] > fitted[spec].threshold]
    theta = loud.clone()
    with frozen(target.module):
        for _ in range(30):
            theta.requires_grad_()
            logits = defended(theta)
            (slope,) = torch.autograd.grad((logits[:, -1] - logits[:, :-1].amax(1)).sum(), theta)
            theta = (theta.detach() - 0.01 * slope.sign()).clamp(0, 1)
    assert (defended(theta).argmax(1) < len(CLASSES)).all()


@pytest.mark.parametrize("spec", [*DETECTORS, "kmeans:32"])
def test_without_clean_images_it_is_refused(spec: str, target: Classifier, images: Tensor, labels: Tensor) -> None:
    unfitted = load_defence(spec)
    assert not unfitted.fitted
    with pytest.raises(UserError, match="clean images first"):
        defend(target, unfitted, adaptive=True, seed=3)
    with pytest.raises(UserError, match="clean images first"):
        Defended(target.module, unfitted, adaptive=False, seed=3)(images)
    assert unfitted.fit(target, images, labels).fitted
    assert not unfitted.fitted, "a copy is fitted"


def test_a_detector_wants_enough_images_and_stands_alone(
    target: Classifier, images: Tensor, labels: Tensor, fitted: dict[str, Defence]
) -> None:
    with pytest.raises(UserError, match="at least 40"):
        load_defence("softmax").fit(target, images[:10], labels[:10])
    once = defend(target, fitted["softmax"], adaptive=True, seed=3)
    with pytest.raises(UserError, match="one detector"):
        defend(once, fitted["squeezing:4"], adaptive=True, seed=3)


def test_calibration_moves_the_threshold_alone(target: Classifier, images: Tensor, fitted: dict[str, Defence]) -> None:
    far = (images * 3).clamp(0, 1)
    moved = fitted["mahalanobis"].calibrate(target, far)
    assert torch.equal(moved.means, fitted["mahalanobis"].means)
    assert moved.threshold > fitted["mahalanobis"].threshold
    abstained = defend(target, moved, adaptive=True, seed=3)(far).argmax(1) == len(CLASSES)
    assert abstained.float().mean() == pytest.approx(0.05)


def test_mahalanobis_is_the_distance_in_the_last_features(
    target: Classifier, images: Tensor, labels: Tensor, fitted: dict[str, Defence]
) -> None:
    logits, found = features(target.module, images)
    assert torch.allclose(20 * target.module.head(found), logits, atol=1e-4)
    means = torch.stack([found[labels == row].mean(0) for row in labels.unique()]).double()
    residual = torch.stack([found.double() - mean for mean in means])
    nearest = torch.stack([residual[list(labels.unique()).index(y), i] for i, y in enumerate(labels)])
    covariance = 0.9 * nearest.T @ nearest / 80 + 0.1 * (nearest.square().sum() / 80 / 6) * torch.eye(6)
    naive = torch.einsum("cnd,de,cne->cn", residual, covariance.inverse(), residual).amin(0).sqrt()
    assert torch.allclose(fitted["mahalanobis"].scored(target.module, images)[1].double(), naive, rtol=1e-3)
    fake = fake_classifier()
    assert torch.equal(features(fake.module, images)[1], fake(images)), "the logits where there is no linear layer"


def test_squeezing_is_the_largest_l1_distance(target: Classifier, images: Tensor, fitted: dict[str, Defence]) -> None:
    def distance(changed: Tensor) -> Tensor:
        return (target(images).softmax(1) - target(changed).softmax(1)).abs().sum(1)

    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="reflect").unfold(2, 3, 1).unfold(3, 3, 1)
    largest = torch.maximum(distance((images * 15).round() / 15), distance(padded.flatten(-2).median(-1).values))
    score = fitted["squeezing:4"].scored(target.module, images)[1]
    assert torch.allclose(2 - 2 * (-score).exp(), largest, atol=1e-4)


# --- one's own

OWN = """
import torch
class Half(torch.nn.Module):
    def forward(self, images):
        return (images * 2).round() / 2 + {more}
class WithStandIn(Half):
    def stand_in(self, images):
        return 3 * images
class Odd(torch.nn.Module):
    def forward(self, images):
        return images[..., 1:]
class Whole:
    name, randomised, abstains, fitted = "whole", False, False, True
    def fit(self, target, images, labels): return self
    def answer(self, module, images, *, adaptive, generator): return module(images)
def nothing():
    return 7
def broken():
    raise ValueError("no")
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(OWN.format(more="0 * torch.rand(())"))
    return f"python:{tmp_path / 'mine.py'}"


def test_a_module_of_ones_own(own: str, target: Classifier, images: Tensor) -> None:
    half, with_stand_in = load_defence(f"{own}:Half"), load_defence(f"{own}:WithStandIn")
    assert not gradient(defend(target, half, adaptive=False, seed=0), images[:4]).any()
    plain = gradient(defend(target, half, adaptive=True, seed=0), images[:4])
    assert plain.any()
    assert torch.allclose(gradient(defend(target, with_stand_in, adaptive=True, seed=0), images[:4]), 3 * plain)
    assert torch.equal(defend(target, half, adaptive=True, seed=0)(images), target((images * 2).round() / 2))


def test_what_it_draws_comes_from_the_seed(tmp_path: Path, target: Classifier, images: Tensor) -> None:
    (tmp_path / "mine.py").write_text(OWN.format(more="torch.rand(())"))
    noise = load_defence(f"python:{tmp_path / 'mine.py'}:Half")
    one, same = (defend(target, noise, adaptive=True, seed=1) for _ in range(2))
    first = one(images)
    assert not torch.equal(first, one(images))
    assert torch.equal(first, same(images))


def test_a_whole_defence_of_ones_own(own: str, target: Classifier, images: Tensor) -> None:
    whole = load_defence(f"{own}:Whole")
    defended = defend(target, whole, adaptive=True, seed=0)
    assert torch.equal(defended(images), target(images))
    assert defended.name == "tiny behind whole"


@pytest.mark.parametrize(
    ("factory", "hint"), [("nothing", "returns a int"), ("broken", "fails"), ("missing", "fails"), ("Odd", "shape")]
)
def test_what_is_no_defence_is_refused(own: str, factory: str, hint: str, target: Classifier, images: Tensor) -> None:
    with pytest.raises(UserError, match=hint):
        defend(target, load_defence(f"{own}:{factory}"), adaptive=True, seed=0)(images)


# --- on real photographs


@pytest.fixture(scope="module")
def photographs(data: Path) -> tuple[Classifier, Tensor, Tensor]:
    """The shipped classifier, photographs as it sees them, and their truth."""
    classifier = load_target("builtin:gtsrb")
    scenes = load_scenes(f"gtsrb:{data}/gtsrb/test", limit=40)
    held_out = HeldOut(classifier, scenes, DIGITAL, 1, 0)
    return classifier, torch.cat(list(held_out.photographs(None))), held_out.truth


@pytest.mark.parametrize("spec", EXAMPLES)
def test_the_examples_cost_little_clean_accuracy(spec: str, photographs: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, images, truth = photographs
    defended = defend(classifier, load_defence(spec).fit(classifier, images, truth), adaptive=True, seed=0)
    with torch.no_grad():
        lost = (classifier(images).argmax(1) == truth).sum() - (defended(images).argmax(1) == truth).sum()
    assert lost <= 0.1 * len(images)
