"""What bridge_evaluate is made of: cases by suite, the rulers that judge them, the scores and the report."""
