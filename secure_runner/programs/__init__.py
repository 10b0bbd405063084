"""Programs: compiled executables and their manifest, and the two BentoML models they are kept in."""
