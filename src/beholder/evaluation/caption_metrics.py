"""CIDEr and BLEU: how close captions come to what people said of the same pictures.

The figures are those of pycocoevalcap. Its tokenizer is a Java program, so the words are split by NLTK's rules for the
same treebank instead, and cleaned of the same punctuation.
"""

from collections.abc import Sequence

from beholder.errors import InvalidSetting, MissingExtra

# pycocoevalcap's list, and what NLTK leaves of the same marks.
PUNCTUATION = {"''", "'", "``", "`", '"', "(", ")", "{", "}", "[", "]", ".", "?", "!", ",", ":", "-", "--", "...", ";"}


def words(caption: str) -> str:
    """The caption's words in lower case, without punctuation, a space between each."""
    try:
        from nltk.tokenize import TreebankWordTokenizer
    except ImportError as error:
        raise MissingExtra("judging captions", "evaluate") from error
    split = TreebankWordTokenizer().tokenize(caption.lower())
    parts = [part.rstrip(".") if len(part) > 1 else part for part in split]  # a full stop within the text
    return " ".join(part for part in parts if part and part not in PUNCTUATION)


def caption_metrics(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """CIDEr (CIDEr-D, arXiv:1411.5726) and BLEU-1 to BLEU-4 of n captions.

    Args:
        captions: one for each picture.
        references: for each picture what people said, at least once.

    Raises:
        InvalidSetting: their numbers differ, there are none, or a picture has no reference.
        MissingExtra: pycocoevalcap or NLTK is not installed.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise MissingExtra("judging captions", "evaluate") from error
    if len(captions) != len(references) or not captions or not all(references):
        raise InvalidSetting(
            f"{len(captions)} captions and {len(references)} pictures with references: one caption for each picture, "
            "and at least one reference"
        )
    found = {number: [words(caption)] for number, caption in enumerate(captions)}
    expected = {number: [words(said) for said in several] for number, several in enumerate(references)}
    cider, _ = Cider().compute_score(expected, found)
    bleu, _ = Bleu(4).compute_score(expected, found, verbose=0)
    return {"CIDEr": float(cider), **{f"BLEU-{order + 1}": float(value) for order, value in enumerate(bleu)}}
