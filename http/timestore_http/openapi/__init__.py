"""The OpenAPI 3.1 document: made from the types that validate requests, and from what plugins give."""
