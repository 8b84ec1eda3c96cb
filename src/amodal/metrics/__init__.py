"""Metrics: functions of predictions and targets, with intervals and paired comparisons."""
