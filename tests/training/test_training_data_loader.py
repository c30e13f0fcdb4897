from itertools import islice
from pathlib import Path

import numpy as np
import torch

import tiny_model
import tiny_pairs
from beholder.pictures.read import read_picture
from beholder.pictures.transform import Preprocessing, to_pixels
from beholder.training.augmentation import Augmentation
from beholder.training.data_loader import ImageTextBatch, load_batches, normalize
from beholder.training.examples import Columns, read_examples
from beholder.training.samplers import ShuffledBatchSampler

PREPROCESSING = Preprocessing(16, 16, "crop", 18, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def batches(folder: Path, count: int, augmentation: Augmentation, broken: tuple[int, ...] = ()) -> list[ImageTextBatch]:
    examples = read_examples(tiny_pairs.paint(folder, 12, broken), Columns(), ("{}",))
    tokenizer = tiny_model.build().tokenizer
    stream = load_batches(
        ShuffledBatchSampler(examples, 6, 1), None, PREPROCESSING, augmentation, tokenizer, lambda *_: None
    )
    return [batch for batch, _ in islice(stream, count)]


def test_pixels_match_the_preprocessing_at_inference(tmp_path: Path) -> None:
    (batch,) = batches(tmp_path, 1, Augmentation())
    examples = read_examples(tmp_path / "pairs.jsonl", Columns(), ("{}",))
    (draws, _) = next(ShuffledBatchSampler(examples, 6, 1).batches())
    expected = np.stack([to_pixels(read_picture(draw.example.picture), PREPROCESSING) for draw in draws])
    assert batch.pixels.dtype == torch.uint8 and batch.pixels.shape == (6, 16, 16, 3)
    torch.testing.assert_close(normalize(batch.pixels, PREPROCESSING), torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_views_and_captions_vary_between_epochs(tmp_path: Path) -> None:
    found = batches(tmp_path, 16, Augmentation(smallest_crop=0.3, flip=0.5))
    seen: dict[int, list[tuple[bytes, int]]] = {}
    for batch in found:
        for row in range(len(batch)):
            views = seen.setdefault(int(batch.image_keys[row]), [])
            views.append((batch.pixels[row].numpy().tobytes(), int(batch.text_keys[row])))
    assert len(seen) == 12 and {len(views) for views in seen.values()} == {8}
    assert all(len({pixels for pixels, _ in views}) > 4 for views in seen.values())
    assert sum(len({text for _, text in views}) == 2 for views in seen.values()) >= 10


def test_a_broken_picture_keeps_its_row_and_is_masked_out(tmp_path: Path) -> None:
    first, second = batches(tmp_path, 2, Augmentation(), broken=(2, 7, 8))
    there = torch.cat([first.valid, second.valid])
    assert (~there).sum() == 3
    assert (torch.cat([first.pixels, second.pixels])[~there] == 0).all()
