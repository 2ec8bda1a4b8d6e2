"""The administrative API: for operators, behind the admin scope."""
