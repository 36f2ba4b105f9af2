"""A policy version as a folder that stands alone: the model, its card, and what it was made by."""
