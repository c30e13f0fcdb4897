import numpy as np
import torch

from class_prototypes import MIN_PROBABILITY, class_prototype_grids


def test_the_classifier_assigns_each_grid_to_its_class() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [np.random.default_rng(number).uniform(0, 1, (2, 81, 64)).astype(np.float16) for number in range(3)]
    weight, bias = torch.randn(10, 64, generator=generator), torch.zeros(10)
    classes, grids = class_prototype_grids(features, weight, bias, 20, 10.0, generator)
    assert 10 < len(classes) <= 20 and grids.shape == (len(classes), 81, 64)
    assert float(grids.min()) >= 0 and float(grids.max()) <= 6, "in the range of ReLU6"
    shares = (grids.mean(1) @ weight.T + bias).softmax(-1)
    assert shares.argmax(1).tolist() == classes
    assert float(shares.amax(1).min()) >= MIN_PROBABILITY


def test_grids_below_the_minimum_probability_are_dropped() -> None:
    features = [np.ones((1, 9, 4), np.float16)]
    classes, grids = class_prototype_grids(
        features, torch.zeros(5, 4), torch.zeros(5), 6, 10.0, torch.Generator().manual_seed(0)
    )
    assert classes == [] and grids.shape == (0, 9, 4)
