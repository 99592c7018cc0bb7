"""What is measured: held-out rows, skills, choices, text, the probe, tasks of lm-eval."""
