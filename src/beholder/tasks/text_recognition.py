"""Text in pictures: signs, screenshots, scans and receipts, in Chinese and English.

The models are PP-OCRv6's, which RapidOCR carries in its wheel, run by OpenVINO. Nothing is downloaded.
"""

from __future__ import annotations

import numpy as np

from beholder.errors import MissingExtra
from beholder.pictures.limits import Limits
from beholder.pictures.read import ImageSource, read_picture

MIN_SCORE = 0.7  # mean probability of a line's characters
MAX_SIDE = 2000  # pixels of the longer side that is searched for text
MIN_LETTERS = 2  # letters and digits of a line


class TextRecognizer:
    """Finds the lines of text in a picture and reads them.

    Raises:
        MissingExtra: RapidOCR is not installed.
    """

    def __init__(self) -> None:
        try:
            from rapidocr import EngineType, RapidOCR
        except ImportError as error:
            raise MissingExtra("reading text in pictures", "ocr") from error
        engines = {f"{part}.engine_type": EngineType.OPENVINO for part in ("Det", "Cls", "Rec")}
        self._engine = RapidOCR(
            params={"Global.log_level": "critical", "Global.max_side_len": MAX_SIDE, "Global.text_score": MIN_SCORE}
            | engines
        )

    def read(self, source: ImageSource, limits: Limits | None = None) -> str:
        """Return the lines of text in a picture, from top to bottom, each on a line; empty if there are none.

        Raises:
            PictureError: the picture can't be used.
        """
        image = read_picture(source, limits=limits or Limits(), reduce_to=MAX_SIDE // 2)
        result = self._engine(np.ascontiguousarray(np.asarray(image)[:, :, ::-1]))  # blue first, as OpenCV has it
        lines = [" ".join(text.split()) for text in getattr(result, "txts", None) or ()]
        return "\n".join(line for line in lines if sum(letter.isalnum() for letter in line) >= MIN_LETTERS)
