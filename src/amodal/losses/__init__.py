"""Losses: functions that return one value per sample, and the only masked reductions."""
