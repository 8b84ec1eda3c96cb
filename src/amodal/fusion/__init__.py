"""Present embeddings to one."""
