"""Gaussian mixtures: densities, margins, quantiles, draws, fits."""
