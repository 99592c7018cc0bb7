"""One run as a sentence, several runs, and every verb without its command line."""
