import pytest

from beholder.errors import InvalidSetting
from beholder.text.templates import ENSEMBLE, SINGLE, fill_templates


def test_every_label_is_inserted_into_every_template_label_by_label() -> None:
    assert fill_templates(["a {}", "{}s"], ["dog", "cat"]) == ["a dog", "dogs", "a cat", "cats"]


def test_other_braces_and_braces_in_a_label_are_literal() -> None:
    assert fill_templates(["{a} {} {0}"], ["{} {x}"]) == ["{a} {} {x} {0}"]


@pytest.mark.parametrize("template", ["a photo", "", "{} and {}", "{ }", "{{}} {}"])
def test_a_template_without_exactly_one_placeholder_is_refused(template: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        fill_templates(["a {}", template], ["dog"])
    assert f'template "{template}"' in str(caught.value)


def test_an_empty_list_and_a_single_string_are_refused() -> None:
    for templates, labels in (((), ["dog"]), ("a {}", ["dog"]), (["a {}"], "dog")):
        with pytest.raises(InvalidSetting):
            fill_templates(templates, labels)


def test_the_ensembles_are_valid_and_free_of_duplicates() -> None:
    assert fill_templates(SINGLE, ["dog"]) == ["a photo of a dog"]
    assert len(set(fill_templates(ENSEMBLE, ["dog"]))) == len(ENSEMBLE) == 7
