"""Is a model as often right as it is sure?

Two numbers of predictions that come with a probability. The expected calibration error compares how sure the model was
with how often it was right; the Brier score asks for sharpness as well. Neither says how good the predictions are: a
model that always answers with the frequency of being right is calibrated.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

BINS = 15  # as in Guo et al.


def calibration_error(confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], *, bins: int = BINS) -> float:
    """The expected calibration error over bins ((b − 1) / bins, b / bins] of equal width,

        ECE = Σ_b n_b / n · |accuracy_b − confidence_b|

    accuracy_b and confidence_b are means over the n_b predictions of a bin.

    Args:
      confidence: probabilities of what was predicted, in [0, 1].
      right: whether it was true.

    Returns:
      0 … 1; 0 is calibrated.

    Source: Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    # n_b · (accuracy_b − confidence_b) is the sum of what is right, less that of how sure it was
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def brier_score(probabilities: Float[np.ndarray, "n k"], label: Int[np.ndarray, "n"]) -> float:
    """The mean over predictions of Σ_c (p_c − [c is true])².

    Args:
      probabilities: of k classes that exclude one another.
      label: the true one of them.

    Returns:
      0 … 2; 0 is certain and right. Always p = 1/k gives 1 − 1/k.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    of_true = np.take_along_axis(probabilities, label[:, None], axis=1)[:, 0]
    return float((np.square(probabilities).sum(axis=1) - 2 * of_true + 1).mean())
