"""What is kept of a page, and what that proves: every formula a proof rests on, once."""
