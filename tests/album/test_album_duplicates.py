"""Near-duplicate detection and the choice of the picture to keep, on pictures drawn here."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from small_album import draw, tiny_encoder

from beholder.album.album import Album
from beholder.album.clusters import NOISE, cluster, everyday_words, names_by_captions, names_by_words
from beholder.errors import InvalidSetting
from beholder.pictures.caption_metadata import write_caption


def photo(path: Path, seed: int, change=lambda image: image, taken: str | None = None) -> Path:
    """Draw a picture of 160 × 128 pixels with some detail."""
    draw(path, seed, (160, 128))
    image = Image.open(path).convert("RGB")
    noise = np.random.default_rng(seed).integers(-20, 20, (128, 160, 3))
    image = change(Image.fromarray((np.asarray(image).astype(int) + noise).clip(0, 255).astype(np.uint8)))
    exif = Image.Exif()
    exif[0x0110] = "Camera"
    if taken:
        exif[0x8769] = {0x9003: taken}
    image.save(path, quality=92, exif=exif)
    return path


@pytest.fixture
def album(tmp_path: Path) -> Album:
    folder = tmp_path / "p"
    photo(folder / "one.jpg", 1)
    photo(folder / "one-small.jpg", 1, lambda image: image.resize((80, 64)))
    photo(folder / "one-soft.jpg", 1, lambda image: image.filter(ImageFilter.GaussianBlur(2)))
    photo(folder / "two.jpg", 2)
    shutil.copy(folder / "two.jpg", folder / "two-copy.jpg")
    photo(folder / "three.jpg", 3)
    album = Album.open(tmp_path / "album")
    album.index(folder, model=tiny_encoder())
    return album


def group_stems(album: Album, **options: object) -> list[tuple[str, ...]]:
    return sorted(tuple(Path(path).stem for path in group.paths) for group in album.duplicates(**options))


def test_versions_of_one_picture_form_a_group_led_by_the_sharpest_of_the_largest(album: Album) -> None:
    assert group_stems(album) == [("one", "one-soft", "one-small"), ("two", "two-copy")]
    kinds = {Path(group.paths[0]).stem: (group.kind, group.distance > 0) for group in album.duplicates()}
    assert kinds == {"one": ("similar", True), "two": ("copies", False)}


def test_distance_0_finds_only_copies_and_filters_apply(album: Album) -> None:
    assert group_stems(album, distance=0) == [("two", "two-copy")]
    assert group_stems(album, where="-name:small -name:copy") == [("one", "one-soft")]
    with pytest.raises(InvalidSetting):
        album.duplicates(distance=1.5)


def test_a_burst_is_grouped_by_time_and_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from beholder.album import duplicates

    for number, second in enumerate((0, 5, 50)):
        photo(tmp_path / "p" / f"{number}.jpg", 10 + number, taken=f"2024:01:01 12:00:{second:02}")
    album = Album.open(tmp_path / "album")
    album.index(tmp_path / "p", model=tiny_encoder())
    monkeypatch.setattr(duplicates, "BURST_COSINE", -1.0)  # the tiny model is random, so only the time decides
    monkeypatch.setattr(duplicates, "CANDIDATE_COSINE", -1.0)
    (group,) = album.duplicates(distance=0.001)
    assert group.kind == "burst" and {Path(path).stem for path in group.paths} == {"0", "1"}


def test_a_picture_missing_from_disk_is_skipped(album: Album) -> None:
    for path in (album.folder.parent / "p").iterdir():
        path.unlink()
    assert group_stems(album) == [("two", "two-copy")]


def garment(seed: int) -> Image.Image:
    """Draw a product photograph as shops show it: one patterned shape on a light background."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (240, 320), (236, 236, 232))
    draw = ImageDraw.Draw(image)
    colors = [tuple(int(value) for value in random.integers(20, 220, 3)) for _ in range(4)]
    outline = np.array(
        [(80, 30), (160, 30), (225, 90), (195, 130), (172, 110), (172, 290), (68, 290), (68, 110), (45, 130)]
    )
    placed = (
        outline * random.uniform(0.65, 1.05, 2) + random.uniform(-10, 30, 2) + random.integers(-12, 13, outline.shape)
    )
    draw.polygon([(int(x), int(y)) for x, y in placed], colors[0])
    for _ in range(40):
        x, y, width, height = (int(value) for value in random.integers((50, 50, 4, 4), (150, 250, 40, 30)))
        draw.ellipse((x, y, x + width, y + height), colors[random.integers(1, 4)])
    noise = random.integers(-6, 7, (320, 240, 3))
    return Image.fromarray((np.asarray(image).astype(int) + noise).clip(0, 255).astype(np.uint8))


def watermarked(image: Image.Image) -> Image.Image:
    shown = image.convert("RGBA")
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    ImageDraw.Draw(layer).text((30, 130), "SAMPLE", (255, 255, 255, 150), ImageFont.load_default(44))
    ImageDraw.Draw(layer).text((33, 133), "SAMPLE", (0, 0, 0, 110), ImageFont.load_default(44))
    return Image.alpha_composite(shown, layer).convert("RGB")


def faded(image: Image.Image) -> Image.Image:
    return Image.blend(image, Image.new("RGB", image.size, (235, 235, 235)), 0.55)


