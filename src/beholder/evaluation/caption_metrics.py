"""CIDEr, BLEU and ROUGE-L: how close captions come to what people said of the same pictures.

The figures are those of pycocoevalcap. Its tokenizer is a Java program, so the words are split by NLTK's rules for the
same treebank instead, and cleaned of the same punctuation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra

# pycocoevalcap's list, and what NLTK leaves of the same marks.
PUNCTUATION = {"''", "'", "``", "`", '"', "(", ")", "{", "}", "[", "]", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
ORDERS = 4  # BLEU-1 to BLEU-4


def words(caption: str) -> str:
    """The caption's words in lower case, without punctuation, a space between each."""
    try:
        from nltk.tokenize import TreebankWordTokenizer
    except ImportError as error:
        raise MissingExtra("judging captions", "evaluate") from error
    split = TreebankWordTokenizer().tokenize(caption.lower())
    parts = [part.rstrip(".") if len(part) > 1 else part for part in split]  # a full stop within the text
    return " ".join(part for part in parts if part and part not in PUNCTUATION)


@dataclass(frozen=True, eq=False)
class CaptionScores:
    """What is known of each of n captions, from which the metrics of all, or of a sample, are made.

    Attributes:
        cider: (n,).
        rouge: (n,).
        lengths: (n, 2), words of the caption and of the reference that is closest in length.
        overlaps: (n, 2, 4), for n-grams of one to four words how many there are, and how many a reference has too.
    """

    cider: np.ndarray
    rouge: np.ndarray
    lengths: np.ndarray
    overlaps: np.ndarray

    def measure(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics (R,) of samples in which each caption is there so often (R, n).

        BLEU is no mean over captions: it sums overlaps and lengths first (Papineni et al., section 2.3).
        """
        total = counts.sum(1)
        said, closest = (counts @ self.lengths).T
        there, shared = np.moveaxis(np.tensordot(counts, self.overlaps, 1), 1, 0)  # (R, 4) each
        precision = np.cumsum(np.log((shared + 1e-15) / (there + 1e-9)), 1) / np.arange(1, ORDERS + 1)
        brevity = np.minimum(0, 1 - (closest + 1e-9) / (said + 1e-15))
        bleu = np.exp(precision + brevity[:, None])
        result = {"CIDEr": counts @ self.cider / total}
        result |= {f"BLEU-{order + 1}": bleu[:, order] for order in range(ORDERS)}
        return result | {"ROUGE-L": counts @ self.rouge / total}


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Each caption by itself; how rare a word is for CIDEr comes from all references. As for `caption_metrics`."""
    try:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise MissingExtra("judging captions", "evaluate") from error
    if len(captions) != len(references) or not captions or not all(references):
        raise InvalidSetting(
            f"{len(captions)} captions and {len(references)} pictures with references: one caption for each picture, "
            "and at least one reference"
        )
    found = {number: [words(caption)] for number, caption in enumerate(captions)}
    expected = {number: [words(said) for said in several] for number, several in enumerate(references)}
    _, cider = Cider().compute_score(expected, found)
    _, rouge = Rouge().compute_score(expected, found)
    scorer = BleuScorer(n=ORDERS)
    for number in found:
        scorer += (found[number][0], expected[number])
    lengths = [(row["testlen"], min((abs(n - row["testlen"]), n) for n in row["reflen"])[1]) for row in scorer.ctest]
    overlaps = [(row["guess"], row["correct"]) for row in scorer.ctest]
    return CaptionScores(np.array(cider), np.array(rouge), np.array(lengths, float), np.array(overlaps, float))


def caption_metrics(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """CIDEr (CIDEr-D, arXiv:1411.5726), BLEU-1 to BLEU-4 and ROUGE-L of n captions.

    Args:
        captions: one for each picture.
        references: for each picture what people said, at least once.

    Raises:
        InvalidSetting: their numbers differ, there are none, or a picture has no reference.
        MissingExtra: pycocoevalcap or NLTK is not installed.
    """
    measured = caption_scores(captions, references).measure(np.ones((1, len(captions))))
    return {name: float(value[0]) for name, value in measured.items()}
