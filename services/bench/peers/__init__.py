"""Other implementations, run by an interpreter that has them: nothing here imports this project."""
