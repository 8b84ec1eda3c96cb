"""Joint laws of several vectors: mixture margins coupled by a copula."""
