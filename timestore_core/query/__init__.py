"""From a request to its bytes: request, plan, SQL, engine."""
