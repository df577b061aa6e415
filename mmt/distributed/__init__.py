"""Training on many processes: who holds what, and what travels between them."""
