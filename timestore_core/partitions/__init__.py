"""One partition file: how it is named, written, verified and scanned."""
