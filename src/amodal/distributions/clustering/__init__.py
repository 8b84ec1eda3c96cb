"""Clustering: k-means and Dirichlet-process mixtures."""
