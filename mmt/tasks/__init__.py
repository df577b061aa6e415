"""Tasks; importing this package registers them."""

from mmt.tasks import multilingual_moe_translation

__all__ = ["multilingual_moe_translation"]
