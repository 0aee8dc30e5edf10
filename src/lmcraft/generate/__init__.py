"""Turning a model into text and scores."""
