"""Schedules by control: greedy and optimal rates, batches and decay, and runs under them."""
