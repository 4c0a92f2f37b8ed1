"""What listens or loops: one module a service, under its word."""
