"""read_picture on the table of awkward pictures, and on sources other than files."""

import os
import subprocess
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from awkward import AWKWARD, Awkward, encoded, linear_gray_profile, quadrants, shows, swapped_profile, turned_with_note
from PIL import Image, ImageCms, ImageFile

from beholder.errors import (
    InvalidAnswer,
    InvalidSetting,
    NotAPicture,
    PictureBroken,
    PictureError,
    PictureRefused,
    PictureTooLarge,
    PictureUnreadable,
    RequestFailed,
)
from beholder.pictures.color import ColorProfileWarning
from beholder.pictures.limits import Limits
from beholder.pictures.read import display_name, read_picture
from beholder.pictures.truncated import TruncatedPictureWarning


@pytest.mark.parametrize("case", AWKWARD, ids=lambda case: case.name)
def test_an_awkward_picture_is_decoded_or_refused_as_expected(case: Awkward, tmp_path: Path):
    source = case.make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("default", "Corrupt EXIF")  # Pillow's warning about a file that is still read
        if case.error is None:
            case.check(read_picture(source))
            return
        with pytest.raises(PictureError) as caught:
            read_picture(source)
    assert type(caught.value) is case.error
    assert str(caught.value).startswith(display_name(source, 0) + ": ")
    assert case.says in caught.value.reason
    assert " at 0x" not in str(caught.value)


def test_the_table_covers_every_error_type_and_at_least_forty_pictures():
    kinds = {case.error for case in AWKWARD}
    of_models = {InvalidAnswer, RequestFailed}  # the picture itself was read
    assert kinds == {None, *PictureError.__subclasses__()} - of_models
    assert len(AWKWARD) >= 40
    assert len({case.name for case in AWKWARD}) == len(AWKWARD)


@pytest.mark.parametrize("case", [case for case in AWKWARD if case.error is None], ids=lambda case: case.name)
def test_bytes_and_an_opened_image_decode_like_the_path(case: Awkward, tmp_path: Path):
    path = case.make(tmp_path)
    expected = np.asarray(read_picture(path))
    np.testing.assert_array_equal(np.asarray(read_picture(Path(path).read_bytes())), expected)
    if Path(path).suffix not in (".heif", ".heic"):  # Pillow can't open HEIC on its own
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(read_picture(image)), expected)


def test_a_file_without_permission_is_unreadable(tmp_path: Path):
    path = tmp_path / "locked.png"
    path.write_bytes(encoded(quadrants(), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file (root); 'link to itself' in the table fails to open for all users")
    with pytest.raises(PictureUnreadable, match=r"locked\.png: can't be opened: Permission denied"):
        read_picture(path)


def test_heic_without_the_extra_is_refused_with_a_pip_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "photo.heic"
    path.write_bytes(encoded(quadrants(), "HEIF"))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PictureRefused) as caught:
        read_picture(path)
    assert str(caught.value) == f'{path}: cannot read HEIC pictures: pip install "beholder[heic]"'


@pytest.mark.parametrize("profile", [b"", b"no profile at all", swapped_profile()[:200], b"\0" * 4000])
def test_a_damaged_color_profile_is_ignored_with_a_warning(profile: bytes):
    data = encoded(quadrants(), "TIFF", icc_profile=profile)
    if not profile:
        shows()(read_picture(data))
        return
    with pytest.warns(ColorProfileWarning, match="photo: its color profile"):
        image = read_picture(data, name="photo")
    shows()(image)


def test_a_gray_profile_in_a_color_picture_is_ignored_with_a_warning():
    with pytest.warns(ColorProfileWarning):
        image = read_picture(encoded(quadrants(), "PNG", icc_profile=linear_gray_profile()))
    shows()(image)


def test_an_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    shows()(read_picture(encoded(quadrants(), "PNG", icc_profile=profile)))


QUADRANT_ARRAY = np.asarray(quadrants())


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (QUADRANT_ARRAY, QUADRANT_ARRAY),
        (QUADRANT_ARRAY[:, ::-1], QUADRANT_ARRAY[:, ::-1]),  # not contiguous
        (QUADRANT_ARRAY / 255, QUADRANT_ARRAY),
        ((QUADRANT_ARRAY / 255).astype(np.float32), QUADRANT_ARRAY),
        (np.array([[0, 128], [255, 7]], np.uint8), np.array([[[0] * 3, [128] * 3], [[255] * 3, [7] * 3]])),
        (np.array([[[0], [128]]], np.uint8), np.array([[[0] * 3, [128] * 3]])),
        (np.array([[True, False]]).astype(np.float16), np.array([[[255] * 3, [0] * 3]])),
        (np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]], np.uint8), np.array([[[255] * 3, [9] * 3]])),
        (np.array([[[0.0, 0.0, 0.0, 0.0], [1.0, 0.2, 0.0, 1.0]]]), np.array([[[255] * 3, [255, 51, 0]]])),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_an_array_keeps_its_colors(array: np.ndarray, expected: np.ndarray):
    np.testing.assert_array_equal(np.asarray(read_picture(array)), expected)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"3 x 8 x 9; channels come last: array.transpose\(1, 2, 0\)"),
        (np.zeros((2, 8, 9, 3), np.uint8), "one by one"),
        (np.zeros((8, 9, 2), np.uint8), "8 x 9 x 2"),
        (np.zeros(9, np.uint8), "not 9"),
        (np.zeros((0, 9, 3), np.uint8), "no pixels"),
        (np.zeros((8, 9, 3), np.int64), "int64"),
        (np.zeros((8, 9), bool), "bool"),
        (np.full((8, 9, 3), 255.0), "255"),
        (np.full((8, 9, 3), -0.1), "scale the values"),
        (np.full((8, 9, 3), np.nan), "nan"),
    ],
)
def test_an_array_that_is_not_a_picture_is_refused_with_a_reason(array: np.ndarray, says: str):
    with pytest.raises(NotAPicture, match=says):
        read_picture(array)


