"""Static limits: Bayes-optimal estimation, empirical risk minimisation, message passing."""
