"""The parts of stack/deploy: what it is told, what it checks before, how it deploys, and how it watches. Python's own
library is all it needs, and Docker's client."""
