"""The secure runner: a BentoML service that answers batches through a session of party processes."""
