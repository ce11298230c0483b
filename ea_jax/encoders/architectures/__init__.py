"""Source encoders as Flax modules: one file for each architecture, with its configuration and its weight names."""
