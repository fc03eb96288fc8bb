"""Measuring: speed, start and memory of a model here, beside what the machine can do."""
