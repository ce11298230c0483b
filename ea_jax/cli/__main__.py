"""`python -m ea_jax.cli` is `ea-jax`."""

from ea_jax.cli import main

main()
