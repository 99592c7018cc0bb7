"""The contracts: what a curator, objective, tuner, optimizer, inference method, judge and engine must do; and their names."""
