"""The whole way on one machine: train, convert, build, serve, predict privately, look who saw what."""
