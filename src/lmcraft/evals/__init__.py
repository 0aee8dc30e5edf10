"""Measurements of models, one file each."""
