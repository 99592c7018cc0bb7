"""What is looked at after training, beside the tasks."""
