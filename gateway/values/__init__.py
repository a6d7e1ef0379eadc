"""Frozen values that travel along the main path; standard library only."""
