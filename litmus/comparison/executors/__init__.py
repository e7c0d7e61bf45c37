"""Executors run the trials of a comparison; each has `run_trials(specs, folder, jobs=..., on_event=...)`."""
