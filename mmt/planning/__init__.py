"""What fits on a cluster, and how fast it would be, worked out on one processor."""
