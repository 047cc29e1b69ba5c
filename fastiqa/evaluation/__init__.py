"""Agreement with people: 2AFC on triplets, correlations on rated images, gMAD, file comparison, labelling metrics."""
