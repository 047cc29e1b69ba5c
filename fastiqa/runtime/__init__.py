"""How an operator runs: record, checks and plan of a call, choice of a backend, compiled libraries."""
