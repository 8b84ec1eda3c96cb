"""Conditional and unconditional distances between laws by their characteristic functions."""

from amodal.losses.characteristic_function.loss import conditional_cf_loss

__all__ = ["conditional_cf_loss"]
