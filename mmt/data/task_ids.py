"""What a task router looks up: the target language, the source language, or the pair of both (Kudugunta et al. 2021,
section 3).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmt.errors import UserError

TASK_ID_KINDS = ("target", "source", "pair")


class TaskIds(nn.Module):
    """Map language indices to task ids.

    Args:
        kind: "target", "source" or "pair".
        languages: the ordered languages of the model.
        pairs: the trained directions, such as "en-de"; with kind "pair" each is a task of its own, in sorted order, and
            other pairs have none.

    Raises:
        UserError: if ``kind`` is unknown.
    """

    task_of_pair: Tensor

    def __init__(self, kind: str, languages: Sequence[str], pairs: Sequence[str]) -> None:
        super().__init__()
        if kind not in TASK_ID_KINDS:
            raise UserError(f"--moe-task-id must be one of {', '.join(TASK_ID_KINDS)}, but is {kind!r}")
        self.kind = kind
        self.languages = list(languages)
        pairs = sorted(set(pairs)) if kind == "pair" else []
        self.num_tasks = len(pairs) if kind == "pair" else len(languages)
        table = torch.full((len(languages), len(languages)), -1, dtype=torch.long)
        for task, pair in enumerate(pairs):
            source, target = pair.split("-")
            table[self.languages.index(source), self.languages.index(target)] = task
        # Part of the checkpoint: which pair is which task must not depend on the --lang-pairs of a later command.
        self.register_buffer("task_of_pair", table, persistent=kind == "pair")

    def __len__(self) -> int:
        return self.num_tasks

    def forward(self, source_B: Tensor, target_B: Tensor) -> Tensor:
        """Return the task id of each sentence, ``(B,)``.

        Args:
            source_B: index of each sentence's source language, ``(B,)``.
            target_B: index of each sentence's target language, ``(B,)``.

        Raises:
            UserError: with kind "pair", for a pair that was not trained.
        """
        if self.kind == "target":
            return target_B
        if self.kind == "source":
            return source_B
        task_B = self.task_of_pair[source_B, target_B]
        if task_B.numel() and int(task_B.min()) < 0:
            row = int(task_B.argmin())
            known = [self._name(source, target) for source, target in (self.task_of_pair >= 0).nonzero()]
            raise UserError(
                f"--moe-task-id pair knows only the trained pairs, and {self._name(source_B[row], target_B[row])} is "
                f"not among them: {', '.join(known)}"
            )
        return task_B

    def _name(self, source: Tensor, target: Tensor) -> str:
        return f"{self.languages[int(source)]}-{self.languages[int(target)]}"
