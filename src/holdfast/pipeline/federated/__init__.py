"""Federated training, simulated on one machine: clients with rows of their own, and what travels between them."""
