"""What the RFCs say about mail itself. Pure: no I/O, no clock."""
