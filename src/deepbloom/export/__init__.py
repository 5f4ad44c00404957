"""Files for use elsewhere, and their use here."""
