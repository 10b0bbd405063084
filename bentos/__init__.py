"""Service definitions for each role."""
