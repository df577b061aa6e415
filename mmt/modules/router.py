"""Routers: what is looked at to choose experts (Kudugunta et al. 2021, section 3).

A router is a module whose ``forward(x_TD, context)`` returns a ``Routing``. The layer shows it real tokens only, so a
router knows nothing of padding. It computes in float32 whatever the model's precision, since rounding in the softmax
makes training unstable (Fedus et al. 2021, section 2.4), and it does nothing at random in evaluation.
"""

import torch
from torch import Tensor, nn

from mmt.modules.routing import Routing, TokenContext, choose_top_k, count_each


class TokenRouter(nn.Module):
    """Send each token to the experts that its own state scores best.

    Args:
        model_dim: D.
        num_experts: E.
        top_k: experts per token.
        input_jitter: in training the input is multiplied by random factors from
            ``[1 - input_jitter, 1 + input_jitter]``.

    Raises:
        ValueError: if ``top_k`` is not between 1 and ``num_experts``, or ``input_jitter`` not between 0 and 1.
    """

    def __init__(self, model_dim: int, num_experts: int, top_k: int, *, input_jitter: float = 0.0) -> None:
        super().__init__()
        _check_top_k(top_k, num_experts)
        if not 0.0 <= input_jitter < 1.0:
            raise ValueError(f"--moe-input-jitter must be at least 0 and below 1, but is {input_jitter}.")
        self.top_k = top_k
        self.input_jitter = input_jitter
        self.gate = nn.Linear(model_dim, num_experts, bias=False)

    def forward(self, x_TD: Tensor, context: TokenContext) -> Routing:
        """Route ``x_TD`` ``(T, D)``."""
        return choose_top_k(self.score(x_TD), self.top_k)

    def score(self, x_UD: Tensor) -> Tensor:
        """Return float32 logits ``(U, E)`` of units with states ``x_UD``."""
        with torch.autocast(x_UD.device.type, enabled=False):
            x_UD = x_UD.float()
            if self.training and self.input_jitter > 0:
                x_UD = x_UD * torch.empty_like(x_UD).uniform_(1.0 - self.input_jitter, 1.0 + self.input_jitter)
            return x_UD @ self.gate.weight.float().t()


class SentenceRouter(TokenRouter):
    """Send all tokens of a sentence to the same experts, chosen by the mean of the sentence's states.

    In a decoder the mean of its own tokens would tell the past about the future, so there it is the mean of the
    encoder's states (``context.sentence_state_BD``). Arguments are those of ``TokenRouter``.
    """

    def forward(self, x_TD: Tensor, context: TokenContext) -> Routing:
        """Route ``x_TD`` ``(T, D)``; in a decoder it is not looked at."""
        if context.sentence_T is None:
            raise ValueError("sentence routing needs context.sentence_T, the sentence of each token")
        state_BD = context.sentence_state_BD
        if state_BD is None:
            state_BD = mean_of_sentences(x_TD, context.sentence_T, context.num_sentences)
        return choose_top_k(self.score(state_BD), self.top_k, unit_T=context.sentence_T)


class TaskRouter(nn.Module):
    """Send all tokens of a task to the same experts, whatever the text.

    A gate over learned task embeddings. Since nothing else is looked at, the experts of a task are known without any
    text, and a task can be cut out as a model of its own.

    Args:
        model_dim: D, the size of the task embeddings.
        num_experts: E.
        top_k: experts per task.
        num_tasks: number of tasks.

    Raises:
        ValueError: if ``top_k`` is not between 1 and ``num_experts``.
    """

    def __init__(self, model_dim: int, num_experts: int, top_k: int, *, num_tasks: int) -> None:
        super().__init__()
        _check_top_k(top_k, num_experts)
        self.top_k = top_k
        self.task_embedding = nn.Embedding(num_tasks, model_dim)
        self.gate = nn.Linear(model_dim, num_experts, bias=False)

    def forward(self, x_TD: Tensor, context: TokenContext) -> Routing:
        """Route ``x_TD`` ``(T, D)`` by ``context.task_id_B``."""
        if context.task_id_B is None or context.sentence_T is None:
            raise ValueError(
                "task routing needs context.task_id_B, the task of each sentence, and context.sentence_T, "
                "the sentence of each token"
            )
        return choose_top_k(self.score_tasks(), self.top_k, unit_T=context.task_id_B[context.sentence_T])

    def score_tasks(self) -> Tensor:
        """Return the float32 logits of all tasks, ``(tasks, E)``."""
        with torch.autocast(self.gate.weight.device.type, enabled=False):
            return self.task_embedding.weight.float() @ self.gate.weight.float().t()


def mean_of_sentences(x_TD: Tensor, sentence_T: Tensor, num_sentences: int) -> Tensor:
    """Return the mean state of each sentence, ``(B, D)`` in float32; zeros for a sentence without tokens."""
    x_TD = x_TD.float()
    zeros_BD = x_TD.new_zeros(num_sentences, x_TD.size(1))
    if x_TD.is_cuda:
        # There index_add adds in another order every time, as index_put does on CPUs.
        sums_BD = zeros_BD.index_put((sentence_T,), x_TD, accumulate=True)
    else:
        sums_BD = zeros_BD.index_add(0, sentence_T, x_TD)
    counts_B = count_each(sentence_T, num_sentences)
    return sums_BD / counts_B.clamp(min=1)[:, None]


def _check_top_k(top_k: int, num_experts: int) -> None:
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"--moe-top-k must be between 1 and --moe-experts ({num_experts}), but is {top_k}.")
