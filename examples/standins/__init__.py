"""Stand-ins of models' providers: local servers that speak their wire formats."""
