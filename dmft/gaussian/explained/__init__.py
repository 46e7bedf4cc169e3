"""What listens to the calculus: steps as the rules announce them, and proofs of table entries."""
