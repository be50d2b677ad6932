"""Train vision models and measure them; see README.md."""
