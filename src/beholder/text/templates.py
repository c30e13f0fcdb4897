"""Prompt templates: the sentence around a label.

A network that was trained on captions knows "a photo of a dog" better than the word "dog", and the mean over several
sentences better still. Source: CLIP (arXiv:2103.00020), section 3.1.4. The article stays "a": the networks were
trained and measured with it.
"""

from collections.abc import Sequence

from beholder.errors import InvalidSetting

PLACE = "{}"

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


def fill(templates: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Every label in every template, label by label: labels × templates sentences.

    Only ``{}`` is the label's place; other braces, and braces in a label, are text.

    Raises:
        InvalidSetting: there is no template, or one has no place for the label, or several.
    """
    if isinstance(templates, str) or isinstance(labels, str):
        raise InvalidSetting("templates and labels must be lists, not one text")
    if not templates:
        raise InvalidSetting('there is no template: give at least one, such as "a photo of a {}"')
    for template in templates:
        if template.count(PLACE) != 1:
            raise InvalidSetting(
                f'template "{template}": {{}} marks the place of the label and must be there once, '
                f"not {template.count(PLACE)} times"
            )
    return [template.replace(PLACE, label) for label in labels for template in templates]
