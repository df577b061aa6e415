"""Parallel text for multilingual translation: one program per step, each usable alone.

``fetch -> extract -> clean -> deduplicate -> split -> train_spm -> binarize``; ``python -m data_prep.run`` runs them in
order. Every step reads files and writes files, skips what is finished, and says in ``<output>.stats.json`` what it
read, kept and dropped. This package imports nothing of ``mmt``.
"""
