"""Bytes that a micro-batch needs on one process while it is computed: what autograd keeps, and what comes and goes.

What autograd keeps is counted tensor by tensor, in the order in which the layers keep them; ``tests/planning`` compares
the sum with what real models keep. On a GPU dropout keeps one byte for each element, attention keeps no weights, and
experts keep their weights in 16 bits: that part follows from the code, and has been measured on the CPU only where it
is the same there.

Shape letters used in this file: n tokens of a side, D model dim, F feed-forward dim, E experts, K experts per token,
V words.
"""

from dataclasses import dataclass
from typing import Any

from mmt.criterions.fused_cross_entropy import tokens_per_chunk, tokens_per_softmax
from mmt.distributed.mesh import MeshShape
from mmt.models.build_moe import is_moe_layer

FLOAT, INDEX = 4, 8  # bytes of a number in float32, and of an index


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one process; padding counts as tokens.

    Attributes:
        sentences: how many.
        source_length: tokens of each source sentence.
        target_length: tokens of each target sentence.
    """

    sentences: int
    source_length: int
    target_length: int

    def tokens(self, side: str) -> int:
        """Tokens of the "encoder" or the "decoder"."""
        return self.sentences * (self.source_length if side == "encoder" else self.target_length)


@dataclass(frozen=True)
class ActivationBytes:
    """Bytes of one process beside parameters, gradients and optimizer state.

    Attributes:
        kept: from the forward to the backward pass.
        all_to_all: rows on their way to experts and back, in one layer at a time.
        work: logits of a part of the batch, and the layer that is at work.
    """

    kept: int
    all_to_all: int
    work: int


class Activations:
    """Counts the bytes for one model, batch and mesh.

    Args:
        cfg: the nested configuration of the model (``models.config.nested_config``).
        vocabulary: words, with special ones.
        batch: the micro-batch.
        mesh: the processes.
        bf16: whether matrix products are in 16 bits, as with ``--bf16``.
        on_gpu: whether on a GPU or a CPU.
    """

    def __init__(
        self, cfg: Any, vocabulary: int, batch: Batch, mesh: MeshShape, *, bf16: bool = True, on_gpu: bool = True
    ) -> None:
        self.cfg, self.vocabulary, self.batch, self.mesh = cfg, vocabulary, batch, mesh
        self.bf16, self.on_gpu = bf16, on_gpu
        self.product = 2 if bf16 else FLOAT  # bytes of a number in matrix products

    def count(self) -> ActivationBytes:
        """Add up everything; experts are taken to be equally busy."""
        layers = [
            (side, self.layer(side, is_moe_layer(self.cfg, side, index)))
            for side in ("encoder", "decoder")
            for index in range(getattr(self.cfg, side).layers)
        ]
        largest = max(size for _, size in layers)
        if self.cfg.checkpoint_activations:
            # Only each layer's input stays; the rest comes back for one layer at a time.
            kept = sum(FLOAT * self.batch.tokens(side) * getattr(self.cfg, side).embed_dim for side, _ in layers)
            kept += FLOAT * self.batch.tokens("encoder") * self.cfg.encoder.embed_dim
            work = largest
        else:
            kept = sum(size for _, size in layers) + self._encoder_output()
            work = largest // 4  # gradients of activations, a few tensors at a time
        for side in ("encoder", "decoder"):
            kept += self._embedding(side) + self._final_norm(side)
        return ActivationBytes(
            kept=kept + self._criterion(), all_to_all=self._all_to_all(), work=work + self._criterion_work()
        )

    def layer(self, side: str, has_experts: bool) -> int:
        """Return what one layer keeps."""
        n, width = self.batch.tokens(side), getattr(self.cfg, side).embed_dim
        length = self.batch.source_length if side == "encoder" else self.batch.target_length
        size = self._norm(n, width) + self._attention(side, length, length)
        if side == "decoder":
            size += self._norm(n, width) + self._attention(side, length, self.batch.source_length, is_cross=True)
        return size + self._norm(n, width) + (self._experts(side) if has_experts else self._feed_forward(side))

    def _norm(self, n: int, width: int) -> int:
        """Input, mean and deviation, always in float32."""
        return FLOAT * n * (width + 2)

    def _dropout(self, numbers: int, bytes_each: int, p: float | None = None) -> int:
        """Which numbers stay: a byte each on a GPU; a factor, in the numbers' own type, on a CPU."""
        p = self.cfg.dropout if p is None else p
        return numbers * (1 if self.on_gpu else bytes_each) if p > 0 else 0

    def _weight(self, numbers: int) -> int:
        """The copy of a weight in 16 bits, which autograd keeps."""
        return 2 * numbers if self.bf16 else 0

    def _attention(self, side: str, queries: int, keys: int, is_cross: bool = False) -> int:
        width, heads = getattr(self.cfg, side).embed_dim, getattr(self.cfg, side).attention_heads // self.mesh.tensors
        n, m, own = self.batch.sentences * queries, self.batch.sentences * keys, width // self.mesh.tensors
        key_width = self.cfg.encoder.embed_dim if is_cross else width
        size = self.product * n * width  # the input
        if is_cross and self.bf16:
            size += self.product * m * key_width  # the encoder's output, cast anew in each layer
        size += self.product * (n + 2 * m) * own  # queries, keys, values
        size += self.product * n * own  # the heads' outputs, side by side
        size += self._weight(own * (2 * width + 2 * key_width))
        scores = self.batch.sentences * heads * queries * keys
        if self.on_gpu:
            size += self.product * n * own + FLOAT * self.batch.sentences * heads * queries  # the kernel's output
        else:
            size += FLOAT * scores + (self.product * scores if self.bf16 else 0)
            if self.cfg.attention_dropout > 0:
                size += self._dropout(scores, self.product, self.cfg.attention_dropout)
                size += 0 if self.bf16 else FLOAT * scores
        return size + self._dropout(n * width, self.product)

    def _hidden(self, numbers: int) -> int:
        """Hidden states of a feed-forward network: ReLU keeps its output only, which the next product needs anyway."""
        size = self.product * numbers * (1 if self.cfg.activation_fn == "relu" else 2)
        p = self.cfg.activation_dropout
        return size + (self._dropout(numbers, self.product, p) + self.product * numbers if p > 0 else 0)

    @property
    def _is_grouped(self) -> bool:
        """Whether experts are one grouped product; otherwise they keep nothing but rows and hidden states."""
        return self.on_gpu or self.cfg.activation_fn != "relu"

    def _feed_forward(self, side: str) -> int:
        n, width = self.batch.tokens(side), getattr(self.cfg, side).embed_dim
        hidden = getattr(self.cfg, side).ffn_embed_dim // self.mesh.tensors
        size = self.product * n * width + self._hidden(n * hidden) + self._weight(2 * width * hidden)
        return size + self._dropout(n * width, self.product)

    def _experts(self, side: str) -> int:
        n, width = self.batch.tokens(side), getattr(self.cfg, side).embed_dim
        hidden = getattr(self.cfg, side).ffn_embed_dim // self.mesh.tensors
        rows, experts = n * self.cfg.moe_top_k, self.cfg.moe_experts
        size = FLOAT * n * width  # what the router looks at
        size += self._router(side)
        size += self.product * rows * width  # what goes into the experts
        size += self._hidden(rows * hidden) if self._is_grouped else self.product * rows * hidden
        if self.mesh.experts > 1:
            size += 2 * INDEX * rows  # their order on the way there and back
        if self._is_grouped:
            own_experts = -(-experts // self.mesh.experts)
            size += self._weight(2 * width * hidden * own_experts) + self.product * rows * own_experts
        size += self.product * rows * width  # output of the experts
        return size + self._dropout(n * width, FLOAT)

    def _router(self, side: str) -> int:
        n, k = self.batch.tokens(side), self.cfg.moe_top_k
        units = {"token": n, "sentence": self.batch.sentences}.get(getattr(self.cfg, f"{side}_routing"), 1)
        size = 2 * FLOAT * units * self.cfg.moe_experts  # scores and probabilities
        size += (INDEX + FLOAT) * units * k + FLOAT * n * k + 2 * FLOAT * units  # choices, weights, log-sum-exp
        return size + (2 * FLOAT * units * k if k > 1 else 0)

    def _embedding(self, side: str) -> int:
        n, width = self.batch.tokens(side), getattr(self.cfg, side).embed_dim
        size = INDEX * n + self._dropout(n * width, FLOAT)
        if self.mesh.tensors > 1:
            size += n  # which words are here
        return size + (FLOAT * n if side == "encoder" else 0)  # the mask of padding

    def _final_norm(self, side: str) -> int:
        of_side = getattr(self.cfg, side)
        has_norm = of_side.normalize_before and not (side == "decoder" and self.cfg.no_decoder_final_norm)
        return self._norm(self.batch.tokens(side), of_side.embed_dim) if has_norm else 0

    def _encoder_output(self) -> int:
        """In float32 it is the same for all layers of the decoder; in 16 bits each has its own (see ``_attention``)."""
        return FLOAT * self.batch.tokens("encoder") * self.cfg.encoder.embed_dim if not self.bf16 else 0

    def _criterion(self) -> int:
        """Gradients of features and of the output projection, which the criterion forms in the forward pass."""
        n, width = self.batch.tokens("decoder"), self.cfg.decoder.embed_dim
        return n + FLOAT * n * width + FLOAT * -(-self.vocabulary // self.mesh.tensors) * width

    def _criterion_work(self) -> int:
        words = -(-self.vocabulary // self.mesh.tensors)
        n, width = self.batch.tokens("decoder"), self.cfg.decoder.embed_dim
        scored = tokens_per_softmax(words, on_gpu=self.on_gpu, is_split=self.mesh.tensors > 1)
        logits = min(tokens_per_chunk(words), n) * self.product + 2 * FLOAT * min(scored, n)
        # The projection's weight in 16 bits, and its gradient of one part of the batch in both types.
        return words * (logits + width * (self.product + self.product + FLOAT))

    def _all_to_all(self) -> int:
        """Rows before and after their journey, there or back."""
        if self.mesh.experts == 1 or self.cfg.moe_experts == 0:
            return 0
        rows = max(
            self.batch.tokens(side) * getattr(self.cfg, side).embed_dim
            for side in ("encoder", "decoder")
            if getattr(self.cfg, f"{side}_routing") != "dense"
        )
        return 2 * self.product * rows * self.cfg.moe_top_k
