"""Scenes: where a sign lies on its canvas, what light falls on it, and what each loader makes of a folder."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from physadv.errors import UserError
from physadv.scenes import load_scenes, merge
from physadv.scenes.base import floats
from physadv.scenes.canvas import crop, spread
from physadv.scenes.classes import GTSRB
from physadv.scenes.faces import faces_for
from physadv.scenes.staged import procedural_backgrounds
from physadv.transforms.colour import to_linear, to_srgb
from physadv.transforms.warp import project

RED, GREEN = (255, 0, 0), (0, 160, 0)


def painted(path: Path, *, size=(40, 40), box=(10, 10, 29, 29), sign=RED) -> Path:
    """A green picture with a sign in an inclusive pixel range."""
    pixels = np.full((size[1], size[0], 3), GREEN, np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1 : y2 + 1, x1 : x2 + 1] = sign
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def published(root: Path, signs=((14, 3, 0), (14, 3, 1), (13, 0, 0)), box=(10, 10, 29, 29)) -> Path:
    """GTSRB as the institute publishes it: (class, track, frame) of each photograph."""
    for number in {number for number, _, _ in signs}:
        folder = root / "Final_Training" / "Images" / f"{number:05d}"
        lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
        for _, track, frame in (sign for sign in signs if sign[0] == number):
            name = f"{track:05d}_{frame:05d}.ppm"
            painted(folder / name, box=box)
            lines.append(f"{name};40;40;{';'.join(map(str, box))};{number}")
        (folder / f"GT-{number:05d}.csv").write_text("\n".join(lines))
    return root


def repacked(root: Path, signs=((14, 3, 0), (14, 3, 1), (13, 0, 0)), box=(10, 10, 29, 29), skip=()) -> Path:
    """GTSRB as PNGs beside one csv; `skip` leaves columns out."""
    rows = []
    for number, track, frame in signs:
        path = f"{number:05d}/{track:05d}_{frame:05d}.png"
        painted(root / "train" / path, box=box)
        roi = dict(zip(("roi_x1", "roi_y1", "roi_x2", "roi_y2"), box, strict=True))
        rows.append({"path": path, "class": number, "track": track, "frame": frame, "width": 40, "height": 40, **roi})
    with (root / "gtsrb_train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name not in skip], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return root / "train"


def corners_px(scenes, row=0):
    """The face's outline box, TL and BR, on the canvas."""
    outline = scenes.faces.outline_mm[scenes.face[row]]
    return project(scenes.surface[row : row + 1], torch.stack([outline.amin(0), outline.amax(0)])[None])[0]


# --- canvas ----------------------------------------------------------------------------------------------------------


def test_box_lands_on_the_margin(tmp_path):
    scenes = load_scenes(f"gtsrb:{repacked(tmp_path)}", classes=["stop"], limit=1)
    assert scenes.images.shape == (1, 3, 96, 96)
    torch.testing.assert_close(corners_px(scenes), torch.tensor([[16.0, 16.0], [80.0, 80.0]]), atol=1e-3, rtol=0)
    assert scenes.native_px.item() == pytest.approx(96 / 30)
    red = floats(scenes.images[0, 0])
    assert (red[18:78, 18:78] > 0.98).all(), "the sign's pixels fill its box"
    assert (red[48, [*range(8, 13), *range(83, 88)]] < 0.02).all(), "and end at its edges"


@pytest.mark.parametrize(("canvas_px", "margin"), [(32, 0.0), (64, 0.5)])
def test_canvas_size_and_margin(tmp_path, canvas_px, margin):
    spec = f"gtsrb:{repacked(tmp_path, box=(10, 10, 29, 19))}"
    scenes = load_scenes(spec, classes=["stop"], limit=1, canvas_px=canvas_px, margin=margin)
    edge, scale = canvas_px * margin / (1 + 2 * margin), canvas_px / (20 * (1 + 2 * margin))
    expected = torch.tensor([[edge, canvas_px / 2 - 5 * scale], [canvas_px - edge, canvas_px / 2 + 5 * scale]])
    torch.testing.assert_close(corners_px(scenes), expected, atol=1e-3, rtol=0)


