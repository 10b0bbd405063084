"""Functions as lists of JAX primitives: what is known of them, rewritten, and run."""
