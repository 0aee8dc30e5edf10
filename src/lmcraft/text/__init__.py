"""Tokenizers and conversation templates."""
