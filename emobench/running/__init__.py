"""Carrying out a config."""