def test_shrinking_is_antialiased():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    canvas = crop(stripes, (100.0, 100.0, 300.0, 300.0), canvas_px=24, margin=0.25)
    assert abs(canvas.pixels.astype(float) - 127.5).max() < 12


def test_outside_is_mirrored_and_where_it_cannot_be_repeated():
    ramp = np.tile(np.arange(40, dtype=np.uint8)[None, :, None] * 6, (40, 1, 3))
    mirrored = crop(ramp, (0.0, 10.0, 20.0, 30.0), canvas_px=30, margin=0.25).pixels[15, :, 0]
    assert mirrored[:5].tolist() == ramp[0, 4::-1, 0].tolist()
    tiny = crop(ramp[:2], (0.0, 0.0, 40.0, 2.0), canvas_px=60, margin=0.25).pixels[:, 30, 0]
    assert (tiny == tiny[0]).all()


def test_sign_outside_the_photograph(tmp_path):
    picture = painted(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png.*outside the 40x40"):
        load_scenes(f"photo:{picture}", quad=[100.0, 100.0, 120.0, 100.0, 120.0, 120.0, 100.0, 120.0], label="stop")


# --- GTSRB -----------------------------------------------------------------------------------------------------------


def test_both_layouts_of_gtsrb_are_the_same_scenes(tmp_path):
    official = load_scenes(f"gtsrb:{published(tmp_path / 'official')}")
    folder = load_scenes(f"gtsrb:{repacked(tmp_path / 'png')}", classes=["yield", "stop"])
    assert official.classes == folder.classes == GTSRB
    assert sorted(zip(official.names, official.groups, official.labels.tolist(), strict=True)) == [
        ("00013/00000_00000", "13-0", 13),
        ("00014/00003_00000", "14-3", 14),
        ("00014/00003_00001", "14-3", 14),
    ]
    order = [official.names.index(name) for name in folder.names]
    torch.testing.assert_close(official.images[order], folder.images)
    torch.testing.assert_close(official.surface[order], folder.surface)
    assert [official.faces.names[face] for face in official.face] == [GTSRB[label] for label in official.labels]


def test_gtsrb_errors_say_what_to_do(tmp_path):
    repacked(tmp_path)
    with pytest.raises(UserError, match=r"splits train.*gtsrb:.*train"):
        load_scenes(f"gtsrb:{tmp_path}")
    with pytest.raises(UserError, match="no folder"):
        load_scenes(f"gtsrb:{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"No GTSRB .*gtsrb_empty\.csv"):
        load_scenes(f"gtsrb:{tmp_path / 'empty'}")
    with pytest.raises(UserError, match="no column roi_x2, roi_y2"):
        load_scenes(f"gtsrb:{repacked(tmp_path / 'cut', skip=('roi_x2', 'roi_y2'))}")
    folder, table = repacked(tmp_path / "flawed"), tmp_path / "flawed" / "gtsrb_train.csv"
    table.write_text(table.read_text().replace("10,10,29,29", "9,9,3,3"))
    with pytest.raises(UserError, match=r"line 2.*box \[9, 9, 3, 3\] is empty"):
        load_scenes(f"gtsrb:{folder}")
    table.write_text(table.read_text().replace("9,9,3,3", "9,,3,3"))
    with pytest.raises(UserError, match="line 2: whole numbers"):
        load_scenes(f"gtsrb:{folder}")


# --- other loaders ---------------------------------------------------------------------------------------------------


def test_imagefolder_knows_numbers_slugs_and_new_names(tmp_path):
    for name in ("14", "00013", "no-entry"):
        painted(tmp_path / "known" / name / "a.png", size=(30, 20), box=(0, 0, 29, 19))
    known = load_scenes(f"imagefolder:{tmp_path / 'known'}")
    assert known.classes == GTSRB
    assert sorted(known.labels.tolist()) == [13, 14, 17]
    assert len(set(known.groups)) == 3
    torch.testing.assert_close(corners_px(known), torch.tensor([[16.0, 80 / 3], [80.0, 208 / 3]]), atol=1e-3, rtol=0)
    painted(tmp_path / "new" / "stop" / "a.png")
    painted(tmp_path / "new" / "gate" / "b.png")
    new = load_scenes(f"imagefolder:{tmp_path / 'new'}", classes=["gate"])
    assert (new.classes, new.names) == (("gate",), ("gate/b",))
    assert load_scenes(f"imagefolder:{tmp_path / 'new'}").classes == ("gate", "stop")
    assert new.faces.size_mm.tolist() == [[600.0, 600.0]]


def test_empty_imagefolder(tmp_path):
    with pytest.raises(UserError, match="No pictures in the sub-folders"):
        load_scenes(f"imagefolder:{tmp_path}")


def test_photo_quad_becomes_a_homography(tmp_path):
    picture = painted(tmp_path / "street.png", size=(200, 150))
    quad = [40.0, 30.0, 120.0, 40.0, 110.0, 130.0, 50.0, 110.0]
    scenes = load_scenes(f"photo:{picture}", quad=quad, label="14", face_mm=600.0)
    assert (scenes.labels.item(), scenes.groups, scenes.faces.size_mm.tolist()) == (
        14,
        (str(picture),),
        [[600.0, 600.0]],
    )
    side = 100 * 1.5
    seen = (torch.tensor(quad).reshape(1, 4, 2) - torch.tensor([80 - side / 2, 80 - side / 2])) * 96 / side
    corners = torch.tensor([[[0.0, 0.0], [600.0, 0.0], [600.0, 600.0], [0.0, 600.0]]])
    torch.testing.assert_close(project(scenes.surface, corners), seen, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("quad", "label", "message"),
    [
        (None, "stop", "--quad"),
        ([0.0, 0.0, 9.0, 0.0, 9.0, 9.0, 0.0, 9.0], None, "--label"),
        ([0.0, 0.0, 9.0, 0.0, 9.0, 9.0], "stop", "eight numbers"),
        ([0.0, 0.0, 5.0, 0.0, 9.0, 0.0, 0.0, 9.0], "stop", "not convex"),
        ([0.0, 0.0, 0.0, 9.0, 9.0, 9.0, 9.0, 0.0], "stop", "order TL TR BR BL"),
    ],
)
def test_photo_errors(tmp_path, quad, label, message):
    with pytest.raises(UserError, match=message):
        load_scenes(f"photo:{painted(tmp_path / 'a.png')}", quad=quad, label=label)


def test_staged_scenes_are_faces_over_backgrounds(tmp_path):
    painted(tmp_path / "wide.png", size=(300, 200), box=(100, 0, 199, 199))
    face = painted(tmp_path / "art" / "yield.png", box=(0, 0, 39, 39))
    scenes = load_scenes(f"staged:stop,{face}", backgrounds=tmp_path)
    assert scenes.staged
    assert scenes.names == scenes.groups == ("stop", "yield")
    assert (scenes.classes, scenes.labels.tolist()) == (GTSRB, [14, 13])
    torch.testing.assert_close(scenes.images, scenes.faces.images[:, :3])
    size = scenes.images.shape[-1]
    ends = project(scenes.surface, scenes.faces.size_mm[:, None])
    torch.testing.assert_close(ends, torch.full((2, 1, 2), float(size)), atol=1e-3, rtol=0)
    assert torch.cat([scenes.gain, 1 - scenes.bias, scenes.native_px[:, None]], 1).eq(1).all()
    assert scenes.backgrounds.shape == (1, 3, 160, 160)
    assert (scenes.backgrounds[0, 0, :, 60:100] > 0.98).all(), "the centre of the picture is kept"
    named = load_scenes(f"staged:{face}", label="gate", face_mm=300.0)
    assert (named.classes, named.faces.size_mm.amax().item()) == (("gate",), 300.0)


def test_all_drawn_faces():
    scenes = load_scenes("staged:all")
    assert len(scenes) == len(set(scenes.labels.tolist())) >= 30


def test_staged_errors(tmp_path):
    with pytest.raises(UserError, match="nearest: stop"):
        load_scenes("staged:stopp")
    with pytest.raises(UserError, match="does not exist"):
        load_scenes("staged:stop", backgrounds=tmp_path / "nowhere")
    with pytest.raises(UserError, match="no picture"):
        load_scenes("staged:stop", backgrounds=tmp_path)
    with pytest.raises(UserError, match="One label"):
        load_scenes("staged:stop,yield", label="stop")


def test_procedural_backgrounds_are_varied_and_repeatable():
    made = procedural_backgrounds(12, seed=0)
    assert made.shape == (12, 3, 160, 160)
    assert torch.equal(made, made.clamp(0, 1))
    assert torch.equal(made, procedural_backgrounds(12, seed=0))
    assert not torch.equal(made, procedural_backgrounds(12, seed=1))
    assert made.mean((2, 3)).std(0).min() > 0.05, "they differ from each other"
    assert (made.flatten(1).std(1) > 0.01).all(), "and none is one flat colour"
    assert load_scenes("staged:stop").backgrounds.shape[0] >= 24


# --- light -----------------------------------------------------------------------------------------------------------


def lit(path: Path, name: str, gain, bias, *, hidden=0.0) -> Path:
    """A photograph of a drawn face under a known light, a share of it hidden behind something bright."""
    face = faces_for([name], size_px=128).images[0]
    colour = to_srgb(
        (torch.tensor(gain)[:, None, None] * to_linear(face[:3]) + torch.tensor(bias)[:, None, None]).clamp(0, 1)
    )
    picture = 0.4 + face[3:] * (colour - 0.4)
    picture[:, : int(hidden * 128)] = 0.9
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
    return path.parent.parent


@pytest.mark.parametrize("name", ["stop", "speed-limit-50", "keep-right", "yield", "no-entry", "priority-road"])
def test_light_is_recovered(tmp_path, name):
    levels = (0.06, 0.3, 1.0)
    for row, gain in enumerate(levels):
        folder = lit(tmp_path / name / f"{row}.png", name, [gain] * 3, [0.02 * gain] * 3)
    scenes = load_scenes(f"imagefolder:{folder}")
    torch.testing.assert_close(scenes.gain, torch.tensor(levels)[:, None].expand(3, 3), rtol=0.1, atol=0)
    assert (scenes.bias < 0.06 * scenes.gain).all()


@pytest.mark.parametrize("name", ["speed-limit-50", "yield", "no-entry"])
def test_tint_is_recovered(tmp_path, name):
    tint = [0.5, 0.45, 0.4]
    scenes = load_scenes(f"imagefolder:{lit(tmp_path / name / 'a.png', name, tint, [0.0] * 3)}")
    torch.testing.assert_close(scenes.gain[0], torch.tensor(tint), rtol=0.2, atol=0)
    assert scenes.gain[0, 0] > 1.05 * scenes.gain[0, 2]


def test_light_is_robust_to_an_occluder(tmp_path):
    scenes = load_scenes(f"imagefolder:{lit(tmp_path / 'stop' / 'a.png', 'stop', [0.2] * 3, [0.0] * 3, hidden=0.25)}")
    torch.testing.assert_close(scenes.gain[0], torch.full((3,), 0.2), rtol=0.2, atol=0)


def test_light_without_art_is_the_brightness(tmp_path):
    level = float(to_srgb(torch.tensor(0.2)))
    painted(tmp_path / "gate" / "a.png", box=(0, 0, 39, 39), sign=(round(level * 255),) * 3)
    scenes = load_scenes(f"imagefolder:{tmp_path}")
    torch.testing.assert_close(scenes.gain, torch.full((1, 3), 0.25), rtol=0.02, atol=0)
    assert scenes.bias.eq(0).all()


# --- specs -----------------------------------------------------------------------------------------------------------


def test_limit_takes_tracks_in_turn(tmp_path):
    assert spread(["a", "a", "a", "b", "c", "c"], 4) == [0, 1, 3, 4]
    assert spread([*"aabbccdd"], 6) == [0, 1, 2, 4, 5, 6], "the last turn is spread evenly"
    assert spread([*"abcdefgh"], 2) == [0, 4]
    signs = [(14, track, frame) for track in (1, 2, 3) for frame in range(4)]
    scenes = load_scenes(f"gtsrb:{repacked(tmp_path, signs)}", limit=5)
    assert [scenes.groups.count(f"14-{track}") for track in (1, 2, 3)] == [2, 2, 1]
    with pytest.raises(UserError, match="at least 1"):
        load_scenes(f"gtsrb:{tmp_path / 'train'}", limit=0)


def test_class_filter_names_what_is_there(tmp_path):
    spec = f"gtsrb:{repacked(tmp_path)}"
    assert load_scenes(spec, classes=["14"]).labels.tolist() == [14, 14]
    with pytest.raises(UserError, match=r"no scenes of class stpo; there are: stop \(2\), yield \(1\)"):
        load_scenes(spec, classes=["stop", "stpo"])


def test_specs_are_joined(tmp_path):
    folder = repacked(tmp_path / "a+b")
    painted(tmp_path / "more" / "stop" / "x.png")
    scenes = load_scenes(f"gtsrb:{folder}+imagefolder:{tmp_path / 'more'}")
    assert scenes.labels.tolist() == [14, 14, 13, 14]
    assert [scenes.faces.names[face] for face in scenes.face] == ["stop", "stop", "yield", "stop"]
    assert len(scenes.faces) == 2, "a face that both have is kept once"
    assert load_scenes([f"gtsrb:{folder}", f"imagefolder:{tmp_path / 'more'}"], limit=3).groups[:2] == ("14-3", "13-0")


def test_what_cannot_be_merged(tmp_path):
    painted(tmp_path / "gate" / "x.png")
    stop, gate = load_scenes("staged:stop"), load_scenes(f"imagefolder:{tmp_path}")
    with pytest.raises(UserError, match="different classes"):
        merge([stop, gate])
    painted(tmp_path / "signs" / "stop" / "x.png")
    with pytest.raises(UserError, match="staged"):
        merge([stop, load_scenes(f"imagefolder:{tmp_path / 'signs'}")])


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("gtrsb:x", {}, "nearest: gtsrb"),
        ("stop", {}, "kinds: gtsrb, imagefolder, photo, staged"),
        ("gtsrb:", {}, "incomplete"),
        ("staged:stop", {"quad": [0.0] * 8}, "quad goes with photo"),
        ("photo:x.png", {"backgrounds": Path(".")}, "backgrounds goes with staged"),
    ],
)
def test_spec_errors(spec, options, message):
    with pytest.raises(UserError, match=message):
        load_scenes(spec, **options)


