"""Source encoders as Flax modules: one file an architecture, with its configuration and its weight map."""
