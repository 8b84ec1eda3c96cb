"""Densities and how they combine."""
