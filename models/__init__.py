"""Tokeniser, encoder, heads, training, saved models and inference. Imports ``schemas`` only, never ``streams``."""
