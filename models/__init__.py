"""Tokeniser, encoder, heads, training, checkpoints and inference. Imports ``schemas`` only, never ``streams``."""
