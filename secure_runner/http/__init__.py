"""HTTP at the data owner: from a request to the runner and back."""
