"""Gaussians with diagonal covariance: divergences, products and mixtures of experts."""
