"""Pictures in folders and in files: what is read, and what is refused with which words."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from motet.data import (
    DataError,
    Example,
    load_material,
    partition,
    pixels,
    read_data,
    read_examples,
    write_jsonl,
)
from motet.data.examples import HELD_OUT
from motet.data.fashion import FASHION, read_fashion
from motet.data.images import decoded, greyscale_file, read_image_folder
from motet.data.partition import write_shards
from motet.materials import is_fetched
from motet.recipe import parse_recipe


def picture(value=0, *, size=(8, 8), kind="PNG", mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, size, value).save(stream, kind)
    return stream.getvalue()


def write_folder(folder, counts, start=0):
    """counts: class name -> number of pictures; every picture is of another grey."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            start += 1
            grey = np.full((8, 8), start % 256, np.uint8)
            grey[0, 0] = start // 256
            Image.fromarray(grey).save(folder / name / f"{i:03d}.png")
    return folder


def recipe_for(path, more="", classes="[cat, dog]"):
    return parse_recipe(
        "name: t\nbase_model: {tiny: tiny-dinov2}\n"
        "task: {kind: image-classification, num_labels: 2, image_size: 8}\n"
        f"data: {{path: {path}, classes: {classes}, test_examples: 4{more}}}\n"
        "adapter: {lora_rank: 2, targets: [q_proj]}\nmethod: {name: flora}\nseed: 3\n"
    )


def test_labels_are_the_places_of_class_folders_in_the_recipe_and_not_of_the_alphabet(tmp_path):
    write_folder(tmp_path, {"cat": 2, "dog": 3})
    assert [e.label for e in read_image_folder(tmp_path, ["cat", "dog"])] == [0, 0, 1, 1, 1]
    assert [e.label for e in read_image_folder(tmp_path, ["dog", "cat"])] == [1, 1, 0, 0, 0]
    assert [e.label for e in read_image_folder(tmp_path, ["ant", "cat", "dog"])] == [1, 1, 2, 2, 2]


BROKEN = {
    "cut short": (picture()[:40], "no readable PNG or JPEG"),
    "cut short jpeg": (picture(size=(64, 64), kind="JPEG")[:400], "no readable PNG or JPEG"),
    "a damaged byte": (picture()[:45] + b"\xff" + picture()[46:], "no readable PNG or JPEG"),
    "a text": (b"hello", "no readable PNG or JPEG"),
    "empty": (b"", "no readable PNG or JPEG"),
    "a gif": (picture(kind="GIF"), "no readable PNG or JPEG"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_picture_is_told_by_name(tmp_path, case):
    write_folder(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "dog/bad.png").write_bytes(BROKEN[case][0])
    with pytest.raises(DataError, match=BROKEN[case][1]) as caught:
        read_image_folder(tmp_path, ["cat", "dog"])
    assert "dog/bad.png" in caught.value.message
    assert caught.value.hint


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
    header = b"P5 100000 100000 255\n"
    with pytest.raises(DataError, match=r"too many|no readable"):
        decoded(header + b"\0" * 100, "bomb.png")
    with pytest.raises(DataError, match="9000 x 9000 pixels are too many"):
        decoded(b"P5 9000 9000 255\n", "large.png")


def test_what_lies_in_the_wrong_place_is_told(tmp_path):
    write_folder(tmp_path, {"cat": 1})
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert len(read_image_folder(tmp_path, ["cat"])) == 1
    with pytest.raises(DataError, match="cat: is no folder of one of the classes dog"):
        read_image_folder(tmp_path, ["dog"])
    (tmp_path / "cat/notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"notes.txt: is not a .png or .jpg file"):
        read_image_folder(tmp_path, ["cat"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no picture"):
        read_image_folder(tmp_path / "empty", ["cat"])
    with pytest.raises(DataError, match="can not be read"):
        read_image_folder(tmp_path / "nowhere", ["cat"])


def test_a_folder_without_class_names_in_the_recipe_is_refused(tmp_path):
    write_folder(tmp_path, {"cat": 2, "dog": 2})
    recipe = recipe_for(tmp_path)
    bare = recipe.model_copy(update={"data": recipe.data.model_copy(update={"classes": None})})
    with pytest.raises(DataError, match="which class folder has which label"):
        read_data(bare, tmp_path)
    assert len(read_data(recipe, tmp_path)) == 4


def test_colours_size_and_orientation():
    red = pixels(picture((255, 0, 0), size=(20, 10)), 4)
    assert red.shape == (3, 4, 4)
    assert red.dtype == np.uint8
    assert (red[0] == 255).all()
    assert (red[1:] == 0).all()
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    assert (pixels(greyscale_file(wide), 10) == 200).all()  # the middle square
    deep = np.full((4, 4), 0x80FF, np.uint16)
    stream = io.BytesIO()
    Image.fromarray(deep).save(stream, "PNG")
    assert (pixels(stream.getvalue(), 4) == 0x80).all()
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    half = np.zeros((8, 8, 3), np.uint8)
    half[:4] = 255
    Image.fromarray(half).save(turned, "JPEG", exif=exif.tobytes(), quality=100)
    right = pixels(turned.getvalue(), 8)[0]
    assert right[:, 6].min() > 200
    assert right[:, 1].max() < 50


def test_what_is_written_is_read_back(tmp_path):
    examples = [
        Example(image=greyscale_file(np.full((3, 5), i, np.uint8)), label=i % 2, group="g", source=f"s{i}")
        for i in range(4)
    ]
    path = write_jsonl(examples, tmp_path / "a.jsonl")
    assert read_examples(path, num_labels=2, images=True) == examples
    with pytest.raises(DataError, match="no column 'text'"):
        read_examples(path, num_labels=2)


@pytest.mark.parametrize("stored", ["%%%", 7, base64.b64encode(b"no picture").decode()])
def test_a_line_without_a_picture_is_told(tmp_path, stored):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"image": stored, "label": 0}) + "\n")
    with pytest.raises(DataError, match=r"a.jsonl:1: (column 'image' is not|no readable)"):
        read_examples(path, num_labels=2, images=True)


def test_one_folder_of_classes_is_dealt_and_the_shards_are_read_as_files(tmp_path):
    write_folder(tmp_path / "all", {"cat": 20, "dog": 20})
    recipe = recipe_for(tmp_path / "all", ", partition: {by: iid, num_clients: 2}")
    dealt = partition(recipe)
    assert {c: len(e) for c, e in dealt.train.items()} == {"client-1": 18, "client-2": 18}
    assert len(dealt.test) == 4
    assert partition(recipe) == dealt
    write_shards(dealt, tmp_path / "shards")
    again = partition(recipe_for(tmp_path / "shards"))
    assert {c: len(e) for c, e in again.train.items()} == {"client-1": 18, "client-2": 18}


def test_a_folder_for_each_client_is_taken_as_it_is(tmp_path):
    for at, name in enumerate(["north", "south", "test"]):
        write_folder(tmp_path / name, {"cat": 3, "dog": 3}, start=10 * at)
    dealt = partition(recipe_for(tmp_path))
    assert sorted(dealt.train) == ["north", "south"]
    assert len(dealt.test) == 4
    write_folder(
        tmp_path / "south", {"dog": 4}, start=0
    )  # the first picture of north's, and test's sources stay
    (tmp_path / "test/cat/000.png").write_bytes((tmp_path / "north/cat/000.png").read_bytes())
    with pytest.raises(DataError, match=r"1 sources stand in test as well"):
        partition(recipe_for(tmp_path))


@pytest.fixture
def toy_fashion(tmp_path):
    folder = tmp_path / "usr/share/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("t10k", 8)):
        images = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        head = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes()))
        head = struct.pack(">II", 0x801, count)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + labels.tobytes()))
    return tmp_path


