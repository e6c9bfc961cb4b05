"""One decode step: candidates, choice, reading, widening; on one device or on several."""
