"""Scenes of videos in an album."""

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_album import draw, tiny_encoder

from beholder.album.album import Album
from beholder.errors import MissingExtra, PictureBroken
from beholder.pictures.read import read_picture
from beholder.pictures.video import VideoFrame, scene_frames
from beholder.pictures.walk import PassedOverWarning
from beholder.tasks.dual_encoder import DualEncoder

av = pytest.importorskip("av", reason='needs the extra "video"')
COLORS = ("red", "lime", "blue")
RATE = 10


def film(path: Path, colors: tuple[str, ...] = COLORS, seconds: int = 2, **metadata: str) -> Path:
    """Write a video whose scenes are one color each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata)
        stream = container.add_stream("mpeg4", rate=RATE, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        for number in range(len(colors) * seconds * RATE):
            image = Image.new("RGB", (64, 48), colors[number // (seconds * RATE)])
            for packet in stream.encode(av.VideoFrame.from_image(image)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def color(image: Image.Image) -> str:
    mean = np.asarray(image.convert("RGB")).mean(axis=(0, 1))
    return COLORS[int(mean.argmax())]


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return tiny_encoder()


def test_each_scene_gives_the_frame_with_which_it_starts(tmp_path: Path) -> None:
    frames = list(scene_frames(film(tmp_path / "a.mp4")))
    assert [(time, color(image)) for time, image in frames] == [(0, "red"), (2000, "lime"), (4000, "blue")]
    for seconds, expected in ((0, "red"), (2, "lime"), (5.7, "blue"), (99, "blue")):
        assert color(read_picture(VideoFrame(str(tmp_path / "a.mp4"), seconds))) == expected


def test_a_hit_says_the_time_and_shows_the_frame(tmp_path: Path, encoder: DualEncoder) -> None:
    film(tmp_path / "p" / "VID_20240531_140300.mp4")
    draw(tmp_path / "p" / "still.png", 1)
    with Album.open(tmp_path / "album") as album:
        summary = album.index(tmp_path / "p", model=encoder, videos=True)
        assert summary.added == 2 and len(album) == 4
        found = {result.picture.time: result.picture for result in album.search("red", top=9)}
        assert set(found) == {0.0, 2.0, 4.0, None}
        assert found[2.0].name.endswith("VID_20240531_140300.mp4 at 0:02") and found[2.0].taken == "2024-05-31T14:03:00"
        thumbnail = album.thumbnail(found[2.0].content)
        assert thumbnail is not None and color(read_picture(thumbnail)) == "lime"
        assert len(album.contents("has:video")) == 3 and len(album.contents("format:mp4")) == 3
        assert album.duplicates() == []
        again = album.index(tmp_path / "p", model=encoder, videos=True)
        assert (again.unchanged, again.added) == (2, 0)


def test_videos_are_passed_over_unless_asked_for_and_stay_once_indexed(tmp_path: Path, encoder: DualEncoder) -> None:
    video = film(tmp_path / "p" / "a.mp4")
    draw(tmp_path / "p" / "still.png", 1)
    with Album.open(tmp_path / "album") as album:
        with pytest.warns(PassedOverWarning, match="--video"):
            album.index(tmp_path / "p", model=encoder)
        assert len(album) == 1
        album.index(tmp_path / "p", model=encoder, videos=True)
        frame = next(iter(album.pictures("has:video")))
        album.describe(frame, caption="the red one")
        with pytest.warns(PassedOverWarning):
            assert album.index(tmp_path / "p", model=encoder).removed == 0
        assert len(album) == 4
        (tmp_path / "p" / "sub").mkdir()
        shutil.move(video, tmp_path / "p" / "sub" / "b.mp4")
        assert album.index(tmp_path / "p", model=encoder, videos=True).moved == 1
        assert [one.caption for one in album.pictures("has:video")] == ["the red one", None, None]
        (tmp_path / "p" / "sub" / "b.mp4").unlink()
        album.index(tmp_path / "p", model=encoder, videos=True)
        assert len(album) == 1


def test_a_shortened_video_loses_its_last_scenes(tmp_path: Path, encoder: DualEncoder) -> None:
    film(tmp_path / "p" / "a.mp4")
    with Album.open(tmp_path / "album") as album:
        album.index(tmp_path / "p", model=encoder, videos=True)
        film(tmp_path / "p" / "a.mp4", COLORS[:2])
        assert album.index(tmp_path / "p", model=encoder, videos=True).changed == 1
        assert [one.time for one in album.pictures()] == [0.0, 2.0]


def test_a_damaged_video_and_a_playlist_are_refused(tmp_path: Path, encoder: DualEncoder) -> None:
    film(tmp_path / "p" / "a.mp4")
    (tmp_path / "p" / "text.mp4").write_text("no video")
    (tmp_path / "p" / "list.mpg").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "p" / "concat.avi").write_text("ffconcat version 1.0\nfile a.mp4\n")
    for name in ("text.mp4", "list.mpg", "concat.avi"):
        with pytest.raises(PictureBroken):
            list(scene_frames(tmp_path / "p" / name))
    with Album.open(tmp_path / "album") as album:
        summary = album.index(tmp_path / "p", model=encoder, videos=True)
        assert len(summary.failed) == 3 and summary.added == 1


def test_position_and_title_are_read_from_the_container(tmp_path: Path, encoder: DualEncoder) -> None:
    film(tmp_path / "p" / "a.mov", location="+50.9400+006.9600/", title="The old bridge")
    with Album.open(tmp_path / "album") as album:
        album.index(tmp_path / "p", model=encoder, videos=True)
        assert len(album.contents("near:50.94,6.96,1 caption:bridge")) == 3


def test_without_pyav_the_extra_is_named(tmp_path: Path, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with Album.open(tmp_path / "album") as album, pytest.raises(MissingExtra, match=r"beholder\[video\]"):
        album.index(draw(tmp_path / "p" / "a.png", 1), model=encoder, videos=True)
