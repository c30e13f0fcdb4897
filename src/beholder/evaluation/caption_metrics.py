"""Caption metrics: CIDEr, BLEU and ROUGE-L.

The scores are those of pycocoevalcap. Its PTB tokenizer is a Java program, so captions are tokenized by NLTK's treebank
tokenizer instead, and the same punctuation is removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra

# pycocoevalcap's list, and the forms in which NLTK returns the same marks.
PUNCTUATION = {"''", "'", "``", "`", '"', "(", ")", "{", "}", "[", "]", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
ORDERS = 4  # BLEU-1 to BLEU-4


def tokenize_caption(caption: str) -> str:
    """Return the caption in lower case, without punctuation, its words separated by spaces."""
    try:
        from nltk.tokenize import TreebankWordTokenizer
    except ImportError as error:
        raise MissingExtra("caption metrics", "evaluate") from error
    split = TreebankWordTokenizer().tokenize(caption.lower())
    parts = [part.rstrip(".") if len(part) > 1 else part for part in split]  # a period inside the text
    return " ".join(part for part in parts if part and part not in PUNCTUATION)


@dataclass(frozen=True, eq=False)
class CaptionScores:
    """Statistics per caption, from which the metrics of any sample of n captions follow.

    Attributes:
        cider: (n,).
        rouge: (n,).
        lengths: (n, 2), number of words of the caption and of the reference closest in length.
        overlaps: (n, 2, 4), for each n-gram size 1 to 4 the number of n-grams, and of those found in a reference.
    """

    cider: np.ndarray
    rouge: np.ndarray
    lengths: np.ndarray
    overlaps: np.ndarray

    def measure(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Return the metrics (R,) of samples, given how often each caption occurs in them (R, n).

        BLEU is not a mean over captions: it sums overlaps and lengths first (Papineni et al., section 2.3).
        """
        total = counts.sum(1)
        length, closest = (counts @ self.lengths).T
        ngrams, shared = np.moveaxis(np.tensordot(counts, self.overlaps, 1), 1, 0)  # (R, 4) each
        precision = np.cumsum(np.log((shared + 1e-15) / (ngrams + 1e-9)), 1) / np.arange(1, ORDERS + 1)
        brevity = np.minimum(0, 1 - (closest + 1e-9) / (length + 1e-15))
        bleu = np.exp(precision + brevity[:, None])
        result = {"CIDEr": counts @ self.cider / total}
        result |= {f"BLEU-{order + 1}": bleu[:, order] for order in range(ORDERS)}
        return result | {"ROUGE-L": counts @ self.rouge / total}


def score_captions(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Return the statistics of each caption; CIDEr's document frequencies come from all references.

    Arguments and errors as for `caption_metrics`.
    """
    try:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise MissingExtra("caption metrics", "evaluate") from error
    if len(captions) != len(references) or not captions or not all(references):
        raise InvalidSetting(
            f"{len(captions)} captions and {len(references)} lists of references: one caption per picture, and at "
            "least one reference"
        )
    generated = {number: [tokenize_caption(caption)] for number, caption in enumerate(captions)}
    expected = {number: [tokenize_caption(reference) for reference in group] for number, group in enumerate(references)}
    _, cider = Cider().compute_score(expected, generated)
    _, rouge = Rouge().compute_score(expected, generated)
    scorer = BleuScorer(n=ORDERS)
    for number in generated:
        scorer += (generated[number][0], expected[number])
    lengths = [(row["testlen"], min((abs(n - row["testlen"]), n) for n in row["reflen"])[1]) for row in scorer.ctest]
    overlaps = [(row["guess"], row["correct"]) for row in scorer.ctest]
    return CaptionScores(np.array(cider), np.array(rouge), np.array(lengths, float), np.array(overlaps, float))


def caption_metrics(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return CIDEr (CIDEr-D, arXiv:1411.5726), BLEU-1 to BLEU-4 and ROUGE-L of n captions.

    Args:
        captions: one per picture.
        references: the human captions of each picture, at least one.

    Raises:
        InvalidSetting: the numbers differ, there are none, or a picture has no reference.
        MissingExtra: pycocoevalcap or NLTK is not installed.
    """
    measured = score_captions(captions, references).measure(np.ones((1, len(captions))))
    return {name: float(value[0]) for name, value in measured.items()}
