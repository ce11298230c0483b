"""Source encoders: one file a family, each a Flax module, its configuration and its weight map."""
