"""What every room uses and that knows nothing of models: files, progress, threads, spelling, hashes."""
