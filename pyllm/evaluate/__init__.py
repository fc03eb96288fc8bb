"""Answering sets of questions, and how many answers are right."""
