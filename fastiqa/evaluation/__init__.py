"""How well a network or metric agrees with people: 2AFC, correlations, tables, gMAD competitions, scorers."""
