"""Trained weights that ship with the gateway, and how they are read."""
