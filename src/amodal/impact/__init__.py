"""What could a missing modality still change? Variability, plausible labels, bias, acquisition."""
