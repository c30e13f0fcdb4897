"""When a picture was taken, from the spellings of cameras, scanners, photo programs and messengers."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(r"(\d{4})(?:([-:/. ])(\d{1,2})(?:\2(\d{1,2}))?)?(?!\d)")
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})(?:[T ]?(\d{2})(\d{2})(\d{2})?)?(?!\d)")
_SPELLED = re.compile(r"[A-Za-z]{3},? +([A-Za-z]{3}) +(\d{1,2}) +([\d:]+)(?: +[A-Z]+)? +(\d{4})$")  # C's asctime
_TIME = re.compile(r"(\d{1,2})[:.](\d{1,2})(?:[:.](\d{1,2}))?")
_AFTERNOON = re.compile(r"p\.?m\b|下午|오후|午後", re.IGNORECASE)
_MORNING = re.compile(r"a\.?m\b|上午|오전|午前", re.IGNORECASE)
_FIRST_YEAR = 1000  # earlier years are placeholders such as 0001
_BUDDHIST = 543  # Thai cameras count from the Buddha's death

# A date in a file name: separated, or compact after a name that cameras, phones and messengers begin with or before a
# time. Digits on either side make it another number.
_NAMED_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)([-_.])(\d\d)\2(\d\d)(?!\d)"
    r"(?:(?:[ T_-]|,? ?\b[^\W\d]{1,3} )(\d{1,2})[-_.:h]?(\d\d)(?:[-_.:m]?(\d\d))?(?!\d)(?:\s?([AaPp])[Mm])?)?"
)
_NAMED_COMPACT = re.compile(
    r"(?:(?<![^\W_])(?:IMG|VID|PXL|MVIMG|PANO|BURST|DSC|DSCF|PHOTO|IMAGE|PIC|SAVE|WP|CAM|SCREENSHOT|SCREEN_SHOT|SNAPCHAT|"
    r"SIGNAL|TELEGRAM|WHATSAPP|LINE_ALBUM|SCAN|截屏|屏幕截图|截图|スクリーンショット)[-_ ]?|^)"
    r"((?:19|20)\d\d)(\d\d)(\d\d)(?:[-_ T]?(\d\d)(\d\d)(\d\d)(?:\d{1,3})?)?(?!\d)",
    re.IGNORECASE,
)
_NAMED_TIMED = re.compile(r"(?<!\d)((?:19|20)\d\d)(\d\d)(\d\d)[-_ T](\d\d)(\d\d)(\d\d)(?:\d{1,3})?(?!\d)")
_NAMED_EPOCH = re.compile(r"(?:FB_IMG_|mmexport|wx_camera_|IMG_|beauty_|Pinterest_|receive_)(1[0-9]{12})(?!\d)")


def parse_date(text: str) -> str | None:
    """Return a date and time as ``2024-05-31T14:03:00``, in local time as written; None if it is none.

    Accepts EXIF, ISO 8601, IPTC, ``asctime``, 12-hour clocks, and incomplete dates, whose missing parts become the
    first month or day and midnight.
    """
    text = text.strip().strip("\x00").strip()
    spelled = _SPELLED.match(text)
    if spelled is not None and spelled[1].lower() in _MONTHS:
        month = _MONTHS.index(spelled[1].lower()) + 1
        return parse_date(f"{spelled[4]}-{month}-{spelled[2]} {spelled[3]}")
    match = _COMPACT.match(text)
    if match is not None:
        return _moment(*match.groups())
    match = _DATE.match(text)
    if match is None:
        return None
    time = _TIME.search(text, match.end())
    clock = time.groups() if time is not None and match[4] is not None else (None, None, None)
    return _moment(match[1], match[3], match[4], *clock, half=_half(text))


def date_in_name(name: str) -> str | None:
    """Return the date in a file name as messengers, phones and screenshots write it; None if there is none."""
    match = _NAMED_DATE.search(name)
    if match is not None:
        half = {"p": "pm", "a": "am"}.get((match[8] or "").lower(), "")
        found = _moment(match[1], match[3], match[4], *match.groups()[4:7], half=half)
        if found is not None:
            return found
    for pattern in (_NAMED_TIMED, _NAMED_COMPACT):
        match = pattern.search(name)
        if match is not None and (found := _moment(*match.groups())) is not None:
            return found
    match = _NAMED_EPOCH.search(name)
    if match is not None:
        return datetime.fromtimestamp(int(match[1]) // 1000, UTC).replace(tzinfo=None).isoformat()
    return None


def first_date(candidates: Iterable[str | None]) -> str | None:
    """Return the first date; if it has no time of day, with the time that another candidate gives for that day."""
    found = [date for date in candidates if date is not None]
    if not found:
        return None
    day = found[0][:10]
    return next((date for date in found if date[:10] == day and not date.endswith("T00:00:00")), found[0])


def _half(text: str) -> str:
    return "pm" if _AFTERNOON.search(text) else "am" if _MORNING.search(text) else ""


def _moment(
    year: str,
    month: str | None,
    day: str | None,
    hour: str | None = None,
    minute: str | None = None,
    second: str | None = None,
    *,
    half: str = "",
) -> str | None:
    try:
        years, hours, seconds = int(year), int(hour or 0), min(int(second or 0), 59)  # 60: a leap second
        if half and 1 <= hours <= 12:
            hours = hours % 12 + (12 if half == "pm" else 0)
        if 2400 <= years <= 2700:
            years -= _BUDDHIST
        midnight = hours == 24 and int(minute or 0) == 0  # of the day's end; kept on the day
        if years < _FIRST_YEAR:
            return None
        found = datetime(years, int(month or 1), int(day or 1), 0 if midnight else hours, int(minute or 0), seconds)
        return found.isoformat()
    except ValueError:
        return None
