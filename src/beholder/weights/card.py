"""A short model card, generated from a model's settings."""

from beholder.models.efficientnet_lite import EfficientNetLiteSettings
from beholder.models.naflex import NaFlexSettings
from beholder.models.vit import VisionSettings
from beholder.pictures.naflex import NaFlexPreprocessing
from beholder.weights.loaded import LoadedDualEncoder


def model_card(loaded: LoadedDualEncoder) -> str:
    """Return Markdown: what the model is, its inputs and outputs, and how to use it."""
    settings, pixels = loaded.network.settings, loaded.preprocessing
    parameters = sum(parameter.numel() for parameter in loaded.network.parameters())
    if isinstance(settings.image, VisionSettings | NaFlexSettings):
        image = f"vision transformer, {settings.image.layers} layers of width {settings.image.width}"
        image += f", patches of {settings.image.patch_size}" + " pixels"
    else:
        name = "EfficientNet-Lite" if isinstance(settings.image, EfficientNetLiteSettings) else "EfficientNet"
        image = f"{name}, width {settings.image.width}"
    if isinstance(pixels, NaFlexPreprocessing):
        side = pixels.patch_size
        picture = f"up to {pixels.max_num_patches} patches of {side} × {side} pixels; its aspect ratio is kept"
    else:
        picture = f"{pixels.height} × {pixels.width} pixels (height × width), fitted by {pixels.fit}"
        if pixels.fit == "squash" and pixels.resize is not None:
            picture += f" into {pixels.resize} × {pixels.resize}, of which the center is kept"
    text = f"{type(loaded.network.text).__name__}, {settings.text.layers} layers of width {settings.text.width}"
    second = ""
    if loaded.multilingual is not None:
        tower = loaded.multilingual.network
        kind = f"{type(tower.text).__name__}, {tower.settings.text.layers} layers of width {tower.settings.text.width}"
        second = f"| text tower for other scripts than Latin | {kind} |\n"
        parameters += sum(parameter.numel() for parameter in tower.parameters())
    calibrated = "yes" if loaded.calibration else "no"
    front = f"---\nlicense: {loaded.licence}\n---\n\n" if loaded.licence else ""
    return (
        front
        + f"""\
# {loaded.name or "A dual encoder"}

Pictures and sentences become vectors in one space; the cosine of two tells how well they match.

| | |
|---|---|
| image tower | {image} |
| text tower | {text} |
{second}| parameters | {parameters / 1e6:.1f} million |
| vector | {settings.embedding} numbers, unit length |
| picture | {picture} |
| sentence | up to {settings.text.context_length} tokens |
| calibrated (`match`) | {calibrated} |
| licence | {loaded.licence or "not recorded; that of the weights it was made from"} |

```python
from beholder import DualEncoder

encoder = DualEncoder.from_pretrained("this folder")
encoder.similarity(["photo.jpg"], ["a cat", "a dog"])
```

A picture's vector carries what the training data said of such pictures, prejudices included. Judge the model on
pictures of your own before you rely on it.
"""
    )
