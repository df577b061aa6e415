"""The ``mmt`` command: one thin module per verb."""
