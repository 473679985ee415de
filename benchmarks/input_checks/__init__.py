"""False alarms and misses of the input checks."""
