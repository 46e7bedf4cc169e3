"""Floor 6: verbs that span floors."""
