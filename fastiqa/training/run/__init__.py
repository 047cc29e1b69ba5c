"""The trainer: builds a run, cuts and reads batches, updates, validates, logs, and resumes from checkpoints."""
