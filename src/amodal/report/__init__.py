"""Results as one self-contained page: sections, figures with their numbers, words."""