def recolored(image: Image.Image) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    return Image.merge("HSV", (hue.point(lambda level: (level + 100) % 256), saturation, value)).convert("RGB")


VERSIONS = {
    "resized": lambda image: image.resize((150, 200)),
    "watermarked": watermarked,
    "faded": faded,
    "recolored": recolored,
    "slightly cropped": lambda image: image.crop((12, 16, 228, 304)),
    "cropped to 70 percent": lambda image: image.crop((30, 40, 198, 264)),
    "mirrored": ImageOps.mirror,
}


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Album:
    home = tmp_path_factory.mktemp("products")
    (home / "p").mkdir()
    for number in range(12):
        image = garment(number)
        image.save(home / "p" / f"{number:02} original.jpg", quality=92)
        for name, change in VERSIONS.items():
            change(image).save(home / "p" / f"{number:02} {name}.jpg", quality=90)
    album = Album.open(home / "album")
    album.index(home / "p", model=tiny_encoder())
    return album


def count_grouped_versions(album: Album, **options: object) -> tuple[dict[str, int], list[list[str]]]:
    """Return how many versions of each kind are grouped with their original, and the names in each group."""
    names = [[Path(path).stem for path in group.paths] for group in album.duplicates(**options)]
    counts = dict.fromkeys(VERSIONS, 0)
    for group in names:
        for name in group:
            if "original" not in name and f"{name[:2]} original" in group:
                counts[name[3:]] += 1
    return counts, names


@pytest.mark.slow
def test_product_versions_are_grouped_and_different_products_are_not(
    products: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beholder.album import duplicates

    # The tiny model is random, so all pairs are candidates and only registration decides.
    monkeypatch.setattr(duplicates, "CANDIDATE_COSINE", -1.0)
    monkeypatch.setattr(duplicates, "NEIGHBORS", 96)
    counts, names = count_grouped_versions(products)
    assert all(len({name[:2] for name in group}) == 1 for group in names)
    assert min(counts[kind] for kind in counts if kind != "mirrored") >= 11, counts
    assert all(group[0].endswith("original") for group in names)
    counts, names = count_grouped_versions(products, mirrored=True)
    assert counts["mirrored"] >= 11 and all(len({name[:2] for name in group}) == 1 for group in names)


@pytest.mark.parametrize("kind", ["resized", "watermarked", "faded", "slightly cropped", "cropped to 70 percent"])
def test_the_original_is_the_version_to_keep(products: Album, kind: str) -> None:
    from beholder.album.best_copy import best_first
    from beholder.album.duplicates import load_appearances

    kept = 0
    for number in range(12):
        pair = list(products.pictures(f'name:"{number:02} original" or name:"{number:02} {kind}"'))
        assert len(pair) == 2
        kept += best_first(pair, load_appearances(products.store, pair))[0].path.endswith("original.jpg")
    assert kept == 12


def test_distance_0_finds_identical_pixels_in_different_files(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    image = Image.open(photo(folder / "a.jpg", 1))
    image.save(folder / "a.png")
    image.save(folder / "a.bmp")
    (folder / "tagged.jpg").write_bytes((folder / "a.jpg").read_bytes())
    write_caption(folder / "tagged.jpg", "a caption")
    photo(folder / "a-small.jpg", 1, lambda image: image.resize((80, 64)))
    photo(folder / "b.jpg", 2)
    with Album.open(tmp_path / "album") as album:
        album.index(folder, model=tiny_encoder())
        (group,) = album.duplicates(distance=0)
        assert {Path(path).name for path in group.paths} == {"a.jpg", "a.png", "a.bmp", "tagged.jpg"}
        assert (group.kind, group.distance) == ("copies", 0)


def groups() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    centres = np.eye(8)[:3]
    kinds = np.repeat([0, 1, 2], [30, 20, 10])
    vectors = centres[kinds] + 0.1 * random.normal(size=(60, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), kinds


@pytest.mark.parametrize("clusters", [3, None], ids=["k-means", "HDBSCAN"])
def test_clusters_are_sorted_by_size(clusters: int | None) -> None:
    vectors, kinds = groups()
    found = cluster(vectors, clusters)
    sure = found != NOISE
    assert sure.mean() > 0.8 and (found == kinds)[sure].all()


def test_cluster_names_are_distinctive_and_unique() -> None:
    vectors, kinds = groups()
    words = np.eye(8, dtype=np.float32)[:3]
    assert names_by_words(vectors, kinds, ["a", "b", "c"], words) == {0: "a", 1: "b", 2: "c"}
    assert set(names_by_words(vectors, kinds, ["a"], words[:1]).values()) == {"a", "group 2", "group 3"}
    assert set(names_by_words(vectors, kinds * 0, ["a", "b"], words[:2]).values()) == {"a"}


def test_a_cluster_is_named_by_distinctive_caption_words() -> None:
    captions = ["a dog in the snow", "a dog runs", "a cat sleeps", "the cat on a bed", None]
    named = names_by_captions(captions, np.array([0, 0, 1, 1, 2]))
    assert "dog" in named[0].split() and "cat" in named[1].split() and named[2] == "group 3"


def test_more_groups_than_pictures_are_refused() -> None:
    with pytest.raises(InvalidSetting):
        cluster(groups()[0], 61)


def test_everyday_words_are_distinct() -> None:
    words = everyday_words()
    assert len(words) == len(set(words)) > 80 and all(words)
