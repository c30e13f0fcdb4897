"""Prompt templates: the sentence around a class name.

A network that was trained on captions recognizes "a photo of a dog" better than the word "dog", and the mean over
several prompts better still. Source: CLIP (arXiv:2103.00020), section 3.1.4. The article stays "a": the networks were
trained and evaluated with it.
"""

from collections.abc import Sequence

from beholder.errors import InvalidSetting

PLACEHOLDER = "{}"

SINGLE = ("a photo of a {}",)
ENSEMBLE = (
    "a photo of a {}",
    "a close view of a {}",
    "a {} seen from far away",
    "a dark photo of the {}",
    "a snapshot with a {} in it",
    "several {} together",
    "a painting of a {}",
)


def fill_templates(templates: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Insert every label into every template, label by label: labels × templates sentences.

    Only ``{}`` is replaced; other braces, and braces in a label, are ordinary text.

    Raises:
        InvalidSetting: there is no template, or one without exactly one ``{}``.
    """
    if isinstance(templates, str) or isinstance(labels, str):
        raise InvalidSetting("templates and labels must be lists, not a single text")
    if not templates:
        raise InvalidSetting('there is no template: give at least one, such as "a photo of a {}"')
    for template in templates:
        if template.count(PLACEHOLDER) != 1:
            raise InvalidSetting(
                f'template "{template}": {{}} stands for the label and must occur once, '
                f"not {template.count(PLACEHOLDER)} times"
            )
    return [template.replace(PLACEHOLDER, label) for label in labels for template in templates]
