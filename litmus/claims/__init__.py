"""The claims of the founding documents, each put to a declared test: protocols, experiments, records, report."""
