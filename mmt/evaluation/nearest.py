"""Find the training sentence that is most similar to a query: TF-IDF over character n-grams, with sparse matrices.

Letters of shapes: C characters of all texts together, N n-grams of all texts together, Q queries, R training sentences.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

# Two and three characters, spaces included: they find inflected words, and the short words of scripts without spaces.
# On software50 they give a better translation than whole words (by 2 chrF++ for English, 12 for Japanese) and than
# n-grams up to four or five characters (by 0.5 to 1).
ORDERS = (2, 3)
NUM_BUCKETS = 1 << 20
# n-grams in more than this share of the sentences cost most of the time, and change next to nothing.
MAX_SHARE = 0.2
QUERIES_AT_ONCE = 64
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def _ngrams(texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the distinct n-grams of each text: numbers of texts ``(N,)``, in order, and hashes ``(N,)``."""
    # Each text begins and ends with a space, so that beginnings and ends of words are n-grams of their own.
    padded = [f" {text.lower()} " for text in texts]
    codes_C = np.frombuffer("".join(padded).encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32).astype(
        np.uint64
    )
    text_C = np.repeat(np.arange(len(padded)), [len(text) for text in padded])
    found = []
    for order in ORDERS:
        size = len(codes_C) - order + 1
        if size <= 0:
            continue
        hash_N = np.full(size, order, dtype=np.uint64)
        for offset in range(order):
            hash_N = (hash_N + codes_C[offset : offset + size] + np.uint64(1)) * _MULTIPLIER
            hash_N ^= hash_N >> np.uint64(29)
        inside_N = text_C[:size] == text_C[order - 1 :]
        key_N = text_C[:size].astype(np.int64) * NUM_BUCKETS + (hash_N % np.uint64(NUM_BUCKETS)).astype(np.int64)
        found.append(key_N[inside_N])
    keys_N = np.concatenate([np.empty(0, dtype=np.int64), *found])
    keys_N.sort()
    keys_N = keys_N[np.diff(keys_N, prepend=-1) > 0]
    return keys_N // NUM_BUCKETS, keys_N % NUM_BUCKETS


class NearestSentences:
    """An index of training sentences.

    Args:
        sentences: the training side that queries are compared with.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        text_N, bucket_N = _ngrams(sentences)
        frequency = np.bincount(bucket_N, minlength=NUM_BUCKETS)
        idf = np.log((1 + len(sentences)) / (1 + frequency)) + 1
        self._idf = np.where(frequency <= max(MAX_SHARE * len(sentences), 1), idf, 0).astype(np.float32)
        useful_N = self._idf[bucket_N] > 0
        text_N, bucket_N = text_N[useful_N], bucket_N[useful_N]
        weight_N = self._idf[bucket_N]
        norm_R = np.sqrt(np.bincount(text_N, weights=weight_N.astype(np.float64) ** 2, minlength=len(sentences)))
        weight_N = (weight_N / np.maximum(norm_R, 1e-9)[text_N]).astype(np.float32)
        # One row for each n-gram: the sentences that have it.
        self._index = csr_matrix((weight_N, (bucket_N, text_N)), shape=(NUM_BUCKETS, len(sentences)))

    def find(self, queries: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the number of the sentence with the highest cosine to each query ``(Q,)``; of equals, the first."""
        found = [
            self._find(queries[start : start + QUERIES_AT_ONCE]) for start in range(0, len(queries), QUERIES_AT_ONCE)
        ]
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def _find(self, queries: Sequence[str]) -> npt.NDArray[np.int64]:
        text_N, bucket_N = _ngrams(queries)
        # The norm of the query does not change which sentence is nearest.
        query_matrix = csr_matrix((self._idf[bucket_N], (text_N, bucket_N)), shape=(len(queries), NUM_BUCKETS))
        query_matrix.eliminate_zeros()
        similarity_QR = (query_matrix @ self._index).toarray()
        return similarity_QR.argmax(axis=1)
