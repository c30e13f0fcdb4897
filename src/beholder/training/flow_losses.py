"""The loss of rectified flow, for networks that predict the data.

Shapes: B batch; data of any shape behind it.
"""

from torch import Tensor

from beholder.models.rectified_flow import velocity


def flow_matching_loss(predicted: Tensor, data: Tensor, sample: Tensor, time: Tensor) -> Tensor:
    """Return the mean squared error of the velocity (arXiv:2210.02747, equation 9).

    Args:
        predicted: what a network predicts of the data.
        data: the data.
        sample: between noise and data, at ``time``.
        time: (B,).
    """
    return (velocity(predicted, sample, time) - velocity(data, sample, time)).square().mean()
