"""What the drivers of remote stores share: fsspec, with time limits, retries, and errors that hold no secret."""
