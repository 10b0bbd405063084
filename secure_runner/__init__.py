"""Secure inference for BentoML: predictions computed between organisations under multi-party computation."""
