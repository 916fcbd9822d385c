"""Street photographs: what the readers make of a file, and where a sign lies on its canvas."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from physadv.errors import UserError
from physadv.scenes import Scenes, load_scenes, merge
from physadv.scenes.classes import canonical
from physadv.scenes.faces import faces_for
from physadv.scenes.street import Annotation, Street, coco, yolo
from physadv.scenes.street_develop import BOARDS, develop_street
from physadv.transforms.colour import to_linear
from physadv.transforms.warp import project

GREEN, RED, GREY = (0, 160, 0), (255, 0, 0), (128, 128, 128)


def picture(path: Path, *, size=(60, 40), box=None) -> Path:
    """A green picture; box (whole px) is red."""
    pixels = np.full((size[1], size[0], 3), GREEN, np.uint8)
    if box:
        x1, y1, x2, y2 = box
        pixels[y1:y2, x1:x2] = RED
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def instances(root: Path, **changes) -> Path:
    """A COCO json of three photographs: two signs and a crowd, none, one with a quad; `changes` replace its keys."""
    for name in ("a", "b", "deep/c"):
        picture(root / "images" / f"{name}.png")
    content = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 60, "height": 40, "group": 3},
            {"id": 8, "file_name": "b.png", "width": 60, "height": 40},
            {"id": "x", "file_name": "deep/c.png"},
        ],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [10, 5, 20, 30], "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 60, 40], "iscrowd": 1},
            {"image_id": "x", "category_id": 2, "bbox": [1, 1, 8, 9], "quad": [1, 1, 9, 2, 9, 10, 1, 9]},
            {"image_id": 7, "category_id": 2, "bbox": [40, 5.5, 10, 20]},
        ],
        "categories": [{"id": 1, "name": "Stop Sign"}, {"id": 2, "name": "traffic_light"}],
    }
    file = root / "instances.json"
    file.write_text(json.dumps(content | changes))
    return file


def ultralytics(root: Path, labels: str = "0 0.5 0.5 0.2 0.4\n", **changes) -> Path:
    """A data.yaml with one labelled and one unlabelled photograph in train and one in val."""
    for place in ("train/a", "train/b", "val/c"):
        picture(root / "images" / f"{place}.png")
    (root / "labels/train").mkdir(parents=True, exist_ok=True)
    (root / "labels/train/a.txt").write_text(labels)
    content = {"train": "images/train", "val": "images/val", "names": {0: "stop sign", 1: "yield"}} | changes
    file = root / "data.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return file


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Stop Sign", "stop"),
        ("stop", "stop"),
        ("traffic light", "trafficlight"),
        ("traffic_light", "trafficlight"),
        ("trafficlight", "trafficlight"),
        ("Fire  Hydrant", "fire-hydrant"),
        ("speed-limit-50", "speed-limit-50"),
    ],
)
def test_canonical_names(name, slug):
    assert canonical(name) == slug


# --- readers ---------------------------------------------------------------------------------------------------------


def test_coco(tmp_path):
    first, empty, last = coco(instances(tmp_path))
    assert first.signs == (
        Annotation("stop", (10.0, 5.0, 30.0, 35.0)),
        Annotation("trafficlight", (40.0, 5.5, 50.0, 25.5)),
    )
    assert (first.name, first.group, first.size_px) == ("a", "3", (60, 40))
    assert empty.signs == ()
    assert empty.group == "b.png"
    assert last.signs == (Annotation("trafficlight", (1.0, 1.0, 9.0, 10.0), (1, 1, 9, 2, 9, 10, 1, 9)),)
    assert (last.name, last.size_px, last.path) == ("deep/c", (60, 40), tmp_path / "images/deep/c.png")


def test_coco_pictures_beside_the_json(tmp_path):
    file = instances(tmp_path)
    (tmp_path / "images/a.png").rename(tmp_path / "a.png")
    assert coco(file)[0].path == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "instances.json: images: "),
        ({"images": [{"id": 1}]}, r"images\[0\].file_name: field required"),
        ({"images": [{"id": 1, "file_name": "no.png"}], "annotations": []}, r"images\[0\]: there is no no.png"),
        ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, r"images\[1\] has the id 1 a second time"),
        ({"categories": 3}, "categories: "),
        ({"annotations": [{"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, r"annotations\[0\] is of image 9"),
        (
            {"annotations": [{"image_id": 7, "category_id": 9, "bbox": [0, 0, 1, 1]}]},
            r"annotations\[0\] has category 9",
        ),
        ({"annotations": [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1]}]}, r"annotations\[0\].bbox"),
        (
            {"annotations": [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 0, 5]}]},
            r"annotations\[0\]: its box is 0 x 5",
        ),
        (
            {"annotations": [{"image_id": 7, "category_id": 1, "bbox": [0, 0, float("nan"), 5]}]},
            r"annotations\[0\].bbox",
        ),
        ({"annotations": [{"image_id": 7, "category_id": 1, "bbox": [70, 0, 5, 5]}]}, "outside a.png, 60 x 40 px"),
        (
            {
                "annotations": [
                    {"image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5], "quad": [0, 0, 0, 5, 5, 5, 5, 0]}
                ]
            },
            r"annotations\[0\]: its quad is not convex",
        ),
        (
            {"annotations": [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5], "quad": [0, 0]}]},
            r"annotations\[0\].quad",
        ),
    ],
)
def test_coco_errors_name_file_and_entry(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as raised:
        coco(instances(tmp_path, **changes))
    assert "instances.json" in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_no_coco_at_all(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json"):
        coco(tmp_path / "x.json")


def test_yolo(tmp_path):
    labelled, unlabelled = yolo(ultralytics(tmp_path))
    (sign,) = labelled.signs
    assert sign.label == "stop"
    assert sign.box == pytest.approx((24, 12, 36, 28))
    assert unlabelled.signs == ()
    assert unlabelled.size_px == (60, 40)
    assert [street.name for street in yolo(ultralytics(tmp_path), "val")] == ["c"]


def test_yolo_polygon_is_its_box(tmp_path):
    (sign,) = yolo(ultralytics(tmp_path, "1 0.1 0.2 0.5 0.1 0.3 0.9"))[0].signs
    assert sign.label == "yield"
    assert sign.box == pytest.approx((6, 4, 30, 36))


def test_yolo_paths(tmp_path):
    listed = tmp_path / "train.txt"
    listed.write_text("./images/train/b.png\n\nimages/train/a.png\n")
    assert [one.name for one in yolo(ultralytics(tmp_path, train="train.txt"))] == ["b", "a"]
    assert [one.name for one in yolo(ultralytics(tmp_path, train=["images/val", "images/train"]))] == ["c", "a", "b"]
    assert len(yolo(ultralytics(tmp_path, path="images", train="train"))) == 2
    assert len(yolo(ultralytics(tmp_path, train="../images/train"))) == 2
    assert len(yolo(ultralytics(tmp_path, names=["stop", "yield"]))) == 2


def test_yolo_reads_turned_photographs_upright(tmp_path):
    file = ultralytics(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "images/train/a.png", exif=exif)
    assert yolo(file)[0].size_px == (40, 60)
    assert load_scenes(f"yolo:{file}", street_px=60).extent_px[0].tolist() == [40, 60]


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        ("0 0.5 0.5 0.2", {}, "a.txt, line 1 has 4 columns"),
        ("\n0 0.5 0.5 x 0.2", {}, "a.txt, line 2: .* no number"),
        ("5 0.5 0.5 0.2 0.2", {}, "line 1: class 5 is not one of `names`"),
        ("0.5 0.5 0.5 0.2 0.2", {}, "line 1: class 0.5 is not one"),
        ("0 30 20 12 16", {}, "line 1: the box is not in shares"),
        ("0 0.5 0.5 nan 0.2", {}, "line 1: the box is not in shares"),
        ("0 0.5 0.5 0 0.2", {}, "line 1: its box is 0 x"),
        ("0 -0.5 0.5 0.2 0.2", {}, "lies outside a.png"),
        ("", {"names": None}, "`names` must list the classes"),
        ("", {"names": "stop"}, "`names` must list the classes"),
        ("", {"train": None}, "no split 'train' .there: val."),
        ("", {"train": "nowhere"}, "there is no .*nowhere"),
        ("", {"train": {"a": 1}}, "must be folders or text files"),
        ("", {"train": "labels"}, "holds no pictures"),
    ],
)
def test_yolo_errors(tmp_path, labels, changes, message):
    with pytest.raises(UserError, match=message):
        yolo(ultralytics(tmp_path, labels, **changes))


def test_damaged_yolo_files(tmp_path):
    file = ultralytics(tmp_path)
    (tmp_path / "labels/train/a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"a\.txt is no text file"):
        yolo(file)
    (tmp_path / "images/train/a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.png is not a picture"):
        yolo(file)
    file.write_text("a: [")
    with pytest.raises(UserError, match=r"data\.yaml is not readable YAML"):
        yolo(file)


# --- scenes ----------------------------------------------------------------------------------------------------------


def outline_boxes(scenes: Scenes) -> torch.Tensor:
    seen = project(scenes.surface, scenes.faces.outline_mm[scenes.face])
    return torch.cat([seen.amin(1), seen.amax(1)], 1)


def street(path: Path, *signs: Annotation, size=(60, 40)) -> Street:
    return Street(path, path.stem, path.stem, size, signs)


def test_the_annotated_boxes_come_back(tmp_path):
    scenes = develop_street(coco(instances(tmp_path)), canvas_px=90)
    assert (len(scenes), len(scenes.face)) == (3, 3)
    assert scenes.photograph.tolist() == [0, 0, 2]
    assert scenes.classes == ("stop", "trafficlight")
    assert scenes.labels.tolist() == [0, 1, 1]
    assert bool(scenes.worn.all())
    expected = torch.tensor([[15.0, 7.5, 45.0, 52.5], [60.0, 8.25, 75.0, 38.25]])
    torch.testing.assert_close(outline_boxes(scenes)[:2], expected, atol=1e-3, rtol=0)
    corners = project(scenes.surface[2:], torch.tensor([[[0.0, 0.0], [350, 0], [350, 750], [0, 750]]]))[0]
    torch.testing.assert_close(
        corners, torch.tensor([[1.5, 1.5], [13.5, 3.0], [13.5, 15.0], [1.5, 13.5]]), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("name", ["stop", "yield", "speedlimit", "crosswalk", "trafficlight", "fire-hydrant", "danger"])
def test_every_board_fills_its_box(tmp_path, name):
    sign = Annotation(name, (10.25, 5.5, 31.0, 33.75))
    scenes = develop_street([street(picture(tmp_path / "a.png"), sign)], canvas_px=60)
    torch.testing.assert_close(outline_boxes(scenes), torch.tensor([sign.box]), atol=1e-3, rtol=0)
    assert scenes.faces.outline_mm.shape == (1, 32, 2)


def enclosed(outline: torch.Tensor) -> float:
    """The area inside a polygon, mm²."""
    x, y = outline.unbind(1)
    return float((x * y.roll(-1) - y * x.roll(-1)).sum().abs() / 2)


def test_a_disc_is_a_disc(tmp_path):
    sign = Annotation("speedlimit", (10, 5, 30, 25))
    faces = develop_street([street(picture(tmp_path / "a.png"), sign)], canvas_px=60).faces
    square = develop_street([street(tmp_path / "a.png", replace(sign, label="crosswalk"))], canvas_px=60).faces
    assert square.area_mm2.item() == pytest.approx(600**2) == enclosed(square.outline_mm[0])
    assert enclosed(faces.outline_mm[0]) == pytest.approx(torch.pi * 300**2, rel=1e-2)
    radius = (faces.outline_mm[0] - faces.size_mm[0] / 2).norm(dim=1)
    torch.testing.assert_close(radius, torch.full((32,), 300.0))
    assert faces.area_mm2.item() == pytest.approx(torch.pi * 300**2, rel=2e-3)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (60, 10), (40, 40), (61, 37)])
def test_canvas(tmp_path, size):
    path = picture(tmp_path / "a.png", size=size, box=(4, 2, 14, 8))
    scenes = develop_street([street(path, Annotation("stop", (4, 2, 14, 8)), size=size)], canvas_px=120)
    scale = 120 / max(size)
    width, height = scenes.extent_px[0].tolist()
    assert (width, height) == (round(size[0] * scale), round(size[1] * scale))
    assert scenes.images.shape == (1, 3, 120, 120)
    assert scenes.images.dtype == torch.uint8
    assert scenes.native_px.item() == pytest.approx(scale, rel=0.02)
    (box,) = outline_boxes(scenes)
    expected = torch.tensor([4, 2, 14, 8]) * torch.tensor([width / size[0], height / size[1]] * 2)
    torch.testing.assert_close(box, expected, atol=1e-3, rtol=0)
    x1, y1, x2, y2 = (round(value) for value in box.tolist())
    canvas = scenes.images[0].float()
    assert canvas[0, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() > 250
    assert canvas[0, y2 + 3 : int(height)].max() < 5


def test_beyond_the_edge_is_the_mirror_image(tmp_path):
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[:, None, None], (1, 40, 3))
    Image.fromarray(ramp[::-1, ::-1] // 2 + np.arange(0, 120, 3, dtype=np.uint8)[:, None]).save(tmp_path / "a.png")
    signs = Annotation("stop", (1, 1, 9, 9))
    canvas = develop_street([street(tmp_path / "a.png", signs, size=(40, 60))], canvas_px=60).images[0, 0]
    torch.testing.assert_close(canvas[:, 40:], canvas[:, 20:40].flip(1))
    Image.fromarray(ramp.transpose(1, 0, 2)[:10].copy()).save(tmp_path / "flat.png")
    canvas = develop_street([street(tmp_path / "flat.png", signs, size=(60, 10))], canvas_px=60).images[0, 0]
    assert bool((canvas[10:] == canvas[9]).all())


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    scenes = develop_street(
        [street(tmp_path / "a.png", Annotation("stop", (1, 1, 99, 99)), size=(400, 400))], canvas_px=50
    )
    assert (scenes.images.float() - 127.5).abs()[..., 2:-2].max() < 3


def test_worn_signs(tmp_path):
    streets = coco(instances(tmp_path))
    scenes = develop_street(streets, canvas_px=60, classes=["stop sign"])
    assert scenes.worn.tolist() == [True, False, False]
    assert len(scenes) == 3
    fewer = develop_street(streets, canvas_px=60, classes=["stop"], only_worn=True)
    assert fewer.names == ("a",)
    assert fewer.worn.tolist() == [True, False]
    assert fewer.classes == scenes.classes
    by_number = develop_street(streets, canvas_px=60, classes=["14"])
    assert by_number.worn.tolist() == [True, False, False]
    with pytest.raises(UserError, match=r"no signs of class yield; there are: stop \(1\), trafficlight \(2\)"):
        develop_street(streets, canvas_px=60, classes=["yield"])


def test_face_mm_is_of_the_worn_signs(tmp_path):
    streets = coco(instances(tmp_path))
    sizes = develop_street(streets, canvas_px=60, classes=["stop"], face_mm=450.0).faces.size_mm
    assert sizes.tolist() == [[450.0, 450.0], [350.0, 750.0]]
    sizes = develop_street(streets, canvas_px=60, classes=["trafficlight"], face_mm=175.0).faces.size_mm
    assert sizes.tolist() == [[900.0, 900.0], [175.0, 375.0]]


def test_photographs_that_do_not_fit_their_annotations(tmp_path):
    path = picture(tmp_path / "a.png")
    sign = Annotation("stop", (1, 1, 9, 9))
    with pytest.raises(UserError, match=r"a\.png is 60 x 40 px, but is annotated as 40 x 60 px"):
        develop_street([street(path, sign, size=(40, 60))], canvas_px=60)
    with pytest.raises(UserError, match="None of the 1 photographs has an annotated sign"):
        develop_street([street(path)], canvas_px=60)


def test_every_sign_has_its_own_light(tmp_path):
    drawn = Image.fromarray((faces_for(["stop"]).images[0, :3].permute(1, 2, 0) * 255).byte().numpy())
    linear = to_linear(torch.from_numpy(np.array(drawn)).float() / 255)
    dark = ((0.25 * linear) ** (1 / 2.2) * 255).byte().numpy()
    scene = Image.new("RGB", (300, 140), GREY)
    scene.paste(drawn, (10, 6))
    scene.paste(Image.fromarray(dark), (160, 6))
    scene.save(tmp_path / "a.png")
    signs = [Annotation("stop", (x, 6, x + 128, 134)) for x in (10, 160)]
    streets = [street(picture(tmp_path / "b.png")), street(tmp_path / "a.png", *signs, size=(300, 140))]
    scenes = develop_street(streets, canvas_px=300, refine=False)
    bright, dim = scenes.gain.mean(1).tolist()
    assert bright == pytest.approx(1, abs=0.1)
    assert dim == pytest.approx(0.25, abs=0.05)


def test_specs(tmp_path):
    first, second = instances(tmp_path / "one"), ultralytics(tmp_path / "two")
    scenes = load_scenes(f"coco:{first}", classes=["stop"])
    assert scenes.images.shape[-1] == 416
    assert scenes.worn.tolist() == [True, False, False]
    assert load_scenes(f"coco:{first}", canvas_px=64, street_px=100).images.shape[-1] == 64
    joined = load_scenes(f"coco:{first}+yolo:{second}", street_px=60)
    assert joined.names == ("a", "b", "deep/c", "a", "b")
    assert joined.photograph.tolist() == [0, 0, 2, 3]
    limited = load_scenes(f"coco:{first}+yolo:{second}", street_px=60, classes=["stop"], only_worn=True, limit=1)
    assert len(limited) == 1
    assert bool(limited.worn.any())
    with pytest.raises(UserError, match="None of the 1 photographs"):
        load_scenes(f"yolo:{second}:val")
    with pytest.raises(UserError, match="no split 'vall'"):
        load_scenes(f"yolo:{second}:vall")
    with pytest.raises(UserError, match="joins whole photographs"):
        load_scenes(f"coco:{first}+staged:stop")
    with pytest.raises(UserError, match="joined where they are read"):
        merge([scenes, scenes])
    with pytest.raises(UserError, match="does not exist"):
        load_scenes("coco:nowhere.json")


# --- real photographs ------------------------------------------------------------------------------------------------


def test_roadsign(data):
    streets = coco(data / "roadsign/test/instances.json")
    assert len(streets) == 173
    assert sum(len(one.signs) for one in streets) == 241
    scenes = load_scenes(f"coco:{data}/roadsign/test/instances.json", classes=["stop"], only_worn=True)
    shown = [one for one in streets if one.shows({"stop"})]
    truth = [(row, sign) for row, one in enumerate(shown) for sign in one.signs]
    assert scenes.classes == ("crosswalk", "speedlimit", "stop", "trafficlight")
    assert set(BOARDS) < set(scenes.classes)
    assert int(scenes.worn.sum()) == 18
    assert len(scenes) == len(shown)
    for box, (row, sign) in zip(outline_boxes(scenes), truth, strict=True):
        scale = scenes.extent_px[row] / torch.tensor(shown[row].size_px)
        torch.testing.assert_close(box, torch.tensor(sign.box) * scale.repeat(2), atol=1e-3, rtol=0)
    picked = scenes.take(torch.tensor([2, 0, 2]))
    assert picked.photograph.unique().tolist() == [0, 1, 2]
    assert torch.equal(picked.images[0], scenes.images[2])
