"""The ports, implemented: on SQLite and in memory. Only ``assembly`` knows which is used."""
