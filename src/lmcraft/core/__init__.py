"""Configuration, runs, errors and progress: what every other part stands on."""
