"""kill -9 at random moments of indexing, with an occasional second indexer and constant searches.

    python benchmarks/album_killed.py [--pictures 2000] [--kills 50] [--model mini]

`beholder index` is started repeatedly on a folder of small pictures, all different, and killed each time; every fifth
time a second one is started alongside. Meanwhile a program searches continuously. If the album is complete before all
kills are spent, it is deleted and indexing starts over. Finally one run is left to finish, and the album is compared
with that of an undisturbed run: every picture exactly once, the same vectors, SQLite's integrity check. After every
kill, every picture reported as added must be in the album, and the integrity check must pass.
"""

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from beholder.album.album import Album

RUN = [sys.executable, "-c", "from beholder.cli.main import run; run()"]
SEARCHER = """
import signal, sys, time
from beholder.album.album import Album
from beholder.errors import AlbumError, AlbumNotFound
left = []
signal.signal(signal.SIGTERM, lambda *_: left.append(1))
answers = 0
while not left:
    try:
        with Album.open(sys.argv[1], create_new=False) as album:
            for _ in range(20):
                first = next(album.pictures(), None)
                if first is None or left:
                    break
                found = album.search(like=[first.content], top=5)
                assert found and found[0].picture.content == first.content, found
                answers += 1
    except AlbumNotFound:
        pass
    except AlbumError as error:
        if "empty" not in str(error):
            raise
    time.sleep(0.01)
print(answers)
"""


def draw(folder: Path, count: int) -> None:
    drawn = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number // 100) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(drawn.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(path)


def vectors(folder: Path) -> dict[str, np.ndarray]:
    with Album.open(folder, create_new=False) as album:
        damage = album.store.scalar("PRAGMA integrity_check")
        if damage != "ok":
            raise SystemExit(f"the database is damaged: {damage}")
        rows = album.store.query("SELECT path, data FROM picture JOIN vector USING (content)")
        counted = album.store.query("SELECT count(*), count(DISTINCT content) FROM picture")[0]
        if len(rows) != counted[0] or counted[0] != counted[1]:
            raise SystemExit(f"{len(rows)} vectors of {counted[0]} files and {counted[1]} contents")
        return {path.decode(): np.frombuffer(data, np.float16) for path, data in rows}


def reported_as_added(output: Path) -> set[str]:
    """Return the pictures that a killed run reported as added; its last line may be truncated."""
    lines = [line for line in output.read_text("utf-8").split("\n")[:-1] if '"added"' in line]
    return {json.loads(line)["image"] for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    drawn = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        folder, whole, album, output = home / "pictures", home / "whole", home / "album", home / "output"
        draw(folder, options.pictures)

        def index(place: Path, to: Path) -> subprocess.Popen:
            order = [*RUN, "index", folder, "--album", place, "--model", options.model, "--json"]
            return subprocess.Popen([str(word) for word in order], stdout=to.open("w"), stderr=subprocess.DEVNULL)

        start = time.perf_counter()
        process = index(whole, output)
        while process.poll() is None and not output.stat().st_size:
            time.sleep(0.02)
        begin = time.perf_counter() - start  # until the first pictures are added
        process.wait()
        work = time.perf_counter() - start - begin
        expected = vectors(whole)
        print(f"undisturbed: {len(expected)} pictures in {work:.1f} s, and {begin:.1f} s to begin", flush=True)

        album.mkdir()
        searcher = subprocess.Popen(
            [sys.executable, "-c", SEARCHER, str(album)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        kills, rounds, both, twice, sizes = 0, 1, 0, 0, [0]
        acknowledged: set[str] = set()
        while kills < options.kills:
            process = index(album, output)
            second = index(album, home / "second") if kills % 5 == 4 else None
            try:
                early = drawn.random() < 0.2  # before anything is embedded
                process.wait(begin * drawn.random() if early else begin + drawn.random() * 3 * work / options.kills)
                ended = second is None
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills, ended = kills + 1, False
            added = reported_as_added(output)
            if second is not None:
                both += 1
                second.kill()
                second.wait()
                added |= reported_as_added(home / "second")
            twice += len(added & acknowledged)
            there = vectors(album) if (album / "album.sqlite").exists() else {}
            if added - there.keys():
                raise SystemExit(f"{len(added - there.keys())} pictures that were reported as added are lost")
            acknowledged = set(there)
            sizes.append(len(there))
            if ended and len(there) == len(expected):
                rounds += 1
                with Album.open(album) as emptied, emptied.store.transaction():
                    emptied.store.connection.execute("DELETE FROM picture; DELETE FROM content")
                acknowledged = set()
        if index(album, output).wait() != 0:
            raise SystemExit("the last run, which was not killed, failed")
        searcher.terminate()
        answers, complaint = searcher.communicate()
        if searcher.returncode:
            raise SystemExit(f"the search failed: {complaint.strip().splitlines()[-1]}")
        made = vectors(album)
        if made.keys() != expected.keys():
            raise SystemExit(f"{len(made)} pictures instead of {len(expected)}")
        apart = [float(np.abs(made[key].astype(np.float32) - expected[key]).max()) for key in expected]
        growing = sum(one < other for one, other in itertools.pairwise(sizes))
        print(f"{kills} kills in {rounds} rounds, {growing} of them while the album grew; {both} with a second indexer")
        print(f"{twice} pictures embedded twice; {answers.strip()} searches answered meanwhile")
        equal = sum(value == 0 for value in apart)
        print(f"vectors: {equal} of {len(apart)} equal bit by bit, at most {max(apart):.1e} apart")


if __name__ == "__main__":
    main()
