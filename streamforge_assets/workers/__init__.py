"""Workers: short-lived jobs that talk to everything else over the event bus."""