@pytest.mark.parametrize("source", [None, 7, ["a.jpg"], BytesIO(b"")])
def test_a_source_of_another_type_is_refused_with_its_type(source: object):
    with pytest.raises(NotAPicture, match=f"picture 1: .*{type(source).__name__}"):
        read_picture(source)


def test_a_pillow_image_of_every_mode_becomes_rgb():
    for mode in (
        "1",
        "L",
        "P",
        "PA",
        "LA",
        "RGB",
        "RGBA",
        "RGBX",
        "RGBa",
        "CMYK",
        "YCbCr",
        "HSV",
        "LAB",
        "I",
        "F",
        "I;16",
    ):
        picture = read_picture(Image.new(mode, (5, 4)))
        assert (picture.mode, picture.size) == ("RGB", (5, 4)), mode


def test_a_pillow_image_is_rotated_by_its_exif_and_not_modified():
    with Image.open(BytesIO(turned_with_note("PNG", 6))) as image:
        shows()(read_picture(image))
        assert image.size == (32, 48)
        assert image.getexif()[0x0112] == 6


def test_a_closed_pillow_image_is_broken():
    image = Image.open(BytesIO(encoded(quadrants(), "PNG")))
    image.close()
    with pytest.raises(PictureBroken):
        read_picture(image)


def test_limits_apply_to_arrays_bytes_and_images():
    small = Limits(megapixels=0.001)
    for source in (QUADRANT_ARRAY, quadrants(), encoded(quadrants(), "PNG")):
        with pytest.raises(PictureTooLarge, match="48 x 32"):
            read_picture(source, limits=small)
    with pytest.raises(PictureTooLarge, match="MB"):
        read_picture(encoded(quadrants(), "BMP"), limits=Limits(megabytes=0.001))


@pytest.mark.parametrize("limit", ["megapixels", "megabytes", "aspect_ratio", "timeout"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_an_error_names_a_limit_that_is_not_positive(limit: str, value: float):
    with pytest.raises(InvalidSetting, match=limit):
        Limits(**{limit: value})


def test_a_picture_above_pillows_own_limit_is_read_without_a_warning_if_the_limits_allow_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("JPEG", "PNG", "GIF", "BMP", "AVIF"):
            shows(within=90)(read_picture(encoded(quadrants(), kind)))
        for kind in ("TIFF", "WEBP"):  # their decoders check the limit themselves
            with pytest.raises(PictureTooLarge, match="than Pillow decodes"):
                read_picture(encoded(quadrants(), kind))


def test_reading_does_not_change_pillows_settings(tmp_path: Path):
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(Image.ID)
    for case in AWKWARD[:30]:
        folder = tmp_path / case.name
        folder.mkdir()
        try:
            read_picture(case.make(folder))
        except PictureError:
            continue
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(Image.ID)) == before


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("reduce_to", "expected"),
    [
        (None, (2000, 1600)),
        (801, (2000, 1600)),
        (401, (2000, 1600)),
        (400, (1000, 800)),
        (224, (1000, 800)),
        (200, (500, 400)),
        (101, (500, 400)),
        (100, (250, 200)),
        (1, (250, 200)),
    ],
)
def test_a_large_jpeg_is_decoded_no_smaller_than_twice_what_is_needed(reduce_to, expected, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.new("RGB", (2000, 1600), "teal"), "JPEG", exif=exif)
    picture = read_picture(data, reduce_to=reduce_to)
    assert picture.size == (expected if orientation == 1 else expected[::-1])


