"""Reinforcement learning from a reward: sampling, credit, the clipped objective, the distance to a reference."""
