"""What the pages say is there, and what they show as code runs."""

import re
from pathlib import Path

import mmt  # noqa: F401  (its workarounds must be in place before fairseq is used)
import pytest
import torch
from mmt.modules.routing import TokenContext

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/*.md")), *sorted(REPOSITORY.glob("recipes/*/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_example_of_a_router_works() -> None:
    text = (REPOSITORY / "docs" / "add_a_router.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert code is not None
    namespace: dict[str, type] = {}
    exec(code[1], namespace)  # the page's own code
    router = namespace["CosineRouter"](model_dim=8, num_experts=4, top_k=2)
    x_TD = torch.randn(5, 8)
    context = TokenContext(is_padding_T=None, sentence_T=torch.zeros(5, dtype=torch.long), num_sentences=1)

    routing, of_longer = router(x_TD, context), router(10 * x_TD, context)

    assert routing.expert_TK.shape == routing.weight_TK.shape == (5, 2)
    torch.testing.assert_close(of_longer.logits_UE, routing.logits_UE)
