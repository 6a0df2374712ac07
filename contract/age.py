"""How long ago a behaviour was, as a bucket: each is twice as long as the one before."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

AGE_ROWS: Final = 33  # 0 = padding, then 1 + floor(log2(age)) of ages up to 2^32 - 1 seconds: 1..32
MAX_AGE_BUCKET: Final = AGE_ROWS - 1


def age_buckets(age: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `1 + floor(log2(max(1, age)))` on integers, capped; `age` in seconds, any shape."""
    return buckets_of_floats(age.astype(np.float64))


def buckets_of_floats(age: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the buckets of whole seconds below 2^53; `age` is written to."""
    # frexp's exponent is the bit length of such a number, exactly: no rounding at powers of two
    bits = np.frexp(np.maximum(age, 1.0, out=age))[1]
    return np.minimum(bits, MAX_AGE_BUCKET, out=bits).astype(np.int64)
