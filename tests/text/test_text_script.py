import pytest

from beholder.text.script import is_chinese, is_non_latin


@pytest.mark.parametrize(
    "text",
    [
        "一只狗在雪地里奔跑",
        "a photo of a 狗",
        "iPhone 手机",
        "犬が雪の中を走る",
        "イヌ",
        "ｲﾇ",
        "눈 속을 달리는 개",
        "собака бежит по снегу",
        "ένας σκύλος τρέχει",
        "كلب يركض في الثلج",
        "כלב רץ בשלג",
        "बर्फ में दौड़ता कुत्ता",
        "สุนัขวิ่งในหิมะ",
        "ძაღლი თოვლში",
        "շունը վազում է",
        "𠮷野家",
    ],
)
def test_other_scripts_are_recognized(text: str) -> None:
    assert is_non_latin(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog runs in the snow",
        "crème brûlée, smørrebrød, Škoda, Łódź, Việt Nam, ﬁne",
        "5 µm, 3 Ω, an α particle, 90°, €5, ½",
        "🐶 in the snow — “really”… 100 %",
        "ＦＵＬＬ　ＷＩＤＴＨ",
        "e\u0301te\u0301",
        "→ ■ ♥ 12345 。，！",
    ],
)
def test_latin_text_with_accents_units_and_symbols_is_latin(text: str) -> None:
    assert not is_non_latin(text)


def test_chinese_is_told_from_japanese_and_korean() -> None:
    assert is_chinese("图里有几只狗？") and is_chinese("這是什麼")
    assert (
        not is_chinese("犬は何匹いますか")
        and not is_chinese("개가 몇 마리입니까 犬")
        and not is_chinese("how many dogs?")
    )
