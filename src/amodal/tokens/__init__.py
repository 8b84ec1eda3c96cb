"""Tokens between an encoder's embedding and its trunk: masks, hiding, latent prediction."""
