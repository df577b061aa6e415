"""Judging a model: scores of all directions, baselines, comparisons."""
