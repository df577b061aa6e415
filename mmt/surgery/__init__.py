"""From checkpoint to checkpoint."""