def test_only_jpegs_are_reduced():
    picture = read_picture(encoded(Image.new("RGB", (900, 900)), "PNG"), reduce_to=10)
    assert picture.size == (900, 900)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/b.jpg", "a/b.jpg"),
        (Path("a/b.jpg"), "a/b.jpg"),
        (b"\xff\xd8", "picture 4"),
        (np.zeros((2, 2)), "picture 4"),
        (Image.new("L", (1, 1)), "picture 4"),
        ("https://ann:secret@example.org/p.jpg?x=1", "https://***@example.org/p.jpg?x=1"),
        ("two\nlines\x1b[0m.png", "two\\nlines\\x1b[0m.png"),
        ("雪 ü.png", "雪 ü.png"),
        ("\udcff.png", "\\udcff.png"),
        ("", "picture 4"),
    ],
)
def test_the_display_name_is_the_path_or_position(source: object, expected: str):
    assert display_name(source, 3) == expected


def test_the_display_name_of_an_opened_image_is_its_file(tmp_path: Path):
    path = tmp_path / "named.png"
    path.write_bytes(encoded(quadrants(), "PNG"))
    with Image.open(path) as image:
        assert display_name(image, 0) == str(path)


def test_reading_pictures_does_not_import_torch():
    imports = "import beholder.pictures.read, beholder.pictures.transform, beholder.pictures.walk"
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("reduce_to", [None, 60])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("lost", [1, 2, 200])
def test_a_jpeg_without_its_end_is_read_with_a_warning(lost: int, progressive: bool, reduce_to: int | None):
    whole = encoded(quadrants().resize((480, 320)), "JPEG", quality=95, progressive=progressive)
    expected = np.asarray(read_picture(whole, reduce_to=reduce_to)).astype(int)
    with pytest.warns(TruncatedPictureWarning, match="photo: the file is truncated"):
        picture = read_picture(whole[:-lost], name="photo", reduce_to=reduce_to)
    difference = np.abs(np.asarray(picture) - expected).max(axis=2)
    assert difference[: int(len(expected) * 0.6)].max() <= (60 if progressive else 0)


def test_a_jpeg_without_its_last_rows_shows_them_gray():
    noise = np.random.default_rng(0).integers(0, 256, (640, 480, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), "JPEG")
    with pytest.warns(TruncatedPictureWarning, match="of its 640 rows are gray"):
        picture = read_picture(whole[: int(len(whole) * 0.9)])
    np.testing.assert_array_equal(np.asarray(picture)[:500], np.asarray(read_picture(whole))[:500])
    with pytest.raises(PictureBroken):
        read_picture(whole[: int(len(whole) * 0.6)])


def test_black_rows_of_a_truncated_jpeg_do_not_count_as_missing():
    whole = encoded(Image.new("RGB", (480, 320)), "JPEG")
    with pytest.warns(TruncatedPictureWarning):
        assert read_picture(whole[:-2]).size == (480, 320)


@pytest.mark.parametrize(
    ("size", "is_read"), [((12_000, 9_000), True), ((32_000, 3_500), True), ((21_000, 20_000), False)]
)
def test_a_large_jpeg_is_read_only_at_reduced_scale(size: tuple[int, int], is_read: bool):
    data = encoded(Image.new("L", size), "JPEG", quality=10)
    if is_read:
        assert min(read_picture(data, reduce_to=224).size) >= 448
    else:
        with pytest.raises(PictureTooLarge, match="400 million"):
            read_picture(data, reduce_to=224)
    with pytest.raises(PictureTooLarge, match="100 million"):
        read_picture(data)
