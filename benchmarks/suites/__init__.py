"""The suites of a benchmark run; each gives records."""
