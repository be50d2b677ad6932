"""From measurements to scaling laws to plans; never imports jax."""
