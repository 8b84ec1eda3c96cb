"""Who is absent, and why."""