def grey(example):
    return np.asarray(decoded(example.image, "x"))[:, :, 0]


def test_each_picture_is_in_one_domain_and_is_that_transform_of_the_published_one(toy_fashion):
    plain = {e.source: e for e in read_fashion(toy_fashion, domains=False)}
    seen = list(read_fashion(toy_fashion, domains=True))
    assert [e.source for e in seen] == list(plain)
    assert [e.label for e in seen] == [e.label for e in plain.values()]
    assert sum(e.source.startswith(HELD_OUT) for e in seen) == 8
    assert [e.group for e in seen[:4]] == ["blurred", "inverted", "rotated", "upright"]
    originals = [grey(plain[e.source]) for e in seen[:4]]
    blurred, inverted, rotated, upright = (grey(e) for e in seen[:4])
    assert (upright == originals[3]).all()
    assert (rotated == np.rot90(originals[2])).all()
    assert (inverted == 255 - originals[1]).all()
    assert blurred[10, 10] == originals[0][8:13, 8:13].mean(dtype=np.float64) // 1
    assert len(FASHION) == 10


def test_a_damaged_data_set_is_told(toy_fashion):
    path = toy_fashion / "usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz"
    whole = gzip.decompress(path.read_bytes())
    for bad in (gzip.compress(whole[:-1]), gzip.compress(b""), path.read_bytes()[:50], b"x"):
        path.write_bytes(bad)
        with pytest.raises(DataError) as caught:
            list(read_fashion(toy_fashion, domains=False))
        assert "train-images" in caught.value.message


@pytest.mark.materials
def test_fashion_mnist_as_it_is_published():
    if not is_fetched("fashion-mnist"):
        pytest.skip("motet materials fetch fashion-mnist")
    examples = load_material("fashion-domains")
    assert len(examples) == 70_000
    held_out = [e for e in examples if e.source.startswith(HELD_OUT)]
    assert len(held_out) == 10_000
    for group in ("blurred", "inverted", "rotated", "upright"):
        labels = np.bincount([e.label for e in held_out if e.group == group], minlength=10)
        assert labels.sum() == 2500
        assert labels.min() > 200
