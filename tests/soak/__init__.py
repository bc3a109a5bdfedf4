"""Servers that others wrote, under load for as long as one likes: ``python -m soak``."""
