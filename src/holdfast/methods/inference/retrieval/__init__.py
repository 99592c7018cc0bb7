"""What is looked up before an answer: documents, an index of them, and graphs of facts."""
