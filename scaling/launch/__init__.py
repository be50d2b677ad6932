"""Many runs of vit_jax from one config: what `scaling.sweep` plans, starts and watches."""
