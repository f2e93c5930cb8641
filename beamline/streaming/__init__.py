"""Ray queues, inference and the way from Q2 to documents; Ray is imported when it is used."""