# --- real photographs ------------------------------------------------------------------------------------------------


def test_white_is_dark_on_a_dark_photograph(data):
    scenes = load_scenes(f"gtsrb:{data / 'gtsrb' / 'train'}", classes=["stop", "speed-limit-50"], limit=60)
    assert len(set(scenes.groups)) == 60
    white = to_srgb((scenes.gain * 0.8 + scenes.bias).clamp(0, 1)).mean(1)
    sign = floats(scenes.images)[:, :, 24:72, 24:72].mean(1).flatten(1).quantile(0.95, dim=1)
    assert torch.corrcoef(torch.stack([white, sign]))[0, 1] > 0.9
    assert (white - sign).median().abs() < 0.1


def test_captured_photograph(data):
    corners = [59.04, 88.13, 258.07, 51.45, 283.76, 249.92, 54.88, 279.70]
    scenes = load_scenes(f"photo:{data / 'captures/stop_clean/0000.jpg'}", quad=corners, label="stop", face_mm=750.0)
    rim, red = project(scenes.surface, torch.tensor([[[375.0, 7.0], [375.0, 120.0]]]))[0].long().tolist()
    rim, red = (floats(scenes.images[0, :, y, x]) for x, y in (rim, red))
    assert red[0] > 1.8 * red[1], "the ground lies where the drawn one does"
    assert rim[1] > 0.7 * rim[0], "and so does the rim"
