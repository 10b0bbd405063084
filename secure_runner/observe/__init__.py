"""What operators see: audit log, metrics, traces and structured logs. None of it ever holds a value."""
