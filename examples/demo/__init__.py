"""The whole way on one machine: train, convert, build, serve, predict privately, compare, look who saw what."""
