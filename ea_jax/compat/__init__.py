"""Adapters of the embedding-adapters package: its public list, its checkpoints, and their import."""
