"""Error bars, paired differences and verdicts."""
