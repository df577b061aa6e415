"""Find the training sentence that is most similar to a query: TF-IDF over character n-grams, with sparse matrices.

Letters of shapes: C characters of all texts together, N n-grams of all texts together, Q queries, R training sentences
of a part.
"""

from collections.abc import Sequence
from functools import lru_cache

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
# What is searched at a time: 100 characters of a sentence take some 10 kB, so this about 2 GB.
PART = 200_000
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


def nearest_sentences(
    queries: Sequence[str], sentences: Sequence[str], *, part_size: int = PART
) -> npt.NDArray[np.int64]:
    """Return the number of the sentence with the highest cosine to each query ``(Q,)``; of equals, the first.

    Args:
        queries: what is looked for.
        sentences: the training side that it is compared with, one at least.
        part_size: how many sentences are searched at a time, which takes the most memory.
    """
    parts = [sentences[start : start + part_size] for start in range(0, len(sentences), part_size)]

    @lru_cache(maxsize=1)  # looked at twice, at once if there is one part
    def ngrams(part: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return _ngrams(parts[part])

    frequency = sum(np.bincount(ngrams(part)[1], minlength=NUM_BUCKETS) for part in range(len(parts)))
    idf = np.log((1 + len(sentences)) / (1 + frequency)) + 1
    idf = np.where(frequency <= max(MAX_SHARE * len(sentences), 1), idf, 0).astype(np.float32)
    found_Q = np.zeros(len(queries), dtype=np.int64)
    cosine_Q = np.full(len(queries), -1, dtype=np.float32)
    for part in range(len(parts)):
        index = _index(*ngrams(part), idf, len(parts[part]))
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            similarity_QR = _similarity(queries[start : start + QUERIES_AT_ONCE], index, idf)
            best_Q, cosine = similarity_QR.argmax(axis=1), similarity_QR.max(axis=1)
            here = slice(start, start + len(best_Q))
            is_better_Q = cosine > cosine_Q[here]
            found_Q[here] = np.where(is_better_Q, best_Q + part * part_size, found_Q[here])
            cosine_Q[here] = np.where(is_better_Q, cosine, cosine_Q[here])
    return found_Q


def _index(
    text_N: npt.NDArray[np.int64], bucket_N: npt.NDArray[np.int64], idf: npt.NDArray[np.float32], num_texts: int
) -> csr_matrix:
    """Return the weights of all n-grams, ``(NUM_BUCKETS, R)``: one row for each n-gram, the sentences that have it."""
    useful_N = idf[bucket_N] > 0
    text_N, bucket_N = text_N[useful_N], bucket_N[useful_N]
    weight_N = idf[bucket_N]
    norm_R = np.sqrt(np.bincount(text_N, weights=weight_N.astype(np.float64) ** 2, minlength=num_texts))
    weight_N = (weight_N / np.maximum(norm_R, 1e-9)[text_N]).astype(np.float32)
    return csr_matrix((weight_N, (bucket_N, text_N)), shape=(NUM_BUCKETS, num_texts))


def _similarity(queries: Sequence[str], index: csr_matrix, idf: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return cosines ``(Q, R)``, but for the norm of the query, which does not change which sentence is nearest."""
    text_N, bucket_N = _ngrams(queries)
    query_matrix = csr_matrix((idf[bucket_N], (text_N, bucket_N)), shape=(len(queries), NUM_BUCKETS))
    query_matrix.eliminate_zeros()
    return (query_matrix @ index).toarray()
