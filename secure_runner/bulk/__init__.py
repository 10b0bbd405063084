"""Files of rows scored through a data owner's service, in chunks, resumable."""
