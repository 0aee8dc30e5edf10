"""Rewards: what an answer is worth, as a number; one file for each kind."""
