"""The noise that compiled generators start from is that of torch."""

import numpy as np
import pytest
import torch

from beholder.runtime.noise import TorchGenerator


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 + 5, 2**63 - 1])
@pytest.mark.parametrize("shapes", [[(1, 8), (1, 3, 16, 16)], [(1, 256), (1, 3, 64, 64)], [(37,), (5,), (4, 5)]])
def test_a_seed_draws_the_numbers_that_torch_draws(seed: int, shapes: list[tuple[int, ...]]) -> None:
    theirs, ours = torch.Generator().manual_seed(seed), TorchGenerator(seed)
    for shape in shapes:
        drawn = ours.randn(*shape)
        assert drawn.dtype == np.float32
        np.testing.assert_allclose(drawn, torch.randn(shape, generator=theirs).numpy(), atol=2e-6)
