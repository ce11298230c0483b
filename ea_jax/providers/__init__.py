"""Embedding APIs: OpenAI-compatible endpoints, and the files of OpenAI's Batch API."""
