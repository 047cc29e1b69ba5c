"""How an operator runs: its record, the call's checks and plan, the choice of a backend, the compiled libraries."""
