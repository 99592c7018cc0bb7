"""What is to be had: base models, and data sets, each with a description by which it is found."""
